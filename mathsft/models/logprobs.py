"""log p(token | the tokens before it): the one score, for training, evaluation and reports.

One pass of a model over a token forest (`mathsft.models.forest`) gives the log-probability of
each scored token. Only the positions that predict a scored token are projected onto the
vocabulary. A position from which several sequences continue is projected once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from mathsft.models.attention import attention_inputs
from mathsft.models.distributions import ScoredLogits, ScoredTop, over_logits
from mathsft.models.projection import TokenLogprobs, has_plain_head
from mathsft.models.sharding import whole


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of N whole sequences: ``sum`` and ``mean`` (N,), and a reference's."""

    sum: Tensor
    mean: Tensor
    reference: "Scores | None" = None


@dataclass(frozen=True)
class SequenceLogprobs:
    """Log-probabilities in nats, float32, of T scored tokens in S sequences.

    ``values`` (T,); ``sequence`` (T,), the sequence that each token belongs to; ``tokens`` (S,),
    how many scored tokens each sequence has. A token that several sequences share appears once
    for each of them.

    ``reference`` holds the same tokens under a second model, ``old`` under the model that sampled
    them; both are None if the objective did not request them. ``hidden`` (S, H) is the hidden
    state before each sequence's last token, and ``value`` is the value head's output for it.
    """

    values: Tensor
    sequence: Tensor
    tokens: Tensor
    reference: "SequenceLogprobs | None" = None
    old: "SequenceLogprobs | None" = None
    hidden: Tensor | None = None
    value: Tensor | None = None
    likeliest: Tensor | None = field(default=None, repr=False)
    _logits: ScoredLogits | ScoredTop | None = field(default=None, repr=False)

    @cached_property
    def sum(self) -> Tensor:
        """(S,) the total log-probability of each sequence's scored tokens; 0 if it has none."""
        return self.over_sequences(self.values)

    @property
    def mean(self) -> Tensor:
        """(S,) `sum` divided by the number of scored tokens."""
        return self.sum / self.tokens.clamp(min=1)

    def of(self, index: Tensor) -> Scores:
        """Return the scores of the sequences with these indices, (N,)."""
        reference = None if self.reference is None else self.reference.of(index)
        return Scores(self.sum[index], self.mean[index], reference)

    @property
    def greedy(self) -> Tensor:
        """(S,) bool: whether greedy decoding would write each sequence's scored tokens."""
        assert self.likeliest is not None
        return self.over_sequences((~self.likeliest).float()) == 0

    def over_sequences(self, values: Tensor) -> Tensor:
        """Sum a value for each token (T,) by sequence: (S,)."""
        return values.new_zeros(len(self.tokens)).index_add(0, self.sequence, values)

    def by_sequence(self) -> tuple[Tensor, ...]:
        """For each sequence the values of its scored tokens in order."""
        order = torch.argsort(self.sequence, stable=True)
        return self.values[order].split(self.tokens.tolist())

    def over_logits(
        self, function: Callable[..., tuple[Tensor, ...]], *others: "SequenceLogprobs"
    ) -> tuple[Tensor, ...]:
        """Apply ``function`` to whole distributions: for each of its results (T,), over tokens.

        ``function(token, logits, *others)`` is called for blocks of n positions, so that no matrix
        (tokens, vocabulary) is ever made: ``token`` (n,), the scored tokens; ``logits`` (n, V) in
        float32, of this pass; ``others``: those of other models (or a
        `mathsft.models.distributions.Top`), which get no gradient. It returns tensors (n,), of
        which the first has a gradient. It must not depend on anything else that needs a gradient.

        The other passes may be of another batch, with other prompts: only the scored tokens of each
        sequence have to be the same, one by one.
        """
        passes = [one._logits for one in others]
        matches = tuple(
            None if one.sequence is self.sequence else self._match(one) for one in others
        )
        assert isinstance(self._logits, ScoredLogits)
        assert all(one is not None for one in passes)
        return over_logits(function, self._logits, tuple(passes), matches)  # type: ignore[arg-type]

    def logits(self, index: Tensor) -> Tensor:
        """(N, V) float32: the logits that predict the scored tokens with these indices; for few."""
        assert isinstance(self._logits, ScoredLogits)
        return self._logits.block(self._logits.predictor[index], self._logits.words)

    def _match(self, other: "SequenceLogprobs") -> Tensor:
        """(T,): the index of each scored token in another pass, by sequence and order in it."""
        ours = torch.argsort(self.sequence, stable=True)
        theirs = torch.argsort(other.sequence, stable=True)
        match = torch.empty_like(ours)
        match[ours] = theirs
        return match


