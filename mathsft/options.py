"""Command-line options from typed functions and recipes, by jsonargparse."""

import argparse
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser

from mathsft.names import unknown_name
from mathsft.numbers import check_numbers
from mathsft.processes import say
from mathsft.recipes import (
    NOT_KEYS,
    library_arguments,
    load_recipe,
    no_keys,
    section_function,
    shipped_recipes,
)
from mathsft.yaml_text import check_values, load_yaml

_WANTED = r"Expected one of \1. Got value: "


class Options(ArgumentParser):
    """jsonargparse's parser; an unknown option is told with the nearest known one."""

    def __init__(self, command: str, about: str, usage: str | None = None) -> None:
        # A flag's beginning is not the flag: a misspelt one must not pass for another.
        super().__init__(
            prog=f"mathsft {command}", description=about, usage=usage, allow_abbrev=False
        )
        self.command, self.about = command, about
        self.known: list[str] = ["help"]
        self.refused: dict[str, str] = {}

    def add_config(self) -> None:
        """``--config FILE``: the options of this command in YAML; those on the line win."""
        self.add_argument("--config", action=_OptionsFile, help="options in a YAML file")

    def parse(self, arguments: Sequence[str]) -> Any:
        """`parse_args`, with the configs in front: an option on the line wins wherever it is.

        An option that is given twice has its last value, as on other command lines. In a value
        that is a mapping no key may stand twice.
        """
        self.or_error(check_values, arguments)
        return self.parse_args(configs_first(arguments))

    def or_error(self, check: Any, *given: Any) -> Any:
        """What ``check`` gives; an error of it as a line, as of a wrong option."""
        try:
            return check(*given)
        except (ValueError, FileNotFoundError) as error:
            return self.error(str(error))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """One line, without the list of all options (``--help`` has it); exit status 2."""
        unknown = re.match(r"unrecognized arguments: --([^\s=]+)", message)
        unknown = unknown or re.match(r"(?:.*: )?Option '(.+?)' is not accepted", message)
        if unknown and unknown[1] in self.refused:
            message = f"--{unknown[1]} would change nothing: {self.refused[unknown[1]]}"
        elif unknown:
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


class _OptionsFile(ActionConfigFile):
    """``--config`` of a command with plain options: read as `load_yaml` does, numbers checked."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        if Path(values).is_file():
            text = Path(values).read_text(encoding="utf-8")
            given = parser.or_error(load_yaml, text, values)
            if isinstance(given, dict):
                parser.or_error(partial(check_numbers, where=f"{values}: "), given)
        super().__call__(parser, cfg, values, option_string)


class _RecipeFile(ActionConfigFile):
    """``--config``: a shipped recipe's name or a file, checked key by key as `load_recipe` does."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        recipe = parser.or_error(load_recipe, values)
        used = {name: keys for name, keys in recipe.items() if name in parser.sections}
        idle = sorted(recipe.keys() - used.keys())
        if idle and values not in shipped_recipes():  # a recipe of ours is for every command
            say(f"{values}: not read by {parser.prog}: {', '.join(idle)}", to=sys.stderr)
        self.apply_config(parser, cfg, self.dest, json.dumps(used))


