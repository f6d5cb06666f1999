"""What differs between a laptop, a T4 and larger machines: one commented YAML file each.

A recipe has sections; the keys of a section are the keyword arguments of one function:

- ``model`` → ``load_model``, with the fields of peft's ``LoraConfig`` in ``lora``; ``freeze`` →
  ``freeze``;
- ``train`` and ``test``, ``choices_train`` and ``choices`` (multiple choice) → ``load_problems``;
  ``mix`` → ``mix_datasets``, with the arguments of ``load_problems`` for each name in its
  ``datasets``; ``add_choices`` → ``add_choices``;
- one for each objective, by its name: the objective's own settings, ``max_length``, and the
  arguments of ``transformers.TrainingArguments``; ``mixing`` (the many short runs of lesson 03)
  as ``multiple_choice``;
- ``persist`` → ``persist``; ``worked`` → ``worked_answers``; ``show_samples`` → ``show_samples``.

Models, data sets and folders that a function is called with are no keys: whoever calls it
gives them (``sections.NOT_KEYS``). Neither is a token: recipes are kept with the runs.
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from mathsft.checks import load_yaml, unknown_name
from mathsft.device import default_profile
from mathsft.options import Option, checked
from mathsft.processes import say
from mathsft.recipes.sections import recipe_sections

# Sections of data by the key without which there is none.
_DATA = {
    "train": "source", "test": "source", "choices_train": "source", "choices": "source",
    "mix": "parts",
}  # fmt: skip
# If the first is given, what a shipped recipe has in the others does not go with it.
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
    "folder; may be given several times, the later wins",
)


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
            (`mathsft.checks`). YAML reads ``1e-5`` as text: what is meant as a number is
            converted, never passed on.
    """
    sections = read_recipe(profile or default_profile())
    return {name: keys for name, keys in sections.items() if keys is not None}


def read_recipe(profile: str | Path) -> dict[str, dict[str, Any] | None]:
    """As `load_recipe`; None for a section that is null, which leaves out what is under it."""
    name = str(profile)
    shipped = shipped_recipes()
    path = shipped.get(name, Path(name))
    if path.is_dir():
        path = path / "config.yaml"  # a run's folder
    if not path.is_file():
        raise FileNotFoundError(unknown_name("recipe or file", name, shipped))
    recipe = load_yaml(path.read_text(encoding="utf-8"), path)
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: a recipe is a mapping of sections, found {recipe!r}")
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
    """Sections of several recipes and of a command line, the later over the earlier.

    A shipped recipe describes a machine, and its data is an example. Data that is given over it
    takes its place: a ``source`` that of the whole section, and of the recipe's data that goes with
    it, as a mixture's ``parts`` do; a line says what is left out.
    """

    options: Mapping[str, Mapping[str, Option]]
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    examples: set[str] = field(default_factory=set)

    def add(self, layer: Mapping[str, Any], *, shipped: bool = False) -> None:
        """Put a recipe over what there is; ``shipped``: one of ours."""
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
        """A new layer: its sections, and each place, section and keys, that it gives a value."""
        fresh = {section for section, *keys in places if keys == [_DATA.get(section)]}
        if "mix" not in self.sections:  # else one part changes
            fresh |= {
                section for section, *keys in places if [section, *keys[:1]] == ["mix", "parts"]
            }
        self.examples -= fresh
        for section in fresh - {"mix"}:  # other parts may be of the same ``datasets``
            self.sections.pop(section, None)
        for data, *others in _TOGETHER:
            for name in {*others} & self.sections.keys() - {*given}:
                if data in fresh and (name in self.examples or name == "mix"):
                    del self.sections[name]
                    line = f"{name}: the recipe's is left out, since {data} is given"
                    say(line, to=sys.stderr)

    def put(self, section: str, keys: Sequence[str], value: Any) -> None:
        """Set a value at its keys in a section; without keys the section, None to leave it out."""
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
        """All sections, those of ``always`` also if nothing is given, with their defaults.

        Raises ValueError for a section that lacks what its function cannot do without.
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
