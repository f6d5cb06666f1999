"""Who sees whom in a token forest, for each attention implementation that can be told.

One rule: token i sees token j exactly when ``j <= i < end[j]`` (`mathsft.models.forest`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def forest_mask(end: Tensor) -> Tensor:
    """Who sees whom: ``end`` (B, L) to a bool mask (B, 1, L, L), j <= i < end[b, j]."""
    index = torch.arange(end.shape[1], device=end.device)
    return ((index <= index[:, None]) & (index[:, None] < end[:, None, :])).unsqueeze(1)


def forest_rule(end: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The same rule as FlexAttention's ``mask_mod(batch, head, i, j)``.

    FlexAttention (Dong et al. 2024, arXiv:2412.05496) skips the blocks of the mask that
    are empty, where a dense mask is computed and then thrown away.
    """

    def sees(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (i < end[batch, j])

    return sees


def attention_window(config: Any) -> int | None:
    """The fewest tokens that a layer's attention reaches back, itself included; None: all.

    Sliding windows (Mistral, Gemma, Phi-3, GPT-Neo) and chunks (Llama 4) by their settings.
    """
    config = config.get_text_config()
    names = ["attention_chunk_size", "window_size"]
    if getattr(config, "use_sliding_window", True):
        names.append("sliding_window")
    sizes = [size for name in names if isinstance(size := getattr(config, name, None), int)]
    return min((size for size in sizes if size > 0), default=None)


def position_limit(config: Any) -> int | None:
    """The most tokens that a text may have for the model; None where its config names no number.

    ``max_position_embeddings``; more where the rotary positions are stretched by a ``factor``
    over ``original_max_position_embeddings`` (YaRN).
    """
    config = config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    return max(limit, int(factor * original)) if factor and original else limit


def attention_inputs(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """``input_ids, position_ids, attention_mask`` such that ``model`` keeps the rule.

    ``sdpa`` takes the bool mask. ``eager`` *adds* its mask to the scores, so a bool
    mask would be added as 0 and 1 and hide nothing: it gets 0 and the lowest number.
    Both hold with and without a cache, in training and in evaluation.
    ``flex_attention`` gets a block mask; it needs CUDA of capability 8.0 or more to train.

    Raises ValueError for any other implementation, as flash attention ignores such a mask,
    for sequences longer than the model has positions (`position_limit`), and for those longer
    than the window of a model with sliding-window attention, which our mask would replace.
    Silently wrong scores are worse than an error. (Models that do not learn what stands before
    from the mask alone: `mathsft.models.isolation`.)
    """
    end = batch["end"]
    limit = position_limit(model.config)
    # A row is at least as long as its longest sequence, and asking for that waits for the GPU.
    if limit is not None and end.shape[1] > limit and int(batch["position_ids"].max()) >= limit:
        raise ValueError(
            f"a sequence has {int(batch['position_ids'].max()) + 1:,} tokens, but "
            f"{type(model).__name__} has {limit:,} positions: leave it out, or take a model for "
            "longer texts"
        )
    window = attention_window(model.config)
    if window and int(batch["position_ids"].max()) >= window:
        raise ValueError(
            f"a sequence has {int(batch['position_ids'].max()) + 1} tokens, but some layers of "
            f"{type(model).__name__} see only the last {window}, and a token forest cannot tell "
            f"them so yet: use a max_length of at most {window}, or another model"
        )
    implementation = model.config._attn_implementation
    mask: Any
    if implementation == "sdpa":
        mask = forest_mask(end)
    elif implementation == "eager":
        seen = forest_mask(end)
        dtype = model.get_input_embeddings().weight.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        mask = mask.masked_fill(~seen, torch.finfo(dtype).min)
    elif implementation == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        rows, length = end.shape
        mask = create_block_mask(forest_rule(end), rows, None, length, length, device=end.device)
    else:
        raise ValueError(
            f"attention implementation {implementation!r} is not known to keep the sequences of "
            'a row apart; load the model with attn_implementation="sdpa" (or "eager").'
        )
    return {
        "input_ids": batch["input_ids"],
        "position_ids": batch["position_ids"],
        "attention_mask": mask,
    }
