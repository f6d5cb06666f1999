"""A cache of keys and values for writing: it has room to grow, and its rows come and go."""

import inspect
from typing import Any

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
        states = self._states()
        old = states[0].shape[-2]
        new = old + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < new:
            self._buffers = []
            for there in states:
                batch, heads, _, size = there.shape
                buffer = there.new_empty((batch, heads, new + _ROOM, size))
                buffer[:, :, :old] = there
                self._buffers.append(buffer)
        for buffer, added in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, old:new] = added
        self.keys, self.values = (buffer[:, :, :new] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._buffers = None

    def forget(self, tokens: int) -> None:
        """Leave out the first tokens."""
        self.keys, self.values = (states[:, :, tokens:] for states in self._states())
        self._buffers = None

    def join(self, other: "RoomyLayer") -> None:
        """Add the rows of another layer; the shorter one gets zeros on the left."""
        pairs = [*zip(self._states(), other._states(), strict=True)]
        length = max(states.shape[-2] for states in pairs[0])
        self._buffers = []
        for one, two in pairs:
            rows, heads, _, size = one.shape
            # Zeros: a masked value is multiplied by 0, and what was in memory may be NaN.
            buffer = one.new_zeros((rows + len(two), heads, length + _ROOM, size))
            buffer[:rows, :, length - one.shape[-2] : length] = one
            buffer[rows:, :, length - two.shape[-2] : length] = two
            self._buffers.append(buffer)
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)

    def _states(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values


def roomy_cache(model: Any) -> DynamicCache | None:
    """An empty cache for `mathsft.models.decoding.write`.

    None if the model needs another kind, or takes no positions.
    """
    takes = inspect.signature(model.forward).parameters
    if not {"position_ids", "past_key_values", "logits_to_keep"} <= takes.keys():
        return None
    cache = DynamicCache(config=model.config)
    if not cache.layers or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None  # windows, states of recurrent layers
    cache.layers = [RoomyLayer() for _ in cache.layers]
    return cache
