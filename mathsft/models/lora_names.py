"""Names of modules in LoRA's settings: one name, several, or a pattern.

peft reads a text as a pattern for whole names, or letter by letter, so "q_proj" would name no
layer. Here a text of plain names means these names, as in a list.
"""

import re
from collections.abc import Mapping
from typing import Any

from mathsft.checks import unknown_name

ALL_LINEAR = "all-linear"
_NAMES = re.compile(r"[\w.-]+(\s*,\s*[\w.-]+)*")
_PATTERNS = ("target_modules", "exclude_modules")  # of peft; the others are always names
_LISTS = (*_PATTERNS, "modules_to_save", "target_parameters")
_LAYERS = ("layers_to_transform", "layers_pattern")


def read_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with names as lists. "all-linear" and patterns stay texts.

    Raises ValueError for a value of another type.
    """
    found = {key: _names(key, value) for key, value in settings.items()}
    layers = found.get("layers_to_transform")
    numbers = layers if isinstance(layers, list | tuple) else [layers]
    if layers is not None and not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(
            f"layers_to_transform={layers!r}: give the number of a layer, from 0 on, or a list"
        )
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(found.get(key, {}) or {}, Mapping):
            raise ValueError(f"{key}={found[key]!r}: give a mapping from names to numbers")
    return found


def _names(key: str, value: Any) -> Any:
    if key not in _LISTS or value is None:
        return list(value) if isinstance(value, tuple) else value
    if isinstance(value, str):
        if value == ALL_LINEAR and key == "target_modules":
            return value
        if _NAMES.fullmatch(value):
            return [name.strip() for name in value.split(",")]
        if key in _PATTERNS:
            return value
    if isinstance(value, str) or not isinstance(value, list | tuple | set | frozenset):
        raise ValueError(f"{key}={value!r}: give the name of a module, or a list of names")
    names = sorted(value) if isinstance(value, set | frozenset) else list(value)
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key}={value!r}: the names of modules are texts")
    return ALL_LINEAR if key == "target_modules" and names == [ALL_LINEAR] else names


def check_parameters(config: Any, model: Any) -> None:
    """Raise ValueError if ``target_parameters`` names a weight that the model lacks."""
    weights = [name for name, _ in model.named_parameters()]
    for name in config.target_parameters or ():
        if not any(f".{known}".endswith(f".{name}") for known in weights):
            raise ValueError(f"target_parameters: {unknown_name('weight', name, weights, shown=8)}")


def layers_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Remove and return the settings that peft refuses beside "all-linear", to be set later.

    "all-linear" becomes a list of names as soon as the model is known, and they fit then.
    """
    if settings.get("target_modules") != ALL_LINEAR:
        return {}
    return {key: settings.pop(key) for key in _LAYERS if settings.get(key) is not None}
