"""Attention over long rows of a forest, block by block, without a mask of all pairs of tokens.

A mask of all pairs of tokens grows with the square of the row, and each layer keeps its own copy
for the backward pass: sdpa turns a bool mask into one of numbers. Here a row's queries are taken
in blocks. The only keys that a block can see are the ancestors of its first token, and the block
itself, so only those are read: not the other documents of a packed row, and not the other branches
of a tree. The backward pass computes a block's scores again, as flash attention does (Dao et al.
2022, arXiv:2205.14135), so no layer keeps any mask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# Queries in a block. Fewer read fewer keys that no query sees, but take more calls.
BLOCK = 512


class Window(NamedTuple):
    """How far back a layer sees: a token sees the last ``size`` tokens, including itself.

    With ``chunks`` (Llama 4) the text is cut into pieces of ``size`` tokens instead, and a token
    sees only itself and the earlier tokens of its own piece.
    """

    size: int
    chunks: bool = False


Rule = Callable[[Tensor | int, Tensor | int, Tensor, Tensor], Tensor]


class Block(NamedTuple):
    """Queries ``start`` to ``stop`` of one row, and the places of the keys that they may see."""

    row: int
    start: int
    stop: int
    keys: slice | Tensor

    def queries_of(self, x: Tensor) -> Tensor:
        """Take the block's queries of ``x`` (B, H, L, D)."""
        return x[self.row : self.row + 1, :, self.start : self.stop]

    def keys_of(self, x: Tensor) -> Tensor:
        """Take the block's keys of ``x`` (B, H, L, D)."""
        return x[self.row : self.row + 1, :, self.keys]

    def add_keys(self, x: Tensor, part: Tensor) -> None:
        """Add ``part``, one row for each key, to ``x`` (B, H, L, D) in place."""
        if isinstance(self.keys, slice):
            x[self.row, :, self.keys] += part[0]
        else:
            x[self.row].index_add_(1, self.keys, part[0].to(x.dtype))


