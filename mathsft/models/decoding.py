"""Writing many answers at once: each prompt passes once, and an answer that ended leaves."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, TopPLogitsWarper
from transformers.cache_utils import DynamicLayer

_ROOM = 64  # tokens that a cache grows by: a copy of the cache every 64 tokens costs nothing
# From logits (n, V), the answers' numbers (n,) and the number of tokens before: tokens (n,).
Choose = Callable[[Tensor, Tensor, int], Tensor]


def likeliest(logits: Tensor, answers: Tensor, step: int) -> Tensor:
    """The token with the largest logit: greedy decoding."""
    return logits.argmax(dim=-1)


class Sampler:
    """Draws tokens with given random numbers, and keeps the log-probability of each.

    Each answer has random numbers of its own, so what it says depends neither on the other
    answers of the batch nor on the number of processes.

    Args:
        uniform: (N, T) in [0, 1): for each of N answers one number per token.
        temperature: the logits are divided by it.
        top_p: draw only from the likeliest tokens that together have this probability.

    ``logprobs`` (N, T), in nats, are of the model at this temperature; ``top_p`` does not change
    them.
    """

    def __init__(self, uniform: Tensor, *, temperature: float, top_p: float = 1.0) -> None:
        self._uniform = uniform
        self._temperature = temperature
        self._warper = TopPLogitsWarper(top_p) if top_p < 1 else None
        self.logprobs = torch.zeros_like(uniform)

    def __call__(self, logits: Tensor, answers: Tensor, step: int) -> Tensor:
        logprobs = (logits.float() / self._temperature).log_softmax(dim=-1)
        kept: Any = logprobs
        if self._warper is not None:
            kept = self._warper(None, logprobs)
        below = kept.exp().cumsum(dim=-1)  # the probability of this token and of all before it
        place = self._uniform[answers, step, None] * below[:, -1:]
        token = torch.searchsorted(below, place, right=True)
        # Rounding may put the place at the very end, where no token is.
        token = torch.where(token < logits.shape[-1], token, kept.argmax(-1, keepdim=True))
        self.logprobs[answers, step] = logprobs.gather(-1, token)[:, 0]
        return token[:, 0]


class RoomyLayer(DynamicLayer):
    """A layer's keys and values, with room for tokens to come.

    transformers' own layer copies all of itself at every token, which takes half of the time on a
    small model.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._buffers: list[Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add (B, heads, T, size) of new tokens; return those of all tokens."""
        if not self.is_initialized:
            return super().update(key_states, value_states, *args, **kwargs)
        assert self.keys is not None
        assert self.values is not None
        old = self.keys.shape[-2]
        new = old + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < new:
            self._buffers = []
            for there in (self.keys, self.values):
                batch, heads, _, size = there.shape
                buffer = there.new_empty((batch, heads, new + _ROOM, size))
                buffer[:, :, :old] = there
                self._buffers.append(buffer)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, old:new] = states
        self.keys, self.values = (buffer[:, :, :new] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._buffers = None


def roomy_cache(model: Any) -> DynamicCache | None:
    """An empty cache for `write`; None if the model needs another kind, or takes no positions."""
    takes = inspect.signature(model.forward).parameters
    if not {"position_ids", "past_key_values", "logits_to_keep"} <= takes.keys():
        return None
    cache = DynamicCache(config=model.config)
    if not cache.layers or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None  # windows, states of recurrent layers
    cache.layers = [RoomyLayer() for _ in cache.layers]
    return cache


@torch.no_grad()
def write(
    model: Any,
    cache: DynamicCache,
    ids: Tensor,
    seen: Tensor,
    rows: Tensor,
    *,
    stops: Collection[int],
    max_new_tokens: int,
    fill: int,
    choose: Choose,
) -> tuple[Tensor, Tensor]:
    """Continue prompts token by token.

    Returns the tokens written, (N, at most max_new_tokens), and for each answer whether its logits
    were not finite once, (N,): such an answer means nothing.

    Args:
        model: a causal language model in eval mode.
        cache: an empty cache of `roomy_cache`.
        ids: (P, T) prompts, padded on the left; ``seen`` (P, T) is 0 at the padding.
        rows: (N,) the prompt of each answer. A prompt passes through the model once.
        stops: tokens that end an answer. What is written after one means nothing.
        fill: written in the places of answers that have left.
        choose: takes the logits (n, V), which answers they are for (n,), and the step; returns
            tokens (n,).
    """
    ends = torch.tensor(sorted(stops), device=ids.device)
    places = (seen.cumsum(-1) - 1).clamp(min=0)
    logits = _logits(model, cache, ids, seen, places)[rows]
    cache.batch_select_indices(rows)
    seen, place = seen[rows], places[rows, -1:]
    written = ids.new_full((len(rows), max_new_tokens), fill)
    active = torch.arange(len(rows), device=ids.device)
    going = torch.ones_like(active, dtype=torch.bool)
    broken = torch.zeros_like(going)
    for step in range(max_new_tokens):
        bad = ~logits.amax(dim=-1).isfinite()  # amax of a row with a NaN is NaN
        broken[active] |= bad
        token = choose(logits.masked_fill(bad[:, None], 0.0), active, step)
        written[active, step] = token
        going &= ~torch.isin(token, ends)
        left = int(going.sum())
        if not left or step + 1 == max_new_tokens:
            return written[:, : step + 1], broken
        if left <= 0.8 * len(active):  # fewer rows; a copy of the cache each time would cost more
            stay = going.nonzero().flatten()
            cache.batch_select_indices(stay)
            active, seen, place, token = active[stay], seen[stay], place[stay], token[stay]
            going = going[stay]
        seen = torch.cat([seen, seen.new_ones((len(seen), 1))], dim=-1)
        place = place + 1
        logits = _logits(model, cache, token[:, None], seen, place)
    raise AssertionError("unreachable: max_new_tokens is at least 1")


def _logits(model: Any, cache: DynamicCache, ids: Tensor, seen: Tensor, places: Tensor) -> Tensor:
    """The logits after the last token, (B, V)."""
    return model(
        input_ids=ids,
        attention_mask=seen,
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
