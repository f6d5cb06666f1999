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
from torch.utils.checkpoint import checkpoint

from mathsft.models.attention import attention_inputs
from mathsft.models.projection import LOGITS_AT_ONCE, TokenLogprobs, has_plain_head
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
    _logits: "ScoredLogits | None" = field(default=None, repr=False)

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

    def over_logits(self, function: Callable[..., Tensor], *others: "SequenceLogprobs") -> Tensor:
        """Apply ``function`` to the logits at each scored token's predictor: (T,).

        For losses that compare whole distributions. ``function(logits, *other_logits)`` takes
        float32 tensors (n, V), of this pass and of ``others`` over the same batch, and returns
        (n,). It is called for blocks of positions, and again in the backward pass, so that no two
        full matrices of logits are in memory at once. A position that several sequences share is
        computed only once.
        """
        passes = [one._logits for one in (self, *others)]
        assert all(one is not None for one in passes)
        first: ScoredLogits = passes[0]  # type: ignore[assignment]

        def part(start: int, stop: int) -> Tensor:
            return function(*(one.block(start, stop) for one in passes))  # type: ignore[union-attr]

        count, size = len(first.hidden), first.at_once
        found = [
            checkpoint(part, start, min(start + size, count), use_reentrant=False)
            for start in range(0, count, size)
        ]
        values = torch.cat(found) if found else self.values.new_zeros(0)
        return values[first.predictor]


@dataclass(frozen=True)
class ScoredLogits:
    """What the logits are computed from, at the P positions that predict a scored token."""

    hidden: Tensor  # (P, H), or (P, V): the logits themselves if the head is not a plain product
    weight: Tensor | None  # (V, H)
    predictor: Tensor  # (T,): the position that predicts each scored token

    @property
    def at_once(self) -> int:
        words = self.hidden.shape[1] if self.weight is None else self.weight.shape[0]
        return max(1, LOGITS_AT_ONCE // words)

    def block(self, start: int, stop: int) -> Tensor:
        part = self.hidden[start:stop]
        if self.weight is not None:
            part = part.to(self.weight.dtype) @ self.weight.T
        return part.float()


def sequence_logprobs(
    model: Any,
    batch: Mapping[str, Tensor],
    *,
    wrapped: Any = None,
    inputs_embeds: Tensor | None = None,
    temperature: float = 1.0,
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
    if plain:
        # Without gradients, do not prepare for them: that costs six times the rest.
        weight = whole(head.weight if torch.is_grad_enabled() else head.weight.detach())
        logprobs, likeliest = TokenLogprobs.apply(caught[0], weight, branch, token)
        if isinstance(head, FSDPModule):  # gathers weights again when backward reaches its output
            logprobs = logprobs + logits.sum()  # there are no logits: 0
        made = ScoredLogits(caught[0], weight, branch[scored])
    else:
        given = logits[0] if temperature == 1 else logits[0] / temperature
        logprobs = given.float().log_softmax(-1)[branch, token]
        likeliest = given.argmax(-1)[branch] == token
        made = ScoredLogits(given, None, branch[scored])
    return SequenceLogprobs(
        values=logprobs[scored],
        sequence=batch["sequence"],
        tokens=batch["scored_tokens"],
        likeliest=likeliest[scored],
        _logits=made,
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
