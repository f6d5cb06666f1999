"""Command-line options from typed functions and recipes, by jsonargparse."""

import argparse
import inspect
import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser

from mathsft.names import unknown_name
from mathsft.recipes import (
    NOT_KEYS,
    library_arguments,
    load_recipe,
    section_function,
)

_WANTED = r"Expected one of \1. Got value: "


class Options(ArgumentParser):
    """jsonargparse's parser; an unknown option is told with the nearest known one."""

    def __init__(self, command: str, about: str) -> None:
        # A flag's beginning is not the flag: a misspelt one must not pass for another.
        super().__init__(prog=f"mathsft {command}", description=about, allow_abbrev=False)
        self.command, self.about = command, about
        self.known: list[str] = []

    def add_config(self) -> None:
        """``--config FILE``: the options of this command in YAML; those on the line win."""
        self.add_argument("--config", action=ActionConfigFile, help="options in a YAML file")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """One line, without the list of all options (``--help`` has it); exit status 2."""
        unknown = re.match(r"unrecognized arguments: --([^\s=]+)", message)
        unknown = unknown or re.match(r"(?:.*: )?Option '(.+?)' is not accepted", message)
        if unknown:
            message = unknown_name("option", unknown[1], self.known, shown=12)
        flat = " ".join(message.split()).replace("Parser key ", "option ")
        flat = re.sub(r"<class '(\w+)'>", r"\1", flat).replace("NoneType", "null")
        flat = re.sub(r"Does not validate .*Subtypes: \[(.*?)\] .*Given value: ", _WANTED, flat)
        sys.stderr.write(f"{self.prog}: {flat} (--help lists all)\n")
        self.exit(2)

    def add_function(self, function: Any, *, skip: Iterable[str] = ()) -> None:
        """The function's keyword arguments as options, with the help of its docstring."""
        added = self.add_function_arguments(function, skip=set(skip), fail_untyped=False)
        self.known += added
        self.unsaid([name for name in added if name not in inspect.signature(function).parameters])

    def unsaid(self, names: Iterable[str]) -> None:
        """Options that are not there at all unless somebody gives them."""
        for action in self._actions:
            if action.dest in names:
                action.default = argparse.SUPPRESS


class _RecipeFile(ActionConfigFile):
    """``--config``: a shipped recipe's name or a file, checked key by key as `load_recipe` does."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        try:
            recipe = load_recipe(values)
        except (ValueError, FileNotFoundError) as error:
            parser.error(str(error))
        used = {name: keys for name, keys in recipe.items() if name in parser.sections}
        self.apply_config(parser, cfg, self.dest, json.dumps(used))


class RecipeOptions(Options):
    """The options of a command that runs by a recipe: its sections, with dots.

    ``always`` are sections that the command cannot do without: what is not given has the
    function's default. ``sometimes`` are those that are used where they are given.
    """

    def __init__(
        self, command: str, about: str, always: Sequence[str], sometimes: Sequence[str]
    ) -> None:
        super().__init__(command, about)
        self.sections = [*always, *sometimes]
        self.add_argument(
            "--config",
            action=_RecipeFile,
            help="a shipped recipe's name (tiny, t4, a100, a100-8, cluster) or a YAML file; may be "
            "given several times, the later wins; default: the recipe for this machine",
        )
        for section in self.sections:
            self._add_section(section, optional=section in sometimes)

    def _add_section(self, section: str, *, optional: bool) -> None:
        function, rest = section_function(section), library_arguments(section)
        names = list(inspect.signature(function).parameters)
        left_out: set[str | int] = {name for name in names if name in {*NOT_KEYS, "datasets"}}
        own = self.add_function_arguments(function, section, skip=left_out)
        quiet = own if optional else []
        if section == "mix":
            self.add_argument(
                "--mix.datasets",
                type=dict[str, dict[str, Any]],
                help="for names in parts, how to read them: keys of load_problems",
            )
            quiet = [*quiet, "mix.datasets"]
        if rest is not None:
            theirs = inspect.signature(rest).parameters
            quiet = self.add_class_arguments(
                rest,
                section,
                as_group=False,
                fail_untyped=False,
                skip={name for name in theirs if name in {*names, *NOT_KEYS, "fsdp"}},
            )
            # Annotated as a text by transformers, which wants true or false.
            self.add_argument(
                f"--{section}.fsdp",
                type=bool | str | None,
                help="shard the model over the processes (FSDP2); how: fsdp_config",
            )
            quiet = [*quiet, f"{section}.fsdp"]
        self.known += [*own, *quiet]
        # What nobody gave is not written down: a library's default may depend on the machine,
        # and a section that nobody gave is not used.
        self.unsaid(quiet)
        for action in self._actions:
            if action.dest in own:
                action.required = False


def sections_of(options: RecipeOptions, parsed: Any) -> dict[str, dict[str, Any]]:
    """The sections as plain dicts, without those that hold nothing."""
    plain = json.loads(options.dump(parsed, format="json", skip_none=False, skip_validation=True))
    return {
        name: plain[name]
        for name in options.sections
        if plain.get(name) and plain[name].get("source", "") is not None  # rows of nowhere
    }


def config_given(arguments: list[str]) -> bool:
    """Whether a command line names a config."""
    return any(argument.partition("=")[0] == "--config" for argument in arguments)
