"""Merge an adapter into the weights of its base, and check that the outputs stay the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mathsft.models.adapter_checks import (
    adapter_effect,
    base_of,
    check_saved_model,
    probe_ids,
    probe_logits,
)
from mathsft.models.folders import replaced_folder
from mathsft.models.model_files import check_folder, checkpoint_config, save_text_files

# Largest change of a logit that merging may cause, as a share of the largest logit. The cause is
# rounding the sum of weight and adapter to the weights' dtype, in all layers.
_MERGE_TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}


def merge_adapter(
    model: PeftModel,
    folder: str | Path | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PreTrainedModel:
    """Add the adapter into the base's weights; save the full model if a `folder` is given.

    A `tokenizer` is saved with it. `model` cannot be used afterwards: continue with the model that
    is returned. The logits before and after are compared.

    A 4-bit base is refused. Its weights have 16 levels per block. The sum of weight and adapter
    would be rounded to them again and lose a large part of the adapter (peft issue 2321). Load
    the base in full precision, load the adapter onto it, and merge that.

    If the embedding and the output head were tied but were trained separately, both are stored:
    the configuration then says ``tie_word_embeddings: false``.

    Raises ValueError if there is no adapter, the adapter does nothing, the base is
    quantised, the folder holds an adapter or other files, or merging changes the logits by
    more than rounding does, or by more than a tenth of what the adapter changes (the model is
    then unusable: load it again).
    """
    if not isinstance(model, PeftModel):
        raise ValueError("the model has no adapter, so there is nothing to merge")
    base = base_of(model)
    if getattr(base, "is_quantized", False):
        raise ValueError(
            "the base is quantised, and merging would round the adapter to its few levels. Keep "
            "the adapter (save_adapter), then load it onto the base in full precision and merge "
            f"there: {_full_base(base)}, load_adapter, merge_adapter"
        )
    target = None if folder is None else Path(folder)
    if target is not None:
        check_folder(target, holds="model")
    effect, ids = adapter_effect(model), probe_ids(model)
    before = probe_logits(model, ids)
    dtype = base.dtype
    layers = (base.get_input_embeddings(), base.get_output_embeddings())
    if any(isinstance(layer, BaseTunerLayer) for layer in layers):
        _untie(base)  # else a change of the embedding would also change the output head
    tied = getattr(base.config.get_text_config(), "tie_word_embeddings", False)
    merged = model.merge_and_unload(safe_merge=True)
    if tied and merged.get_output_embeddings() is not None:  # a reward model has none
        _tell_ties(merged)
    error = (probe_logits(merged, ids) - before).abs().max().item()
    allowed = _MERGE_TOLERANCE.get(dtype, 1e-4) * before.abs().max().item()
    if not error <= min(allowed, effect / 10):
        advice = (
            "The adapter is too small to be merged: keep it separate, with save_adapter"
            if dtype == torch.float32
            else "Load base and adapter again with dtype='float32' and merge there"
        )
        raise ValueError(
            f"merging changed the logits by {error:.2g}. The adapter itself changes them by "
            f"{effect:.2g}, of which a tenth may be lost, and rounding to {dtype} explains at most "
            f"{allowed:.2g}. The model is now unusable. {advice}"
        )
    # The weights are no longer those of the base that the model is named after.
    merged.name_or_path = merged.config.name_or_path = "" if target is None else str(target)
    if target is not None:
        with replaced_folder(target) as new:
            merged.save_pretrained(new)
            if tokenizer is not None:
                save_text_files(new, merged, tokenizer)
            check_saved_model(new, merged.state_dict())
    return merged


def _full_base(base: PreTrainedModel) -> str:
    """Say how to load the 4-bit base in full precision."""
    stored = checkpoint_config(base)
    if stored is not None and getattr(stored, "quantization_config", None) is None:
        return f"load_model({base.name_or_path!r})"
    return (
        f"load_model with the name of the model that {base.name_or_path or 'this one'} was "
        "quantised from, because its own weights are quantised"
    )


def _untie(model: nn.Module) -> None:
    """Give each module that shares a parameter with an earlier one its own copy."""
    seen = set()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in seen:
                copy = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                setattr(module, name, copy)
            seen.add(id(parameter))


def _tell_ties(model: PreTrainedModel) -> None:
    """Make the configuration say whether embedding and output head are equal (tied) now.

    Training may have made them different. A loader that follows the old configuration would tie
    them again, and so drop one of the two.
    """
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    tied = torch.equal(embedding.weight, head.weight)
    if tied:
        head.weight = embedding.weight
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = tied


@contextmanager
def merged_for_reading(model: Any) -> Iterator[None]:
    """Inside, each LoRA layer is one dense product with the sum of base and adapter, in float32.

    For generation, where a layer is called once per token: one product instead of three, and a
    4-bit weight is unpacked once. Neither base nor adapter is written to, so the model comes back
    bit for bit. Only layers that compute in float32 change: in half precision the sum would be
    rounded, and the answers would be those of a slightly different model. The merged weights need
    four bytes for each weight of these layers.
    """
    replaced: list[tuple[torch.nn.Module, str, torch.nn.Module]] = []
    parents = list(model.named_modules())
    for _, parent in parents:
        for name, layer in parent.named_children():
            if _is_plain_lora(layer):
                replaced.append((parent, name, layer))
    try:
        for parent, name, layer in replaced:
            setattr(parent, name, _dense(layer))
        yield
    finally:
        for parent, name, layer in replaced:
            setattr(parent, name, layer)


def _is_plain_lora(layer: Any) -> bool:
    """Whether base and adapter are a linear layer and a product of two matrices, in float32."""
    if not isinstance(layer, LoraLayer) or layer.merged or layer.disable_adapters:
        return False
    base = layer.get_base_layer()
    adapters = [name for name in layer.active_adapters if name in layer.lora_A]
    dtype = getattr(base, "compute_dtype", None) or base.weight.dtype  # of 4-bit weights
    return (
        isinstance(base, torch.nn.Linear)
        and dtype == torch.float32
        and not any(name in layer.lora_variant or layer.lora_bias[name] for name in adapters)
    )


@torch.no_grad()
def _dense(layer: Any) -> torch.nn.Linear:
    base = layer.get_base_layer()
    weight = dequantize_module_weight(base).detach().float()
    for name in layer.active_adapters:
        if name in layer.lora_A:
            weight = weight + layer.get_delta_weight(name)
    rows, columns = weight.shape
    made = torch.nn.Linear(columns, rows, bias=False, device="meta")
    made.weight = torch.nn.Parameter(weight, requires_grad=False)
    made.bias = base.bias
    return made.eval()
