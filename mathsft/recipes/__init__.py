"""Recipes for a laptop, a T4 and larger machines: one commented YAML file each.

A recipe has sections; the keys of a section are the keyword arguments of one function:

- ``model`` → ``load_model``, with the fields of peft's ``LoraConfig`` in ``lora``; ``freeze`` →
  ``freeze``;
- ``train`` and ``test``, ``choices_train`` and ``choices`` (multiple choice) → ``load_problems``;
  ``mix`` → ``mix_datasets``, with the arguments of ``load_problems`` for each name in its
  ``datasets``; ``add_choices`` → ``add_choices``;
- one for each objective, with its name: the objective's own settings, ``max_length``, and the
  arguments of ``transformers.TrainingArguments``; ``mixing`` (the many short runs of lesson 03)
  has the keys of ``multiple_choice``;
- ``persist`` → ``persist``; ``worked`` → ``worked_answers``;
  ``sample`` → ``sample_groups``; ``show_samples`` → ``show_samples``.

Models, data sets and folders that a function is called with are not keys: the caller gives them
(``sections.NOT_KEYS``). A token is not a key either, since recipes are stored with the runs.
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from mathsft.checks import load_yaml, unknown_name
from mathsft.device import default_profile
from mathsft.files import read_text
from mathsft.options import Option, checked
from mathsft.processes import say
from mathsft.recipes.sections import recipe_sections

# Sections of data, each with the key that it must have.
_DATA = {
    "train": "source", "test": "source", "choices_train": "source", "choices": "source",
    "mix": "parts",
}  # fmt: skip
# If the first is given, a shipped recipe's data in the others does not belong to it.
_TOGETHER = (
    ("train", "test", "mix"),
    ("choices_train", "choices", "mix"),
    ("mix", "train", "test", "choices_train", "choices"),
)


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package: their files by name."""
    files = (Path(str(path)) for path in resources.files(__name__).iterdir())
    return {path.stem: path for path in sorted(files) if path.suffix == ".yaml"}


RECIPE = Option(
    str,
    help=f"a shipped recipe's name ({', '.join(shipped_recipes())}), a YAML file or a run's "
    "folder; may be given several times, later ones win",
)


def load_recipe(profile: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """Load a recipe: for each section its keyword arguments, checked against its function.

    Args:
        profile: a shipped recipe's name, a YAML file, or a run's folder with its
            ``config.yaml``; None takes the recipe for this machine
            (`mathsft.device.default_profile`).

    Raises:
        FileNotFoundError: no such recipe; the message lists the shipped ones.
        ValueError: the file is not a mapping of sections; an unknown section or key (the
            message names the nearest); a key given twice; a text instead of a number, or of true
            or false; a fraction instead of a whole number; an impossible number
            (`mathsft.checks`). YAML reads ``1e-5`` as text: it is converted if the key takes a
            number.
    """
    sections = read_recipe(profile or default_profile())
    return {name: keys for name, keys in sections.items() if keys is not None}


def read_recipe(profile: str | Path) -> dict[str, dict[str, Any] | None]:
    """As `load_recipe`; a section that is null is None, and removes that of an earlier recipe."""
    name = str(profile)
    shipped = shipped_recipes()
    path = shipped.get(name, Path(name))
    if path.is_dir():
        path = path / "config.yaml"  # a run's folder
    if not path.is_file():
        raise FileNotFoundError(unknown_name("recipe or file", name, shipped))
    recipe = load_yaml(read_text(path), path)
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: a recipe must be a mapping of sections, found {recipe!r}")
    sections = recipe_sections()
    for section, keys in recipe.items():
        if section not in sections:
            raise ValueError(f"{path}: {unknown_name('section', str(section), sections)}")
        if keys is not None and not isinstance(keys, dict):
            raise ValueError(f"{path}: section {section!r} must map keys to values")
        if keys is not None:
            recipe[section] = checked(keys, sections[section], f"{path}: {section}.")
    return recipe


@dataclass
class Layers:
    """Sections of several recipes and of a command line; later values replace earlier ones.

    A shipped recipe describes a machine, and its data is an example. Data that is given later
    replaces it: a ``source`` replaces its whole section and the recipe's other data that belongs
    to it; new ``parts`` of a mixture replace that other data. A line says what is left out.
    """

    options: Mapping[str, Mapping[str, Option]]
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    examples: set[str] = field(default_factory=set)

    def add(self, layer: Mapping[str, Any], *, shipped: bool = False) -> None:
        """Put a recipe over the earlier layers; ``shipped``: it came with the package."""
        self.begin(layer, [[name, key] for name, keys in layer.items() for key in keys or {}])
        for section, keys in layer.items():
            before = self.sections.get(section, {})
            for key, value in (keys or {}).items():  # such as model.lora, whose keys are options
                former = before.get(key)
                if self.options[section][key].inside and isinstance(former, dict):
                    keys = {**keys, key: {**former, **value}} if isinstance(value, dict) else keys
            self.put(section, [], None if keys is None else {**before, **keys})
        if shipped:
            self.examples |= layer.keys() & _DATA.keys()

    def begin(self, given: Collection[str], places: Collection[Sequence[str]]) -> None:
        """Drop the data that a new layer replaces: its sections, and the places of its values."""
        fresh = {section for section, *keys in places if keys == [_DATA.get(section)]}
        if "mix" not in self.sections:  # else only one part changes
            fresh |= {
                section for section, *keys in places if [section, *keys[:1]] == ["mix", "parts"]
            }
        self.examples -= fresh
        for section in fresh - {"mix"}:  # the new parts may use its ``datasets``
            self.sections.pop(section, None)
        for data, *others in _TOGETHER:
            for name in {*others} & self.sections.keys() - {*given}:
                if data in fresh and (name in self.examples or name == "mix"):
                    del self.sections[name]
                    line = f"{name}: the recipe's section is left out, since {data} is given"
                    say(line, to=sys.stderr)

    def put(self, section: str, keys: Sequence[str], value: Any) -> None:
        """Set a value at its keys in a section; without keys the whole section, None drops it."""
        if not keys and value is not None:
            self.sections[section] = value
        elif not keys and self.sections.pop(section, None) is not None:
            say(f"{section}: left out, since it is null", to=sys.stderr)
        if not keys:
            return
        here: Any = self.sections.setdefault(section, {})
        for key in keys[:-1]:
            if not isinstance(here.get(key), dict):
                here[key] = {}
            here = here[key]
        here[keys[-1]] = value

    def complete(self, always: Collection[str] = ()) -> dict[str, dict[str, Any]]:
        """All sections with their defaults; those of ``always`` are there even if nothing is given.

        Raises ValueError for a section that lacks a required key.
        """
        found = {}
        for section in [*always, *(name for name in self.sections if name not in always)]:
            keys, options = self.sections.get(section, {}), self.options[section]
            for name, option in options.items():
                if option.required and keys.get(name) is None:
                    shown = f"{section}.{name}" if section else name
                    raise ValueError(f"{shown} is missing: give --{shown}")
            usual = {name: one.default for name, one in options.items() if one.default is not None}
            found[section] = {**(usual if section else {}), **keys}
        return found
