"""What differs between a laptop, a T4 and larger machines: one commented YAML file each.

A recipe has sections; the keys of a section are the keyword arguments of one function:

- ``model`` → ``load_model``; ``freeze`` → ``freeze``;
- ``train`` and ``test`` (worked problems or conversations), ``choices_train`` and ``choices``
  (multiple choice) → ``load_problems``; ``mix`` → ``mix``, with the arguments of
  ``load_problems`` for each name in its ``datasets``; ``add_choices`` → ``add_choices``;
- ``sft`` → ``sft_trainer``; ``multiple_choice``, and ``mixing`` (the many short runs of
  lesson 03) → ``multiple_choice_trainer``; ``persist`` → ``persist``;
- ``worked`` → ``worked_answers``; ``show_samples`` → ``show_samples``.

Models, data sets and folders that a function is called with are no keys: whoever calls it
gives them (``NOT_KEYS``). Neither is a token: recipes are kept with the runs.
"""

import inspect
from collections.abc import Callable
from datetime import date
from enum import Enum
from importlib import import_module, resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mathsft.device import default_profile
from mathsft.names import unknown_name
from mathsft.numbers import check_numbers
from mathsft.yaml_text import load_yaml

_SECTIONS = {
    "model": ("mathsft.models.loading", "load_model"),
    "freeze": ("mathsft.models.freezing", "freeze"),
    "train": ("mathsft.data.problems", "load_problems"),
    "test": ("mathsft.data.problems", "load_problems"),
    "choices_train": ("mathsft.data.problems", "load_problems"),
    "choices": ("mathsft.data.problems", "load_problems"),
    "mix": ("mathsft.data.mixtures", "mix"),
    "add_choices": ("mathsft.data.choices", "add_choices"),
    "sft": ("mathsft.training.make", "sft_trainer"),
    "multiple_choice": ("mathsft.training.make", "multiple_choice_trainer"),
    "mixing": ("mathsft.training.make", "multiple_choice_trainer"),
    "persist": ("mathsft.training.persist", "persist"),
    "show_samples": ("mathsft.training.samples", "show_samples"),
    "worked": ("mathsft.evaluation.worked", "worked_answers"),
}
NOT_KEYS = {
    "model", "tokenizer", "problems", "eval_problems", "test", "output_dir", "run_dir", "callbacks",
    "arguments", "prompt", "hub_token", "parallelism_config",
}  # fmt: skip

# Where the keys go that a trainer of ours does not name itself.
_REST = {
    "sft": ("transformers", "TrainingArguments"),
    "multiple_choice": ("transformers", "TrainingArguments"),
    "mixing": ("transformers", "TrainingArguments"),
}


def section_function(section: str) -> Callable[..., Any]:
    """The function whose keyword arguments are the keys of a section."""
    module, name = _SECTIONS[section]
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def library_arguments(section: str) -> Any:
    """The library's class that takes a training section's further keys; None for other sections."""
    module, name = _REST.get(section, ("", ""))
    return getattr(import_module(module), name) if module else None


def no_keys(section: str) -> dict[str, str]:
    """Arguments of that class that our trainers do not heed, and what to say of each."""
    from mathsft.training.arguments import unheeded

    return {} if library_arguments(section) is None else unheeded()


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package: their files by name."""
    files = (Path(str(path)) for path in resources.files(__name__).iterdir())
    return {path.stem: path for path in sorted(files) if path.suffix == ".yaml"}


def load_recipe(profile: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """The sections of a recipe, each a dict of keyword arguments, checked against its function.

    Args:
        profile: a shipped recipe's name, a YAML file, or a run's folder with its
            ``config.yaml``; None takes the recipe for this machine
            (`mathsft.device.default_profile`).

    Raises:
        FileNotFoundError: no such recipe; the message lists those that ship.
        ValueError: the file is no mapping of sections; an unknown section or key (the
            message names the nearest); a key given twice; a text where a number, or true or
            false, belongs; a fraction where a whole number does; a number that cannot be meant
            (`mathsft.numbers`). YAML reads ``1e-5`` as text: what is meant as a number is
            converted, never passed on.
    """
    name = str(profile or default_profile())
    shipped = shipped_recipes()
    path = shipped.get(name, Path(name))
    if path.is_dir():
        path = path / "config.yaml"  # a run's folder
    if not path.is_file():
        raise FileNotFoundError(unknown_name("recipe or file", name, shipped))
    recipe = load_yaml(path.read_text(encoding="utf-8"), path)
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
    function, rest = section_function(section), library_arguments(section)
    hints = get_type_hints(function)
    known = list(inspect.signature(function).parameters)
    if rest is not None:  # the library's names count as well
        theirs = get_type_hints(rest)
        own = {k: h for k, h in hints.items() if k not in theirs or h not in (str, str | None)}
        hints = {**theirs, **own}  # where ours says "a text", theirs may say which
        known += [key for key in inspect.signature(rest).parameters if key not in known]
    refused = no_keys(section)
    known = [key for key in known if key not in NOT_KEYS and key not in refused]
    checked = {}
    for key, value in arguments.items():
        where = f"{path}: {section}.{key}"
        if key in refused:
            raise ValueError(f"{where} would change nothing: {refused[key]}")
        if key not in known:
            raise ValueError(
                f"{where}: {unknown_name('key', str(key), known, shown=30)} ({function.__name__})"
            )
        if (section, key) == ("mix", "datasets"):
            checked[key] = _datasets(value, path)
        else:
            checked[key] = _value(value, hints.get(key), where)
            check_numbers({key: checked[key]}, where=f"{path}: {section}.")
    return checked


def _datasets(value: Any, path: str) -> dict[str, dict[str, Any]]:
    """The data sets of a mixture: by name, the arguments of ``load_problems``."""
    if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
        raise ValueError(f"{path}: mix.datasets must map each name to keys of load_problems")
    return {
        str(name): _checked(arguments, section="train", path=f"{path}: mix.datasets.{name}")
        for name, arguments in value.items()
    }


def _value(value: Any, hint: Any, where: str) -> Any:
    """``value`` as ``hint`` wants it; YAML's texts for numbers are converted, also in a dict."""
    if isinstance(value, dict):
        return {key: _number_or_text(inner) for key, inner in value.items()}
    union = get_origin(hint) in (Union, UnionType)
    kinds = set(get_args(hint)) if union else {hint}
    enums = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)}
    for enum in enums:  # such as IntervalStrategy | str, of which no other text will do
        allowed = [str(member.value) for member in enum]
        if isinstance(value, str) and value not in allowed:
            raise ValueError(f"{where}: {unknown_name('value', value, allowed)}")
    plain = kinds - {NoneType} - enums
    if isinstance(value, list) and plain and plain <= {int, float, bool, str}:
        raise ValueError(f"{where}: one value is wanted, found the list {value}")
    if plain == {bool} and isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{where}: true or false is wanted, found {value}")
    if isinstance(value, bool) and plain and plain <= {int, float}:
        raise ValueError(f"{where}: a number is wanted, found {value}")
    if str in kinds and isinstance(value, date | int | float) and not kinds & {bool, int, float}:
        if where.endswith(".fsdp"):  # annotated as a text by transformers, which wants true
            return value
        raise ValueError(
            f"{where}: a text is wanted, found {value} (YAML reads no as false, and a date or a "
            "number as such): put it in quotes"
        )
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
