"""Losses that compare whole distributions, block by block.

A matrix (tokens, vocabulary) is by far the largest array of such a loss: at 152,000 words, 2,000
tokens take 1.2 GB for each model. Here it is never made. For a block of positions the logits of
both models are computed, compared and thrown away. What remains is one number for each token, and
its gradient at the hidden state.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mathsft.models.projection import LOGITS_AT_ONCE, product

# A comparison holds up to a dozen arrays of a block's size (both models' logits, their
# log-probabilities, a product, gradients). Together they take what `TokenLogprobs` takes.
ARRAYS = 12


@dataclass(frozen=True)
class Top:
    """A model's k likeliest words at n positions: what is stored in place of its logits.

    ``words`` (n, k), and ``logprobs`` (n, k); ``rest`` (n,): the log-probability of all other words
    together; ``own`` (n,): that of the token that follows in the text, which may be among them.
    """

    words: Tensor
    logprobs: Tensor
    rest: Tensor
    own: Tensor


@dataclass(frozen=True)
class ScoredLogits:
    """What the logits are computed from, at the P positions that predict a scored token."""

    hidden: Tensor  # (P, H), or (P, V): the logits themselves if the head is not a plain product
    weight: Tensor | None  # (V, H)
    predictor: Tensor  # (T,): the position that predicts each scored token
    token: Tensor  # (T,)

    @property
    def words(self) -> int:
        """V, the rows of the head."""
        return self.hidden.shape[1] if self.weight is None else self.weight.shape[0]

    def block(self, at: Tensor, words: int) -> Tensor:
        """The logits (n, words) of the first words at these positions (n,), in float32."""
        return _logits(self.hidden, self.weight, at, words)


@dataclass(frozen=True)
class ScoredTop:
    """Stored words at the T scored tokens, in the order of the batch: a teacher without a pass."""

    top: Top  # of T positions
    predictor: Tensor  # (T,): 0, 1, …

    def block(self, at: Tensor, words: int) -> Top:
        """What is stored for these positions (n,)."""
        top = self.top
        return Top(top.words[at], top.logprobs[at], top.rest[at], top.own[at])


def likeliest(logprobs: Tensor, token: Tensor, k: int) -> Top:
    """The k likeliest words of distributions (n, V), and what all others have together."""
    found = logprobs.topk(k, dim=-1)
    own = logprobs.gather(-1, token[:, None])[:, 0]
    return Top(found.indices, found.values, _rest(logprobs, found.indices), own)


def coarse(logprobs: Tensor, other: Top) -> tuple[Tensor, Tensor]:
    """Two distributions over the words that ``other`` names, with all others as one word more.

    ``logprobs`` (n, V); both results are (n, k + 1), or (n, V) if no word is left over.
    """
    words = other.words.long()
    ours = logprobs.gather(-1, words)
    if words.shape[-1] == logprobs.shape[-1]:
        return ours, other.logprobs
    rest = _rest(logprobs, words)[:, None]
    return torch.cat([ours, rest], -1), torch.cat([other.logprobs, other.rest[:, None]], -1)


def _rest(logprobs: Tensor, words: Tensor) -> Tensor:
    """(n,): the log-probability of all words but these; from their own, since 1 - sum cancels."""
    return logprobs.scatter(-1, words, -torch.inf).logsumexp(-1)


Function = Callable[..., tuple[Tensor, ...]]


def over_logits(
    function: Function,
    ours: ScoredLogits,
    others: tuple[ScoredLogits | ScoredTop, ...],
    matches: tuple[Tensor | None, ...],
) -> tuple[Tensor, ...]:
    """Apply ``function`` to the logits at the predictor of each of T tokens; each result is (T,).

    Args:
        function: called as ``function(token, logits, *others)`` for n tokens at a time: ``token``
            (n,), float32 ``logits`` (n, V) of this model, and what the others have there (logits,
            or a `Top`). It returns tensors (n,). The gradient of the first is that of its sum; the
            others are constants.
        ours: the model that gets gradients.
        others: models without gradients.
        matches: for each of them the index (T,) of ``ours``' tokens among its own; None: the same
            order.

    If one head has more rows than another, the first ones are compared: checkpoints of one family
    have the same words, and differ in the rows behind them that no word uses.

    A token that several sequences share, at the same place of all models, is computed once.
    """
    words = min(one.words for one in (ours, *others) if isinstance(one, ScoredLogits))
    places = [ours.predictor]
    for one, match in zip(others, matches, strict=True):
        places.append(one.predictor if match is None else one.predictor[match])
    key = ours.predictor
    for place in (*places[1:], ours.token):
        key = key * (place.amax() + 1 if len(place) else 1) + place
    _, index = torch.unique(key, return_inverse=True)  # ascending in ours.predictor
    count = int(index.max()) + 1 if len(index) else 0
    first = torch.empty(count, dtype=torch.long, device=key.device)
    first[index] = torch.arange(len(index), device=key.device)
    at, *others_at = (place[first] for place in places)
    token = ours.token[first]

    def part(logits: Tensor, here: slice) -> tuple[Tensor, ...]:
        found = (
            one.block(place[here], words) for one, place in zip(others, others_at, strict=True)
        )
        return function(token[here], logits, *found)

    size = max(1, LOGITS_AT_ONCE // ARRAYS // words)
    blocks = [slice(start, min(start + size, count)) for start in range(0, max(count, 1), size)]
    values = _OverLogits.apply(ours.hidden, ours.weight, words, at, blocks, part)
    return tuple(value[index] for value in values)


class _OverLogits(torch.autograd.Function):
    """``part(logits, here)`` for each block of the positions ``at``.

    If the head is frozen, the gradient at the hidden states is computed while the logits exist: it
    is only multiplied later. Otherwise the logits are computed again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor | None, words: int, at: Tensor,
        blocks: list[slice], part: Callable[[Tensor, slice], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:  # fmt: skip
        frozen = weight is not None and not ctx.needs_input_grad[1]
        at_once = frozen and ctx.needs_input_grad[0]
        found: list[tuple[Tensor, ...]] = []
        slopes = hidden.new_zeros((len(at) * at_once, hidden.shape[1]), dtype=torch.float32)
        for here in blocks:
            logits = _logits(hidden, weight, at[here], words)
            if at_once and weight is not None:
                values, slope = _with_slope(part, logits, here, None)
                slopes[here] = product(slope, weight[:words])
                del slope
            else:
                with torch.no_grad():
                    values = part(logits, here)
            found.append(tuple(value.detach() for value in values))
            del logits, values  # before the next block is made
        made = tuple(torch.cat(values) for values in zip(*found, strict=True))
        ctx.mark_non_differentiable(*made[1:])
        ctx.words, ctx.blocks, ctx.part, ctx.at_once = words, blocks, part, at_once
        ctx.save_for_backward(hidden, weight, at, slopes)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, at, slopes = ctx.saved_tensors
        gradient = gradients[0]
        grad_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        if ctx.at_once:
            grad_hidden.index_add_(0, at, gradient[:, None] * slopes)
            return grad_hidden.to(hidden.dtype), *(None,) * 5
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for here in ctx.blocks:
            logits = _logits(hidden, weight, at[here], ctx.words)
            _, slope = _with_slope(ctx.part, logits, here, gradient[here])
            del logits
            if weight is None:
                grad_hidden[:, : ctx.words].index_add_(0, at[here], slope)
                continue
            if grad_weight is not None:
                part = hidden[at[here]].to(weight.dtype)
                grad_weight[: ctx.words] += slope.T.to(weight.dtype) @ part
            # Last, since it scales the slope in place.
            grad_hidden.index_add_(0, at[here], product(slope, weight[: ctx.words]))
            del slope
        return grad_hidden.to(hidden.dtype), grad_weight, *(None,) * 4


def _logits(hidden: Tensor, weight: Tensor | None, at: Tensor, words: int) -> Tensor:
    part = hidden[at]
    if weight is None:
        return part[:, :words].float()
    return (part.to(weight.dtype) @ weight[:words].T).float()


def _with_slope(
    part: Callable[[Tensor, slice], tuple[Tensor, ...]],
    logits: Tensor,
    here: slice,
    gradient: Tensor | None,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The values of a block, and the gradient of the first of them at the logits."""
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        values = part(leaf, here)
        total = values[0].sum() if gradient is None else (values[0] * gradient).sum()
        (slope,) = torch.autograd.grad(total, leaf)
    return values, slope
