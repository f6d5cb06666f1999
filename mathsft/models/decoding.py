"""Writing many answers at once: each prompt passes once, and an answer that ended leaves."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64  # tokens that a cache grows by: a copy of the cache every 64 tokens costs nothing


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
    choose: Callable[[Tensor], Tensor],
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
        choose: from logits (n, V) to tokens (n,).
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
        token = choose(logits.masked_fill(bad[:, None], 0.0))
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
