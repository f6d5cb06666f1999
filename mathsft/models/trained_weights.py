"""Which weights are trained: those of a LoRA adapter, or some of the model's own.

LoRA is peft's `LoraConfig` with our defaults and checks. `freeze` chooses weights by patterns on
their names.
"""

import copy
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import fields
from fnmatch import fnmatchcase
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mathsft.checks import check_numbers, unknown_name
from mathsft.models.lora_names import check_parameters, layers_of, read_names
from mathsft.processes import say

# r and lora_alpha as in many recipes: the update is scaled by 2. All linear layers, because
# adapting only attention gave worse results (arXiv:2305.14314, section 4).
DEFAULTS: Mapping[str, Any] = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": "all-linear",
    "task_type": "CAUSAL_LM",
}


def lora_config(given: LoraConfig | None = None, **settings: Any) -> LoraConfig:
    """Make peft's `LoraConfig` from single ``settings``, with `DEFAULTS` for the others.

    A ``given`` config keeps its settings, without `DEFAULTS`. It is copied: peft changes it in use.

    A module's name, or several with commas between, mean the same as a list of them
    (`mathsft.models.lora_names`).

    Raises ValueError for a setting that `LoraConfig` does not have (with the nearest name), for a
    config and settings together, for another adapter's config, and for an impossible number.
    """
    if given is not None:
        if type(given) is not LoraConfig:
            raise ValueError(
                f"a {type(given).__name__} was given, but adapters here are LoRA: give a LoraConfig"
            )
        if settings:
            raise ValueError(
                f"a LoraConfig and {', '.join(settings)} were given: put them into the LoraConfig, "
                "or give single settings only"
            )
        config = copy.deepcopy(given)
        for name, value in read_names(vars(given)).items():
            if isinstance(getattr(given, name), str) and isinstance(value, list):
                setattr(config, name, value)
        config.task_type = config.task_type or "CAUSAL_LM"
        check_numbers({name: getattr(config, name) for name in ("r", "lora_alpha", "lora_dropout")})
        return config
    known = [field.name for field in fields(LoraConfig)]
    for name in settings:
        if name not in known:
            raise ValueError(unknown_name("LoRA setting", name, known, shown=len(DEFAULTS)))
    check_numbers(settings)
    read = read_names({**DEFAULTS, **settings})
    later = layers_of(read)
    config = LoraConfig(**read)
    for name, value in later.items():
        setattr(config, name, value)
    return config


def fit_to_model(config: LoraConfig, model: Any) -> LoraConfig:
    """Fit the configuration to this model, in place, and return it.

    "all-linear" becomes the last parts of the names of all linear layers except the output head,
    if no other module has such a name. (peft would list every layer of a small model.) GPT-2's
    layers are stored transposed, and peft needs to know that (``fan_in_fan_out``).

    Raises ValueError if ``target_modules`` or ``modules_to_save`` names a module that the model
    lacks, or ``target_parameters`` a weight.
    """
    names = [name for name, _ in model.named_modules()]
    linear = linear_layers(model)
    if config.target_modules == DEFAULTS["target_modules"]:
        _set_all_linear(config, model, list(linear), names)
    if any(isinstance(module, Conv1D) for module in linear.values()):
        config.fan_in_fan_out = True
    if not isinstance(config.target_modules, str):
        absent = [
            name
            for name in sorted(config.target_modules or ())
            if not any(f".{known}".endswith(f".{name}") for known in names)
        ]
        if absent:
            raise ValueError(
                f"{type(model).__name__} has no module named {', '.join(absent)}. Its linear "
                f"layers: {', '.join(_last(linear)) or 'none'}. Give target_modules=(…) of these"
            )
    check_parameters(config, model)
    for name in config.modules_to_save or ():
        if not any(known.endswith(name) for known in names):  # as peft looks for them
            last = _last(filter(None, names))
            raise ValueError(f"modules_to_save: {unknown_name('module', name, last, shown=20)}")
    return config


def linear_layers(model: Any) -> dict[str, Any]:
    """Return every linear layer except the output head, by name, in the model's order.

    The head of a reward model (``score``) is an output head too. 4-bit layers and GPT-2's `Conv1D`
    are included. In a model that also reads images (Gemma 3), only layers that text passes through
    count. A router that is a linear layer but returns more than a product (Llama 4) is left out,
    because it cannot have an adapter. A mixture's experts are not layers in transformers: their
    weights are together in one tensor, and only ``target_parameters`` adapts them.
    """
    heads = (model.get_output_embeddings(), getattr(model, "score", None))
    config = model.config
    passed = model if config.get_text_config() is config else model.get_decoder()
    inside = set(passed.modules())
    products: dict[type, bool] = {nn.Linear: True, Conv1D: True}
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module in inside and module not in heads:
            kind = type(module)
            if kind not in products:
                products[kind] = _gives_a_product(module)
            if products[kind]:
                found[name] = module
    return found


