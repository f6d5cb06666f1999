"""What a LoRA adapter adapts, and how: peft's `LoraConfig` with our defaults and checks."""

import copy
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from peft import LoraConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

from mathsft.names import unknown_name
from mathsft.numbers import check_numbers

# r and lora_alpha as QLoRA's authors and most recipes have them: an update scaled by 2. All linear
# layers, as adapting attention alone fell short (arXiv:2305.14314, section 4).
DEFAULTS: Mapping[str, Any] = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": "all-linear",
    "task_type": "CAUSAL_LM",
}


def lora_config(given: LoraConfig | None = None, **settings: Any) -> LoraConfig:
    """peft's `LoraConfig` from single ``settings`` of it, with `DEFAULTS` for those not given.

    A ``given`` one is taken as it is, and copied: peft writes into what it uses.

    Raises ValueError for a setting that `LoraConfig` does not have, naming the nearest; for both
    at once, for another adapter's configuration, and for a number that cannot be meant.
    """
    if given is not None:
        if type(given) is not LoraConfig:
            raise ValueError(
                f"a {type(given).__name__} was given, and adapters here are LoRA: give a LoraConfig"
            )
        if settings:
            raise ValueError(
                f"a LoraConfig and {', '.join(settings)} beside it: put all into one of the two"
            )
        config = copy.deepcopy(given)
        config.task_type = config.task_type or "CAUSAL_LM"
        check_numbers({name: getattr(config, name) for name in ("r", "lora_alpha", "lora_dropout")})
        return config
    known = [field.name for field in fields(LoraConfig)]
    for name in settings:
        if name not in known:
            raise ValueError(unknown_name("LoRA setting", name, known, shown=len(DEFAULTS)))
    check_numbers(settings)
    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    return LoraConfig(**{**DEFAULTS, **lists})


def fit_to_model(config: LoraConfig, model: Any) -> LoraConfig:
    """The configuration for this model, changed in place.

    "all-linear" becomes the last names of the model's linear layers but the output head, where
    those names fit no other module: peft would write down every layer of a small model. GPT-2's
    layers are stored the other way round, which peft wants to know (``fan_in_fan_out``).

    Raises ValueError where ``target_modules`` or ``modules_to_save`` names what the model lacks.
    """
    names = [name for name, _ in model.named_modules()]
    linear = linear_layers(model)
    if config.target_modules == DEFAULTS["target_modules"]:
        short = list(dict.fromkeys(name.rpartition(".")[2] for name in linear))
        if [name for name in names if name.rpartition(".")[2] in short] == list(linear):
            config.target_modules = set(short)
    if any(isinstance(module, Conv1D) for module in linear.values()):
        config.fan_in_fan_out = True
    if not isinstance(config.target_modules, str):
        absent = [
            name
            for name in sorted(config.target_modules or ())
            if not any(f".{known}".endswith(f".{name}") for known in names)
        ]
        if absent:
            last = dict.fromkeys(name.rpartition(".")[2] for name in linear)
            raise ValueError(
                f"{type(model).__name__} has no module named {', '.join(absent)}. Its linear "
                f"layers: {', '.join(last) or 'none'}. Give target_modules=(…) of these"
            )
    for name in config.modules_to_save or ():
        if not any(known.endswith(name) for known in names):  # as peft looks for them
            last = dict.fromkeys(known.rpartition(".")[2] for known in names if known)
            raise ValueError(f"modules_to_save: {unknown_name('module', name, last, shown=20)}")
    return config


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """Every linear layer but the output head, by name, in the model's order.

    In 4 bits too, and GPT-2's `Conv1D`. The weights of a mixture's experts are no layers in
    transformers: they stand together in one tensor, and only ``target_parameters`` adapts them.
    """
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def unadapted_experts(config: LoraConfig, model: Any) -> int:
    """Numbers in the experts' weights of a mixture, if the configuration adapts none of them."""
    if config.target_parameters:
        return 0
    return sum(p.numel() for _, p in model.named_parameters() if p.ndim == 3)
