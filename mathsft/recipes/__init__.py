"""What differs between a laptop, a T4 and larger machines: one commented YAML file each.

A recipe has sections; the keys of a section are the keyword arguments of one function:
``model`` → ``load_model``; ``train`` and ``test`` (worked problems), ``choices_train`` and
``choices`` (multiple choice) → ``load_problems``; ``sft`` → ``sft_trainer``;
``multiple_choice``, and ``mixing`` (the many short runs of lesson 03) →
``multiple_choice_trainer``; ``worked`` → ``worked_answers``.
"""

import inspect
from collections.abc import Callable
from importlib import import_module, resources
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mathsft.device import default_profile
from mathsft.names import unknown_name

_SECTIONS = {
    "model": ("mathsft.models.loading", "load_model"),
    "train": ("mathsft.data.problems", "load_problems"),
    "test": ("mathsft.data.problems", "load_problems"),
    "choices_train": ("mathsft.data.problems", "load_problems"),
    "choices": ("mathsft.data.problems", "load_problems"),
    "sft": ("mathsft.training.sft", "sft_trainer"),
    "multiple_choice": ("mathsft.training.multiple_choice", "multiple_choice_trainer"),
    "mixing": ("mathsft.training.multiple_choice", "multiple_choice_trainer"),
    "worked": ("mathsft.evaluation.worked", "worked_answers"),
}

# Where the keys go that a trainer of ours does not name itself.
_REST = {
    "sft": ("trl", "SFTConfig"),
    "multiple_choice": ("transformers", "TrainingArguments"),
    "mixing": ("transformers", "TrainingArguments"),
}


def load_recipe(profile: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """The sections of a recipe, each a dict of keyword arguments, checked against its function.

    Args:
        profile: a shipped recipe's name, or the path of a YAML file; None takes the one
            for this machine (`mathsft.device.default_profile`).

    Raises:
        FileNotFoundError: no such recipe; the message lists those that ship.
        ValueError: the file is no mapping of sections; an unknown section or key (the
            message names the nearest); a text where a number, or true or false, belongs; a
            fraction where a whole number does. YAML reads ``1e-5`` as text: what is meant as
            a number is converted, never passed on.
    """
    import yaml

    name = str(profile or default_profile())
    shipped = {p.name.removesuffix(".yaml"): p for p in resources.files(__name__).iterdir()
               if p.name.endswith(".yaml")}  # fmt: skip
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise FileNotFoundError(unknown_name("recipe", name, sorted(shipped)) + "; or give a file")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: a recipe is a mapping of sections, found {recipe!r}")
    for section, arguments in recipe.items():
        if section not in _SECTIONS:
            raise ValueError(f"{path}: {unknown_name('section', str(section), _SECTIONS)}")
        if not isinstance(arguments, dict):
            raise ValueError(f"{path}: section {section!r} must map keys to values")
        recipe[section] = _checked(arguments, section=section, path=str(path))
    return recipe


def _checked(arguments: dict[str, Any], *, section: str, path: str) -> dict[str, Any]:
    module, name = _SECTIONS[section]
    function: Callable[..., Any] = getattr(import_module(module), name)
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters
    known = [key for key, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    if len(known) < len(parameters):  # the rest goes to the library, whose names count as well
        rest = getattr(import_module(_REST[section][0]), _REST[section][1])
        hints = {**get_type_hints(rest), **hints}
        known += [key for key in inspect.signature(rest).parameters if key not in known]
    checked = {}
    for key, value in arguments.items():
        where = f"{path}: {section}.{key}"
        if key not in known:
            raise ValueError(f"{where}: {unknown_name('key', str(key), known)} ({name})")
        checked[key] = _value(value, hints.get(key), where)
    return checked


def _value(value: Any, hint: Any, where: str) -> Any:
    """``value`` as ``hint`` wants it; YAML's texts for numbers are converted, also in a dict."""
    if isinstance(value, dict):
        return {key: _number_or_text(inner) for key, inner in value.items()}
    union = get_origin(hint) in (Union, UnionType)
    kinds = set(get_args(hint)) if union else {hint}
    if str in kinds or isinstance(value, bool) or not isinstance(value, str | float):
        return value
    if not kinds & {int, float}:
        if isinstance(value, str) and bool in kinds:
            raise ValueError(f"{where}: true or false is wanted, found the text {value!r}")
        return value
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{where}: a number is wanted, found the text {value!r}") from None
    if float in kinds:
        return number
    if not number.is_integer():
        raise ValueError(f"{where}: a whole number is wanted, found {value!r}")
    return int(number)


def _number_or_text(value: Any) -> Any:
    """Inside a dict no hint says what is wanted: a text that reads as a number is one."""
    if isinstance(value, dict):
        return {key: _number_or_text(inner) for key, inner in value.items()}
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value