def mixture_weights(model: Any) -> dict[str, int]:
    """Return the sizes of a mixture's expert and linear weights (no adapter yet); else {}."""
    experts = {name: p.numel() for name, p in model.named_parameters() if _of_experts(p)}
    linear = {f"{n}.weight": m.weight.numel() for n, m in linear_layers(model).items()}
    return experts | linear if experts else {}


def adapted_weights(model: Any) -> set[str]:
    """Return the names, in the base, of the weights that have an adapter."""
    return {
        f"{name.replace('.base_layer', '')}.{getattr(module, 'parameter_name', 'weight')}"
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, BaseTunerLayer)
    }


def _set_all_linear(config: LoraConfig, model: Any, linear: list[str], names: list[str]) -> None:
    short = _last(linear)
    fits = [name for name in names if name.rpartition(".")[2] in short] == linear
    chosen = set(short if fits else linear)
    config.target_modules = chosen  # type: ignore[assignment]  # a set, as peft makes of a list
    if not any(map(_of_experts, model.parameters())):
        return
    # For some mixtures, peft takes a name such as "gate_proj" for an expert's projection, as in
    # transformers 4, even if a linear layer has that name. Experts are adapted only on request.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tried = copy.deepcopy(config)
        tried.lora_dropout, tried.use_dora = 0.0, False  # not possible on experts
        empty = type(model)(copy.deepcopy(model.config))
        read: Any = get_peft_model(empty, tried).peft_config["default"]
    if set(read.target_parameters or ()) != set(config.target_parameters or ()):
        chosen &= read.target_modules  # in place: the configuration holds this very set


def _of_experts(parameter: Tensor) -> bool:
    """Return if it is a stack of matrices; a convolution or a position table has a side of 1."""
    return parameter.ndim == 3 and min(parameter.shape[:2]) > 1


def _gives_a_product(module: Any) -> bool:
    """Test it on a row of zeros. Packed weights (4 bits) always belong to plain layers."""
    weight = module.weight
    if hasattr(weight, "quant_state") or not weight.is_floating_point():
        return True
    with torch.no_grad():
        return isinstance(module(weight.new_zeros(1, module.in_features)), Tensor)


def _last(names: Iterable[str]) -> list[str]:
    """Return the last parts of the names, each once, in their order."""
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


def freeze(model: Any, patterns: str | Iterable[str], *, but: str | Iterable[str] = ()) -> None:
    """Freeze what matches any of ``patterns`` and none of ``but``; print what is left to train.

    Patterns are shell patterns on the names of ``model.named_parameters()``:
    ``freeze(model, "*", but=["*.layers.23.*", "*norm*"])`` trains the last of 24 layers and the
    norms. Weights that were frozen before stay frozen. An adapter's weights also have names
    (``*.lora_A.*``); its base is already frozen.

    A tied weight (an embedding that is also the output head) has two names. It is frozen if one
    of them matches ``patterns`` and neither matches ``but``; the printed line says so.

    Args:
        patterns: one or several patterns for the names of weights to freeze.
        but: one or several patterns for the names of weights to leave unchanged.

    Raises ValueError for a pattern that matches no parameter, and if nothing would be left to
    train; the model is then unchanged.
    """
    frozen = [patterns] if isinstance(patterns, str) else list(patterns)
    kept = [but] if isinstance(but, str) else list(but)
    named = list(model.named_parameters(remove_duplicate=False))
    names = [name for name, _ in named]
    for pattern in (*frozen, *kept):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"freeze: {unknown_name('parameter', pattern, names, shown=8)}. A pattern must "
                f"match a whole name, such as {names[0]!r}"
            )
    aliases: dict[int, list[str]] = {}
    for name, parameter in named:
        aliases.setdefault(id(parameter), []).append(name)
    parameters = {id(parameter): parameter for _, parameter in named}

    def matches(key: int, some: list[str]) -> bool:
        return any(fnmatchcase(name, pattern) for name in aliases[key] for pattern in some)

    chosen = {key for key in aliases if matches(key, frozen) and not matches(key, kept)}
    trained = [p for key, p in parameters.items() if p.requires_grad and key not in chosen]
    if not trained:
        raise ValueError(
            f"freeze: nothing would be left to train after {frozen}" + f" but {kept}" * bool(kept)
        )
    for key in chosen:
        parameters[key].requires_grad_(False)
    total = sum(_numbers(parameter) for parameter in parameters.values())
    left = sum(_numbers(parameter) for parameter in trained)
    tied = [
        f"; {' and '.join(aliases[key])} are one weight (tied), which is "
        + ("trained" if parameters[key].requires_grad else "frozen")
        for key in aliases
        if len(aliases[key]) > 1
    ]
    say(
        f"freeze: {left:,} of {total:,} parameters are trained ({left / total:.1%})" + "".join(tied)
    )


def _numbers(parameter: Any) -> int:
    """Return how many numbers a parameter holds; a 4-bit one packs two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return int((parameter if state is None else state).shape.numel())