class RecipeOptions(Options):
    """The options of a command that runs by a recipe: its sections, with dots.

    ``always`` are sections that the command cannot do without: what is not given has the
    function's default. ``sometimes`` are those that are used where they are given. The
    further arguments of ``function`` are options without a dot, and no part of a recipe.
    """

    def __init__(
        self,
        command: str,
        about: str,
        always: Sequence[str],
        sometimes: Sequence[str],
        function: Any = None,
    ) -> None:
        usage = f"mathsft {command} [--config RECIPE] [--SECTION.KEY VALUE ...] [--print_config]"
        super().__init__(command, about, usage)
        self.sections = [*always, *sometimes]
        self.add_argument(
            "--config",
            action=_RecipeFile,
            help=f"a shipped recipe's name ({', '.join(shipped_recipes())}), a YAML file or a "
            "run's folder; may be given several times, the later wins"
            + ("; default: this machine's" if "model" in always else ""),
        )
        if function is not None:
            names = inspect.signature(function).parameters
            given = {name for name in names if name in ("recipe", "objective", "rows")}
            added = self.add_function_arguments(function, as_group=False, skip={*given})
            self.known += added
            self.unsaid(added)
        for section in self.sections:
            self._add_section(section, optional=section in sometimes)
        for section in self.sections:
            self._add_library(section)

    def _add_section(self, section: str, *, optional: bool) -> None:
        function = section_function(section)
        left_out: set[str | int] = {*NOT_KEYS, "datasets"}
        own = self.add_function_arguments(
            function, section, skip=left_out.intersection(inspect.signature(function).parameters)
        )
        (self.groups or {})[section].title = f"--{section}, the arguments of {function.__name__}"
        quiet = own if optional else []
        if section == "mix":
            self.add_argument(
                "--mix.datasets",
                type=dict[str, dict[str, Any]],
                help="for names in parts, how to read them: keys of load_problems",
            )
            quiet = [*quiet, "mix.datasets"]
        self.known += [*own, *quiet]
        # What nobody gave is not written down, and a section that nobody gave is not used.
        self.unsaid(quiet)
        for action in self._actions:
            if action.dest in own:
                action.required = False

    def _add_library(self, section: str) -> None:
        """The further arguments of transformers' or TRL's class, listed last."""
        library = library_arguments(section)
        if library is None:
            return
        refused = no_keys(section)
        ours = {*inspect.signature(section_function(section)).parameters, *NOT_KEYS, *refused}
        theirs = self.add_class_arguments(
            library,
            section,
            as_group=False,
            fail_untyped=False,
            skip={
                name for name in inspect.signature(library).parameters if name in ours | {"fsdp"}
            },
        )
        # Annotated as a text by transformers, which wants true or false.
        self.add_argument(f"--{section}.fsdp", type=bool | str | None)
        theirs = [*theirs, f"{section}.fsdp"]
        self.known += theirs
        self.refused |= {f"{section}.{name}": why for name, why in refused.items()}
        self.unsaid(theirs)  # a library's default may depend on the machine
        told = {field.name: field.metadata.get("help") for field in dataclasses.fields(library)}
        last = self.add_argument_group(f"{section}, further arguments of {library.__name__}")
        for action in [a for a in self._actions if a.dest in theirs]:
            action.help = told.get(action.dest.partition(".")[2]) or action.help
            self._optionals._group_actions.remove(action)
            last._group_actions.append(action)


def sections_of(options: RecipeOptions, parsed: Any) -> dict[str, dict[str, Any]]:
    """The sections as plain dicts, without those of which nothing was given.

    Raises ValueError where a section lacks what its function cannot do without.
    """
    plain, usual = (
        json.loads(options.dump(values, format="json", skip_none=False, skip_validation=True))
        for values in (parsed, options.get_defaults())
    )
    found = {}
    for section in options.sections:
        keys = plain.get(section)
        wanted = [
            name
            for name, parameter in inspect.signature(section_function(section)).parameters.items()
            if parameter.default is inspect.Parameter.empty and name not in NOT_KEYS
        ]
        if not keys or (wanted and keys == usual.get(section)):
            continue
        for name in wanted:
            if keys.get(name) is None:
                raise ValueError(f"{section}.{name} is missing: give --{section}.{name}")
        found[section] = keys
    return found


def configs_first(arguments: Sequence[str]) -> list[str]:
    """A command line with ``--config FILE`` before all else, in the order given."""
    configs: list[str] = []
    others: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--config":
            configs += [argument, *islice(left, 1)]
        else:
            (configs if argument.startswith("--config=") else others).append(argument)
    return configs + others


def config_given(arguments: list[str]) -> bool:
    """Whether a command line names a config."""
    return any(argument.partition("=")[0] == "--config" for argument in arguments)