@dataclass(frozen=True)
class ForestRows:
    """Rows of a forest: the rule of which token sees which, and what it is made from.

    ``end`` and ``depth`` (B, L) and ``window`` are those of `mathsft.models.attention.forest_rule`.
    """

    end: Tensor
    depth: Tensor
    window: Window | None
    rule: Rule

    @cached_property
    def dense(self) -> Tensor:
        """The bool mask of all pairs of tokens, (B, 1, L, L)."""
        rows, length = self.end.shape
        index = torch.arange(length, device=self.end.device)
        row = torch.arange(rows, device=self.end.device)[:, None, None, None]
        return self.rule(row, 0, index[:, None], index)

    @cached_property
    def blocks(self) -> list[Block]:
        """All rows in blocks of queries. (Reading ``end`` waits for the GPU, once for a batch.)"""
        end, depth = self.end.cpu(), self.depth.cpu()
        found = []
        for row in range(end.shape[0]):
            for start in range(0, end.shape[1], BLOCK):
                stop = min(start + BLOCK, end.shape[1])
                seen = end[row, :start] > start  # the ancestors of the block's first token
                if self.window is not None:
                    size, least = self.window.size, int(depth[row, start:stop].min())
                    near = (least // size * size) if self.window.chunks else least - size + 1
                    seen &= depth[row, :start] >= near
                above = seen.nonzero()[:, 0]
                first = start - len(above)
                if not len(above) or int(above[0]) == first:  # all of them just before the block
                    found.append(Block(row, start, stop, slice(first, stop)))
                else:
                    keys = torch.cat([above, torch.arange(start, stop)])
                    found.append(Block(row, start, stop, keys.to(self.end.device)))
        return found

    def mask_of(self, block: Block) -> Tensor:
        """The bool mask (1, 1, queries, keys) of one block."""
        places = torch.arange(self.end.shape[1], device=self.end.device)
        return self.rule(block.row, 0, places[block.start : block.stop, None], places[block.keys])[
            None, None
        ]


class ForestMask(Tensor):
    """The mask of long rows, made only where it is read.

    It looks like the bool mask (B, 1, L, L), so transformers passes it on to sdpa. There PyTorch
    asks it what to do (as for `torch.nn.attention.bias.CausalBias`): attention runs in blocks.
    Any other use of it makes the bool mask, so it is exact in any model.
    """

    forest: ForestRows

    @classmethod
    def of(cls, forest: ForestRows) -> "ForestMask":
        """Return the mask of these rows. Its own numbers take no memory and are never read."""
        rows, length = forest.end.shape
        mask = forest.end[:, None, None].expand(rows, 1, length, length).as_subclass(cls)
        mask.forest = forest
        return mask

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        if func is Tensor.dtype.__get__:  # type: ignore[attr-defined]
            return torch.bool
        if func in _DESCRIBING:
            return super().__torch_function__(func, types, args, kwargs)
        if func is Tensor.__getitem__ and isinstance(args[0], cls):
            # Many models cut the mask to the number of keys, which changes nothing here.
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            whole = zip(index, args[0].shape, strict=False)
            if all(isinstance(i, slice) and i.indices(n) == (0, n, 1) for i, n in whole):
                return args[0]
        return func(*_dense(args), **{name: _dense(x) for name, x in (kwargs or {}).items()})


# What these say of a mask is true without making it.
_DESCRIBING: set[Callable[..., Any]] = {
    Tensor.dim,
    Tensor.size,
    Tensor.stride,
    Tensor.shape.__get__,  # type: ignore[attr-defined]
    Tensor.ndim.__get__,  # type: ignore[attr-defined]
    Tensor.device.__get__,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__,  # type: ignore[attr-defined]
    Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
}


def _dense(found: Any) -> Any:
    """Replace each `ForestMask` in an argument by its bool mask."""
    if isinstance(found, ForestMask):
        return found.forest.dense
    if isinstance(found, list | tuple):
        return type(found)(_dense(one) for one in found)
    return found


@torch.compiler.disable  # a compiled layer calls it as it is: its blocks differ in every batch
def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """sdpa with a `ForestMask`; in one piece if it drops scores, or if keys come from a cache."""
    options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
    forest: ForestRows = attn_mask.forest
    length = forest.end.shape[1]
    if dropout_p or is_causal or not query.shape[2] == key.shape[2] == length:
        return functional.scaled_dot_product_attention(
            query, key, value, forest.dense, dropout_p, is_causal, **options
        )
    device = query.device.type
    if torch.is_autocast_enabled(device):  # backward runs without autocast
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    return _Blockwise.apply(query, key, value, forest, options)  # type: ignore[no-any-return]


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, forest: ForestRows, options: Any
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.forest, ctx.options = forest, options
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        for block in forest.blocks:
            block.queries_of(output).copy_(
                functional.scaled_dot_product_attention(
                    block.queries_of(query),
                    block.keys_of(key),
                    block.keys_of(value),
                    forest.mask_of(block),
                    **options,
                )
            )
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        of_query = torch.empty_like(query)
        # A key's gradient is a sum over blocks: float32, as inside one kernel.
        of_key, of_value = (torch.zeros_like(x, dtype=torch.float32) for x in (key, value))
        for block in ctx.forest.blocks:
            taken = (block.queries_of(query), block.keys_of(key), block.keys_of(value))
            taken = tuple(x.detach().requires_grad_() for x in taken)
            with torch.enable_grad():
                output = functional.scaled_dot_product_attention(
                    *taken, ctx.forest.mask_of(block), **ctx.options
                )
            found = torch.autograd.grad(output, taken, block.queries_of(gradient))
            block.queries_of(of_query).copy_(found[0])
            block.add_keys(of_key, found[1])
            block.add_keys(of_value, found[2])
        return of_query, of_key.to(key.dtype), of_value.to(value.dtype), None, None
