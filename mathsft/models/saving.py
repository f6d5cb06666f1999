"""Save a model whose own weights were trained; check before training that saving will work."""

import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import peft
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mathsft.models.adapter_checks import (
    adapter_state,
    base_of,
    brought_tensors,
    check_saved_model,
    has_adapter,
)
from mathsft.models.adapter_files import checkpoint_differences, is_adapters_own, some
from mathsft.models.adapter_fit import DOUBLY_WRAPPED, STARTS
from mathsft.models.folders import replaced_folder
from mathsft.models.model_files import check_folder, save_text_files
from mathsft.models.sharding import check_not_emptied, local, places, whole_state
from mathsft.processes import in_first

# LoRA settings with which, as tests show, a saved adapter restores the model. Others are refused.
_RESTORED = {
    "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "lora_bias",
    "target_modules", "exclude_modules", "target_parameters", "layers_to_transform",
    "layers_pattern", "rank_pattern", "alpha_pattern", "modules_to_save",
    "trainable_token_indices", "ensure_weight_tying", "fan_in_fan_out", "init_lora_weights",
    "eva_config",
}  # fmt: skip
_NO_MATTER = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path",
    "revision", "inference_mode", "runtime_config",
}  # fmt: skip


def check_saveable(model: PeftModel) -> None:
    """Raise ValueError unless `save_adapter` and `load_adapter` will restore this model.

    There must be exactly one adapter, LoRA, named "default". All trained weights must be part of
    it. The base must still equal its checkpoint, because it is loaded from there; eight values of
    each tensor are compared.
    """
    config, state = _lora_config(model), adapter_state(model)
    if any(key.startswith(DOUBLY_WRAPPED) for key in state):
        raise ValueError(
            "the model was wrapped with an adapter twice (get_peft_model on a PeftModel): its keys "
            "would match no base. Build it again from the base, with one add_adapter"
        )
    _check_settings(config)
    _check_in_effect(model, rslora=config.use_rslora)
    kept = places(state.values())
    lost = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and not is_adapters_own(name)
        and local(parameter).data_ptr() not in kept
    ]
    if lost and config.bias == "lora_only" and all(name.endswith(".bias") for name in lost):
        raise ValueError(
            f"peft {peft.__version__} trains biases with bias='lora_only' and does not save them "
            f"({some(lost)}): use bias='all' or bias='none'"
        )
    if lost:
        raise ValueError(
            f"{len(lost)} trained weights are not part of the adapter and would be lost: "
            f"{some(lost)}. Before training, freeze them (requires_grad_(False)) or name their "
            "modules in modules_to_save of peft's LoraConfig. After training, merge_adapter(model, "
            "folder, tokenizer=tokenizer) saves a full model with them"
        )
    changed = checkpoint_differences(base_of(model), without=brought_tensors(model))
    if changed:
        raise ValueError(
            f"{len(changed)} weights of the base differ from those in "
            f"{base_of(model).name_or_path} ({some(changed, 2)}), so the adapter would fit no base "
            "that can be loaded. Before training, save_model(base, tokenizer, folder) and then add "
            "the adapter. After training, merge_adapter(model, folder, tokenizer=tokenizer) saves "
            "a full model"
        )


def _lora_config(model: Any) -> LoraConfig:
    """Return the config of the one LoRA adapter, named "default"; ValueError for other models."""
    if not isinstance(model, PeftModel):
        injected = any(isinstance(module, BaseTunerLayer) for module in model.modules())
        raise ValueError(
            "the model has adapter layers but is not a peft.PeftModel (model.add_adapter of "
            "transformers, or peft's mixed models): load the base again and call "
            "mathsft.add_adapter, or peft.get_peft_model"
            if injected
            else "the model has no adapter; add one with add_adapter or load_adapter"
        )
    for config in model.peft_config.values():
        if type(config) is not LoraConfig:
            raise ValueError(
                f"the adapter has a {type(config).__name__}, and only LoRA can be saved and loaded "
                "here: load the base again, and use add_adapter, or get_peft_model with a "
                "LoraConfig"
            )
    adapter_state(model)  # raises unless there is exactly one, named "default"
    return cast(LoraConfig, model.peft_config["default"])


def _check_in_effect(model: PeftModel, *, rslora: bool) -> None:
    """Raise ValueError unless the adapter is on, not merged, and scaled as its config says."""
    status = model.get_model_status()
    if status.merged_adapters:
        raise ValueError(
            "the adapter is merged into the base's weights: call model.unmerge_adapter() first"
        )
    if status.enabled is not True:
        raise ValueError("the adapter is switched off: call model.enable_adapter_layers() first")
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer) or "default" not in layer.scaling:
            continue
        r, alpha, scale = (d["default"] for d in (layer.r, layer.lora_alpha, layer.scaling))
        expected = alpha / (math.sqrt(r) if rslora else r)
        if not math.isclose(scale, expected):
            raise ValueError(
                f"{name} is scaled by {scale:.4g}, but lora_alpha and r of its config give a scale "
                f"of {expected:.4g} after loading: undo the change (scale_layer, set_scale)"
            )


def _check_settings(config: LoraConfig) -> None:
    start = config.init_lora_weights
    if start not in STARTS:
        raise ValueError(
            f"init_lora_weights={start!r} takes a part out of the base's weights, and the adapter "
            "alone does not say which part. Before training, use init_lora_weights=True "
            f"(or {', '.join(map(repr, STARTS[2:]))}). After training, merge_adapter(model, "
            "folder, tokenizer=tokenizer) saves a full model"
        )
    default, given = LoraConfig().to_dict(), config.to_dict()
    known = _RESTORED | _NO_MATTER
    others = [k for k, v in given.items() if k not in known and v and v != default[k]]
    if others:
        raise ValueError(
            f"{', '.join(others)}: it is not known whether an adapter with this setting of "
            "LoraConfig is the same after saving and loading. Leave it out"
        )


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> Path:
    """Write the full model (safetensors), its generation config and its tokenizer.

    ``load_model(folder)`` loads it again. The folder is written completely or not at all. What
    was written is read back and compared. An existing model is replaced; a README.md and hidden
    files beside it stay. The weights keep their dtype. With several processes, call it in each of
    them, as with `save_adapter`.

    Raises ValueError for a model with an adapter, 4-bit weights, or weights that DeepSpeed's
    ZeRO-3 has sharded, if the folder holds an adapter or files of another kind, or if a file
    differs from what is in memory.
    """
    folder = Path(folder)
    if has_adapter(model):
        raise ValueError(
            "the model has an adapter: save_adapter writes that alone, and merge_adapter(model, "
            "folder, tokenizer=tokenizer) a full model with it"
            if isinstance(model, PeftModel)
            else "the model has adapter layers but is not a peft.PeftModel: load the base again, "
            "and add the adapter with add_adapter or peft.get_peft_model"
        )
    if getattr(model, "is_quantized", False):
        raise ValueError(
            "4-bit weights are not what the checkpoint had, and none of them was trained, so "
            "there is nothing to save: load the base by its name again"
        )
    in_first(partial(check_folder, folder, holds="model"), device=model.device.type)
    check_not_emptied(model)
    state = whole_state(model)

    def write() -> None:
        with replaced_folder(folder) as new:
            model.save_pretrained(new, state_dict=state)
            save_text_files(new, model, tokenizer)
            check_saved_model(new, state)

    in_first(write, device=model.device.type)
    # The weights are no longer those of the base that the model is named after.
    model.name_or_path = model.config.name_or_path = str(folder)
    return folder
