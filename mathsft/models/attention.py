"""Which token sees which in a token forest, for each attention implementation that supports it.

One rule: token i sees token j exactly when ``j <= i < end[j]`` (`mathsft.models.forest`). In
layers with a window, the window's own rule on depths must hold too (`Window`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mathsft.compat import attention_of
from mathsft.models.blockwise import ForestMask, ForestRows, Rule, Window

# Rows over this many tokens get no mask of all pairs of tokens (`mathsft.models.blockwise`).
LONG_ROW = 2048
# The names in ``layer_types`` of layers that do not see all earlier tokens, and for each the
# setting that says how many they see.
WINDOW_SETTINGS = {
    "sliding_attention": "sliding_window",
    "chunked_attention": "attention_chunk_size",
}


def forest_rule(end: Tensor, depth: Tensor | None = None, window: Window | None = None) -> Rule:
    """Return the rule of which token sees which, as a ``mask_mod(batch, head, i, j)``.

    Args:
        end: (B, L), the index just past the last descendant of each token.
        depth: (B, L), the position of each token in its sequence; used only with a window.
        window: the layer's window; None: the layer sees all earlier tokens.

    FlexAttention (Dong et al. 2024, arXiv:2412.05496) skips the empty blocks of such a mask.
    With a dense mask, their scores are computed and then thrown away.
    """

    def sees(batch: Tensor | int, head: Tensor | int, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (i < end[batch, j])

    if window is None or depth is None:
        return sees
    size, at = window.size, depth

    def sees_near(batch: Tensor | int, head: Tensor | int, i: Tensor, j: Tensor) -> Tensor:
        return sees(batch, head, i, j) & (at[batch, i] - at[batch, j] < size)

    def sees_in_piece(batch: Tensor | int, head: Tensor | int, i: Tensor, j: Tensor) -> Tensor:
        return sees(batch, head, i, j) & (at[batch, i] // size == at[batch, j] // size)

    return sees_in_piece if window.chunks else sees_near


def forest_mask(end: Tensor, depth: Tensor | None = None, window: Window | None = None) -> Tensor:
    """Return which token sees which: a bool mask (B, 1, L, L) of all pairs of tokens in a row.

    It is true for j <= i < end[b, j], with ``end`` (B, L). With a ``window``, the window's rule on
    the tokens' positions ``depth`` (B, L) must hold too. See `forest_rule`.
    """
    return _rows(end, depth, window).dense


def _rows(end: Tensor, depth: Tensor | None, window: Window | None) -> ForestRows:
    return ForestRows(end, end if depth is None else depth, window, forest_rule(end, depth, window))


def layer_windows(config: Any) -> dict[str, Window | None]:
    """Return a model's kinds of layers and the window of each; None: it sees all earlier tokens.

    The kinds are those of ``layer_types`` (Gemma 2 and 3, Qwen, gpt-oss, Llama 4). Without that
    list, a ``sliding_window`` applies to every layer (Mistral, Mixtral, Phi-3, StarCoder2).
    """
    config = config.get_text_config()
    found: dict[str, Window | None] = {}
    for kind, name in WINDOW_SETTINGS.items():
        size = getattr(config, name, None)
        if isinstance(size, int) and size > 0:
            found[kind] = Window(size, chunks=kind == "chunked_attention")
    if not getattr(config, "use_sliding_window", True):
        found.pop("sliding_attention", None)
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        kinds = ["sliding_attention" if "sliding_attention" in found else "full_attention"]
    return {kind: found.get(kind) for kind in kinds}


def position_limit(config: Any) -> int | None:
    """Return the most tokens that a text may have for the model; None if its config has no limit.

    This is ``max_position_embeddings``, or more if the rotary positions are stretched by a
    ``factor`` over ``original_max_position_embeddings`` (YaRN).
    """
    config = config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    return max(limit, int(factor * original)) if factor and original else limit


def row_limit(config: Any) -> int | None:
    """Return the longest row for a model that counts places in the row, not positions; None: any.

    GPT-Neo keeps the window of its local layers (``window_size``) in a table of places. Llama 4
    scales the queries of some layers by the place, starting at ``floor_scale`` places.
    """
    config = config.get_text_config()
    limits = [getattr(config, "window_size", None)]
    if getattr(config, "attn_temperature_tuning", False):
        limits.append(getattr(config, "floor_scale", 0) - 1)
    return min((n for n in limits if isinstance(n, int) and n > 0), default=None)


def caps_attention(config: Any) -> bool:
    """Return whether attention scores are capped (Gemma 2), which sdpa cannot do and may ignore."""
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


def attention_inputs(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return ``model``'s inputs for ``batch``: ``input_ids, position_ids, attention_mask``.

    With these inputs, each token sees only what the rule allows.

    ``sdpa`` takes a bool mask, and turns it into numbers (0 and minus infinity) in every layer.
    So where their dtype is known (under autocast, and in float32), it gets the numbers, once for
    all layers. A row of more than 2,048 tokens gets no mask of all pairs of tokens: its attention
    runs in blocks (`mathsft.models.blockwise`).
    ``eager`` *adds* its mask to the scores, so a bool mask would be added as 0 and 1 and hide
    nothing. It gets 0 and the lowest number instead.
    Both work with and without a cache, in training and in evaluation.
    ``flex_attention`` gets a block mask; training with it needs CUDA capability 8.0 or higher.

    If some layers see further back than others, the mask is a dict with one mask for each kind of
    layer, as transformers' models expect. Kinds whose window no row exceeds share one mask.

    A mixture of experts returns no router logits: transformers' balance loss is made for padding
    masks and fails on this one. So that loss is not part of any objective here.

    Raises ValueError for any other implementation (flash attention ignores such a mask), for
    sdpa if the model caps its attention scores, for sequences longer than the model's positions
    (`position_limit`), and for rows longer than `row_limit`.
    Silently wrong scores are worse than an error. (`mathsft.models.isolation` finds the models
    in which tokens see others in spite of the mask.)
    """
    end, depth = batch["end"], batch["position_ids"]
    length = end.shape[1]
    _check_lengths(model, length, depth)
    windows = {
        kind: window if window and window.size < length else None
        for kind, window in layer_windows(model.config).items()
    }
    masks = {window: _mask(model, end, depth, window) for window in dict.fromkeys(windows.values())}
    inputs = {
        "input_ids": batch["input_ids"],
        "position_ids": depth,
        "attention_mask": {kind: masks[window] for kind, window in windows.items()}
        if len(windows) > 1
        else next(iter(masks.values())),
    }
    configs = (model.config, model.config.get_text_config())
    if any(getattr(config, "output_router_logits", False) for config in configs):
        inputs["output_router_logits"] = False
    return inputs