def sequence_logprobs(
    model: Any,
    batch: Mapping[str, Tensor],
    *,
    wrapped: Any = None,
    inputs_embeds: Tensor | None = None,
    temperature: float = 1.0,
    values: bool = True,
) -> SequenceLogprobs:
    """Return the log-probability of every scored token of a forest, in one pass.

    Args:
        model: a causal language model, with or without an adapter.
        batch: the output of `TokenForest.tensors`, on the model's device. A multiple-choice
            question has one sequence for each choice; a document is one sequence.
        wrapped: the module to call instead of ``model`` if something (DDP) wraps it.
        inputs_embeds: (B, L, H), used in place of the embeddings of ``batch["input_ids"]``:
            for prompts that are not tokens.
        temperature: the logits are divided by it, as in sampling.
        values: False leaves ``values`` empty, for losses that only read `over_logits`: the
            projection onto the vocabulary, which is most of the work here, is then done only once.

    Differentiable. Raises ValueError if the model's attention implementation cannot use the mask
    (`attention_inputs`).
    """
    head = model.get_output_embeddings()
    plain = has_plain_head(model)
    caught: list[Tensor] = []

    def keep_predictors(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        hidden = arguments[0].flatten(0, 1)[batch["predictor"]]
        if plain and temperature != 1:  # a product: the same as dividing the logits
            hidden = hidden / temperature
        caught.append(hidden)
        # A plain head gets no positions: its product is computed below.
        return (hidden[None, :0] if plain else hidden[None],)

    inputs = attention_inputs(model, batch)
    if inputs_embeds is not None:
        del inputs["input_ids"]
        inputs["inputs_embeds"] = inputs_embeds
    hook = head.register_forward_pre_hook(keep_predictors)
    try:
        logits = (model if wrapped is None else wrapped)(**inputs, use_cache=False).logits
    finally:
        hook.remove()
    branch, token, scored = batch["branch"], batch["token"], batch["scored"]
    places, hidden = (branch[scored], token[scored]), caught[0]
    logprobs, likeliest, weight = hidden.new_zeros(0, dtype=torch.float32), None, None
    if plain:
        # Without gradients, do not prepare for them: that costs six times the rest.
        weight = whole(head.weight if torch.is_grad_enabled() else head.weight.detach())
        if isinstance(head, FSDPModule):  # gathers weights again when backward reaches its output
            hidden = hidden + logits.sum()  # there are no logits: 0
        if values:
            logprobs, likeliest = TokenLogprobs.apply(hidden, weight, branch, token)
    else:
        hidden = logits[0] if temperature == 1 else logits[0] / temperature
        if values:
            logprobs = hidden.float().log_softmax(-1)[branch, token]
            likeliest = hidden.argmax(-1)[branch] == token
    return SequenceLogprobs(
        values=logprobs[scored] if values else logprobs,
        sequence=batch["sequence"],
        tokens=batch["scored_tokens"],
        likeliest=None if likeliest is None else likeliest[scored],
        _logits=ScoredLogits(hidden, weight, *places),
    )


def hidden_states(
    model: Any, batch: Mapping[str, Tensor], *, wrapped: Any = None
) -> SequenceLogprobs:
    """`last_hidden` in the form that a loss reads, without log-probabilities."""
    hidden, value = last_hidden(model, batch, wrapped=wrapped)
    none = hidden.new_zeros(0, dtype=torch.float32)
    return SequenceLogprobs(
        none, batch["sequence"], batch["scored_tokens"], hidden=hidden, value=value
    )


def last_hidden(
    model: Any, batch: Mapping[str, Tensor], *, wrapped: Any = None
) -> tuple[Tensor, Tensor | None]:
    """Return the hidden state before each sequence's last token (S, H), and a value head's output.

    The hidden state is what the model's last layer passes to its head. The head is the projection
    onto the vocabulary, or ``score`` in a model for sequence classification (a reward model). The
    second value is the output (S, labels) of ``score``, or None without one. A sequence's last
    token does not go through the model: to read the state after it, add one token to the sequence.
    """
    scoring = getattr(model, "score", None)
    head = model.get_output_embeddings() if scoring is None else scoring
    config = model.config.get_text_config()
    padding = config.pad_token_id
    caught: list[Tensor] = []

    def keep_last(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        caught.append(arguments[0].flatten(0, 1)[batch["last"]])
        # Nothing is projected onto the vocabulary.
        return (arguments[0][:, :0],) if scoring is None else None

    def keep_values(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        caught.append(output.flatten(0, 1)[batch["last"]])

    hooks = [head.register_forward_pre_hook(keep_last)]
    if scoring is not None:
        hooks.append(head.register_forward_hook(keep_values))
    try:
        # transformers searches for a last token by it, for an output that nothing here reads.
        config.pad_token_id = 0 if padding is None else padding
        (model if wrapped is None else wrapped)(**attention_inputs(model, batch), use_cache=False)
    finally:
        config.pad_token_id = padding
        for hook in hooks:
            hook.remove()
    return caught[0], None if scoring is None else caught[1].float()
