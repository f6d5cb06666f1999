"""Several recipes and a command line, the later over the earlier."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mathsft.options import Option
from mathsft.processes import say

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