def _check_lengths(model: Any, length: int, depth: Tensor) -> None:
    name = type(model).__name__
    limit = position_limit(model.config)
    # A row is at least as long as its longest sequence; reading that one waits for the GPU.
    if limit is not None and length > limit and int(depth.max()) >= limit:
        raise ValueError(
            f"a sequence has {int(depth.max()) + 1:,} tokens, but {name} has {limit:,} positions: "
            "leave it out, or use a model for longer texts"
        )
    limit = row_limit(model.config)
    if limit is not None and length > limit:
        raise ValueError(
            f"a row has {length:,} tokens, but some layers of {name} count places in the row, "
            f"which is exact up to {limit:,} only: use a max_length of at most {limit:,}, or "
            "another model"
        )


def _mask(model: Any, end: Tensor, depth: Tensor, window: Window | None) -> Any:
    """Return the mask of layers with this window, in the form the implementation expects."""
    implementation = attention_of(model.config)
    if implementation == "sdpa" and caps_attention(model.config):
        raise ValueError(
            f"{type(model).__name__} caps its attention scores, and sdpa ignores the cap: load "
            'the model with attn_implementation="eager"'
        )
    if implementation == "sdpa":
        rows = _rows(end, depth, window)
        if end.shape[1] > LONG_ROW and not end.is_meta:  # without numbers there are no blocks
            return ForestMask.of(rows)
        return _for_sdpa(model, rows.dense)
    if implementation == "eager":
        seen = forest_mask(end, depth, window)
        dtype = model.get_input_embeddings().weight.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return mask.masked_fill(~seen, torch.finfo(dtype).min)
    if implementation == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        count, length = end.shape
        rule: Any = forest_rule(end, depth, window)
        return create_block_mask(rule, count, None, length, length, device=end.device)
    raise ValueError(
        f"attention implementation {implementation!r} is not known to keep the sequences of "
        'a row apart; load the model with attn_implementation="sdpa" (or "eager").'
    )


def _for_sdpa(model: Any, seen: Tensor) -> Tensor:
    """Return the mask as the numbers that sdpa would make of it; unchanged if it may need others.

    In half precision without autocast, layers may compute in float32 what others do not, and sdpa
    refuses numbers of another dtype than its queries. (It takes float32 with any.)
    """
    device = seen.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    elif model.get_input_embeddings().weight.dtype == torch.float32:
        dtype = torch.float32
    else:
        return seen
    rows, heads, length, _ = seen.shape
    # CUDA's memory-efficient kernel copies a mask unless its lines start at multiples of 8.
    numbers = torch.zeros(rows, heads, length, -(-length // 8) * 8, dtype=dtype, device=device)
    return numbers[..., :length].masked_fill_(~seen, -torch.inf)
