"""Whether what is trained can be saved and loaded again: asked before training, not after it."""

import math
from typing import Any, cast

import peft
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer

from mathsft.models.adapter_checks import adapter_state, base_of, brought_tensors
from mathsft.models.adapter_files import some
from mathsft.models.adapter_fit import DOUBLY_WRAPPED, STARTS
from mathsft.models.identity import checkpoint_differences, is_adapters_own
from mathsft.models.sharding import local, places

# Settings of LoRA with which a saved adapter gives back the model, by test. Others are refused.
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
    """Raise ValueError unless `save_adapter` and `load_adapter` will give this model back.

    The adapter must be LoRA, one, and named "default". All that is trained must be part of it,
    and the base must still be what its checkpoint holds: it is loaded from there. Of each tensor
    eight values are compared.
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
            "modules in modules_to_save of peft's LoraConfig. After it, merge_adapter(model, "
            "folder, tokenizer=tokenizer) saves a full model with them"
        )
    changed = checkpoint_differences(base_of(model), without=brought_tensors(model))
    if changed:
        raise ValueError(
            f"{len(changed)} weights of the base are not what {base_of(model).name_or_path} holds "
            f"({some(changed, 2)}), so that the adapter would fit no base that can be loaded. "
            "Before training, save_model(base, tokenizer, folder) and then add the adapter. After "
            "it, merge_adapter(model, folder, tokenizer=tokenizer) saves a full model"
        )


def _lora_config(model: Any) -> LoraConfig:
    """Of the one LoRA adapter, in a `PeftModel`, named "default"; ValueError for other kinds."""
    if not isinstance(model, PeftModel):
        injected = any(isinstance(module, BaseTunerLayer) for module in model.modules())
        raise ValueError(
            "the model has adapter layers but is no peft.PeftModel (model.add_adapter of "
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
    adapter_state(model)  # raises unless there is one, named "default"
    return cast(LoraConfig, model.peft_config["default"])


def _check_in_effect(model: PeftModel, *, rslora: bool) -> None:
    """A loaded adapter is switched on, apart from the base, and scaled as its config says."""
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
                f"{name} is scaled by {scale:.4g}, and by lora_alpha and r of its config it would "
                f"be by {expected:.4g} after loading: undo the change (scale_layer, set_scale)"
            )


def _check_settings(config: LoraConfig) -> None:
    start = config.init_lora_weights
    if start not in STARTS:
        raise ValueError(
            f"init_lora_weights={start!r} takes a part out of the base's weights, and no loader "
            "can tell which from the adapter alone. Before training, use init_lora_weights=True "
            f"(or {', '.join(map(repr, STARTS[2:]))}). After it, merge_adapter(model, folder, "
            "tokenizer=tokenizer) saves a full model"
        )
    default, given = LoraConfig().to_dict(), config.to_dict()
    known = _RESTORED | _NO_MATTER
    others = [k for k, v in given.items() if k not in known and v and v != default[k]]
    if others:
        raise ValueError(
            f"{', '.join(others)}: it is not known whether an adapter with this setting of "
            "LoraConfig is the same after saving and loading. Leave it out"
        )
