"""A prompt of real tokens that has a gradient: Gumbel-softmax with a straight-through step.

Each searched place has a code, a vector as wide as an embedding. Its scores for the tokens of the
vocabulary are ``code @ embeddings.T``. A token is drawn from them with Gumbel noise, and the model
reads that token's embedding. Backward, the gradient goes to the softmax instead (Jang et al. 2017,
arXiv:1611.01144).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mathsft.models.forest import TokenForest
from mathsft.models.logprobs import SequenceLogprobs, sequence_logprobs

_SMALLEST = 1e-20  # log(0) would be minus infinity


@dataclass(frozen=True)
class DrawnPrompt:
    """D prompts of n tokens each, drawn from a codebook.

    ``ids`` (D, n) are the tokens. ``embeddings`` (D, n, H) are exactly the embeddings of these
    tokens, with the gradient of ``soft`` (D, n, V), the softmax that they were drawn from.
    """

    ids: Tensor
    embeddings: Tensor
    soft: Tensor

    def chosen(self, values: Tensor) -> Tensor:
        """``values`` (D, n, V) of the drawn tokens, (D, n), with the gradient of ``soft``.

        As for the embeddings: forward the drawn token, backward the softmax.
        """
        hard = values.gather(-1, self.ids[..., None]).squeeze(-1)
        expected = (self.soft * values.detach()).sum(-1)
        return hard + expected - expected.detach()


class PromptCodebook(nn.Module):
    """Codes of ``num_tokens`` places, over the tokens of a model that stays as it is.

    Args:
        embedding: the model's input embedding, a module. It is called with token ids, since some
            models scale what is in its weight (Gemma).
        forbidden: (V,) bool, tokens that are never drawn.
        num_tokens: n, the number of searched places.
        init: tokens to start from, one for each place; default: all tokens alike.

    ``codes`` (n, H) is the only parameter, in float32.
    """

    table: Tensor
    forbidden: Tensor

    def __init__(
        self,
        embedding: Any,
        forbidden: Tensor,
        *,
        num_tokens: int,
        init: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        every = torch.arange(len(forbidden), device=embedding.weight.device)
        with torch.no_grad():
            table = embedding(every)
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("forbidden", forbidden.to(table.device), persistent=False)
        codes = torch.zeros(num_tokens, table.shape[1], device=table.device)
        if init is not None:
            # The score of its own token is then 4, and that of one at a right angle to it is 0.
            start = table[torch.tensor(init, device=table.device)].float()
            codes = 4 * start / start.square().sum(-1, keepdim=True)
        self.codes = nn.Parameter(codes)

    @property
    def scores(self) -> Tensor:
        """(n, V) float32, of all tokens, forbidden ones included."""
        return self.codes @ self.table.float().T

    @property
    def allowed_scores(self) -> Tensor:
        """(n, V) as `scores`, with minus infinity for forbidden tokens."""
        return self.scores.masked_fill(self.forbidden, -torch.inf)

    def draw(self, *, temperature: float, noise: Tensor) -> DrawnPrompt:
        """Draw D prompts: for each a token for each place.

        Args:
            temperature: the scores with their noise are divided by it before the softmax. A low
                one makes the softmax hard: closer to what the model reads, with a gradient that
                says less about other tokens.
            noise: (D, n, V), from `gumbel_noise`; zeros take the best token of each place.
        """
        noisy = self.allowed_scores + noise
        soft = (noisy / temperature).softmax(-1)
        ids = noisy.argmax(-1)
        mixed = soft @ self.table.float()
        # mixed - mixed is exactly 0: the model reads the token's own embedding, to the bit.
        embeddings = self.table[ids] + (mixed - mixed.detach()).to(self.table.dtype)
        return DrawnPrompt(ids=ids, embeddings=embeddings, soft=soft)

    def forbidden_mass(self, *, temperature: float = 1.0) -> Tensor:
        """(n,) the probability of forbidden tokens *before* they are masked, to be kept small.

        After the mask it would be 0 and have no gradient. A code near forbidden tokens spends its
        gradient on tokens that are never drawn.
        """
        return (self.scores / temperature).softmax(-1)[:, self.forbidden].sum(-1)

    def best(self) -> list[int]:
        """The token with the highest score in each place."""
        found: list[int] = self.allowed_scores.argmax(-1).tolist()
        return found


def gumbel_noise(shape: tuple[int, int, int], *, generator: torch.Generator) -> Tensor:
    """Noise with which the highest score is a sample of their softmax (Gumbel 1954), float32.

    Args:
        shape: rows, places of the prompt, words of the vocabulary.
        generator: on the CPU, so that the numbers are the same on each device.
    """
    uniform = torch.rand(shape, generator=generator)
    return -torch.log(-torch.log(uniform + _SMALLEST) + _SMALLEST)


def cosine(step: int, steps: int, *, first: float, last: float) -> float:
    """A value that goes from ``first`` to ``last`` on half a cosine; ``step`` counts from 0."""
    done = step / max(steps - 1, 1)
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class PromptLogprobs:
    """Log-probabilities of targets after a drawn prompt, and of the prompt itself.

    ``target`` (S,) is the total of each row's target in nats. ``prompt`` is a scalar: the mean
    of the prompt's own tokens after what stands before them; None if it was not requested.
    """

    target: Tensor
    prompt: Tensor | None


def prompt_logprobs(
    model: Any,
    places: Sequence[Any],
    drawn: DrawnPrompt,
    *,
    pad_token_id: int,
    max_length: int,
    fluency: bool = False,
) -> PromptLogprobs:
    """Pass rows with a drawn prompt through the model, packed into a forest.

    Args:
        model: a causal language model, frozen.
        places: S rows, each a `PromptPlace`.
        drawn: S prompts, one for each row, or a single one for all.
        pad_token_id: any token; padding is not read.
        max_length: tokens of a packed row. One that is longer makes all rows as long as itself.
        fluency: score the prompt's tokens as well. A token with nothing before it has no score.

    In the forest the searched tokens stand as -1, -2, …, and then their embeddings are put there.
    """
    draws, count = drawn.ids.shape
    words = model.get_input_embeddings().weight.shape[0]
    groups = []
    for row, place in enumerate(places):
        numbers = [row % draws * count + n for n in range(count)]
        # Labels of searched tokens are above the vocabulary, until the drawn ones are put in.
        labels = [words + number for number in numbers] if fluency else None
        groups.append([place.sequence([-1 - number for number in numbers], labels=labels)])
    forest = TokenForest.from_groups(groups, max_length=max_length, stretch=True)
    device = drawn.embeddings.device
    batch = {k: v.to(device) for k, v in forest.tensors(pad_token_id=pad_token_id).items()}
    ids, token = batch["input_ids"], batch["token"]
    searched, own = ids < 0, token >= words
    batch["token"] = torch.where(own, drawn.ids.flatten()[(token - words).clamp(min=0)], token)
    embeddings = model.get_input_embeddings()(ids.clamp(min=0))
    put = drawn.embeddings.flatten(0, 1)[(-1 - ids).clamp(min=0)].to(embeddings.dtype)
    embeddings = torch.where(searched[..., None], put, embeddings)
    found = sequence_logprobs(model, batch, inputs_embeds=embeddings)
    scored = own[batch["scored"]]  # (T,): whether a scored token is a searched one
    target = found.over_sequences(torch.where(scored, 0.0, found.values))
    if not scored.any():
        return PromptLogprobs(target, None)
    place = (token - words)[batch["scored"]][scored]
    return PromptLogprobs(target, _fluency(found, drawn, scored, place).mean())


def _fluency(found: SequenceLogprobs, drawn: DrawnPrompt, scored: Tensor, place: Tensor) -> Tensor:
    """The log-probability of each searched token, with the gradient of the other tokens too."""
    logprobs = found.logits(scored.nonzero().squeeze(-1)).log_softmax(-1)
    ids, embeddings, soft = (
        one.flatten(0, 1)[place] for one in (drawn.ids, drawn.embeddings, drawn.soft)
    )
    return DrawnPrompt(ids, embeddings, soft).chosen(logprobs)
