"""Read a command's options from a command line and its configs: their values, by section."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from mathsft.checks import check_values, load_yaml, unknown_name
from mathsft.files import read_text
from mathsft.options import Option, allowed, checked, walk
from mathsft.processes import say
from mathsft.recipes import Layers, read_recipe, shipped_recipes

CONFIG = Option(str, help="options in a YAML file; those on the command line win")
# Flags that end the process.
_FLAGS = {"help": "show this page", "print_config": "show the resulting options as YAML"}


@dataclass
class Options:
    """The options of ``mathsft COMMAND``; `read` gives what a command line says.

    Args:
        command, about: its name, and a line of help.
        plain: the options without a section, such as ``--output_dir``.
        positional: the options given without a name, in order; a list takes all that are left.
        sections: the options of a recipe's sections, ``--SECTION.KEY``.
        always: sections that are always there, with their defaults, even if nothing is given.
        shorthand: the section whose keys may be given without its name.
        recipe: names the recipe to use if there is no ``--config``.
    """

    command: str
    about: str
    plain: Mapping[str, Option] = field(default_factory=dict)
    positional: Mapping[str, Option] = field(default_factory=dict)
    sections: Mapping[str, Mapping[str, Option]] = field(default_factory=dict)
    always: Sequence[str] = ()
    shorthand: str = ""
    recipe: Callable[[], str] | None = None

    def __post_init__(self) -> None:
        self.all = {"": {**self.plain, **self.positional}, **self.sections}
        # By name, with dots: the section, the keys in it, and the option.
        self.known: dict[str, tuple[str, list[str], Option]] = {}
        for section, options in self.all.items():
            for keys, option in walk(options):
                name = ".".join([section, *keys] if section else keys)
                self.known[name] = (section, [*keys], option)
        for keys, option in walk(self.all.get(self.shorthand, {})):
            self.known.setdefault(".".join(keys), (self.shorthand, [*keys], option))

    def read(self, arguments: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """The sections, and the plain and positional options that are given.

        Configs come first, in their order; then the options, even those before ``--config``.
        A wrong option ends the process with one line and status 2; ``--help`` and
        ``--print_config`` end it with 0.
        """
        try:
            return self._read(arguments)
        except (ValueError, OSError) as error:
            told = " ".join(str(error).split())
            sys.stderr.write(f"mathsft {self.command}: {told} (--help lists all)\n")
        sys.exit(2)

    def _read(self, arguments: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        check_values(arguments)
        line, unnamed = split(arguments)
        flags = {name for name, _ in line} & _FLAGS.keys()
        if "help" in flags:
            self.parser().print_help()
            sys.exit(0)
        layers = Layers(self.all)
        configs = [text for name, text in line if name == "config"]
        for config in configs or ([self.recipe()] if self.recipe else []):
            self._add_config(layers, config)
        values = [
            self._value(*place) for place in line if place[0] not in ("config", *_FLAGS)
        ]  # before any is set: data given here replaces the configs' data
        layers.begin({one for one, *_ in values}, [[one, *keys] for one, keys, _ in values])
        for section, keys, value in values:
            layers.put(section, keys, value)
        for name, option in self.positional.items():
            taken = len(unnamed) if list in allowed(option.hint) else 1
            if unnamed:
                value = unnamed[:taken] if list in allowed(option.hint) else unnamed[0]
                layers.put("", [name], value)
            unnamed = unnamed[taken:]
        if unnamed:
            raise ValueError(f"{unnamed[0]!r} has no option's name before it: --NAME VALUE")
        sections = layers.complete(["", *self.always])
        plain = sections.pop("")
        if "print_config" in flags:
            import yaml

            shown = {key: v for key, v in plain.items() if not self.all[""][key].line_only}
            print(yaml.safe_dump(sections or shown, sort_keys=False, allow_unicode=True), end="")
            sys.exit(0)
        return sections, plain

    def _add_config(self, layers: Layers, config: str | None) -> None:
        if not config:
            raise ValueError("--config: a file is expected, found nothing")
        if not self.sections:
            given = load_yaml(read_text(config), config)
            if not isinstance(given, dict):
                raise ValueError(f"{config}: expected options and their values, found {given!r}")
            layers.add({"": checked(given, self.plain, f"{config}: ")})
            return
        recipe, shipped = read_recipe(config), config in shipped_recipes()
        idle = sorted(recipe.keys() - self.sections.keys())
        if idle and not shipped:  # a shipped recipe is for every command
            say(f"{config}: not read by mathsft {self.command}: {', '.join(idle)}", to=sys.stderr)
        used = {name: keys for name, keys in recipe.items() if name not in idle}
        layers.add(used, shipped=shipped)

    def _value(self, name: str, text: str | None) -> tuple[str, list[str], Any]:
        """The section and the keys of an option, and the value that it is given."""
        if name in self.sections:
            if text == "null":
                return name, [], None
            raise ValueError(f"--{name}: null leaves the section out; to give a key: --{name}.KEY")
        section, keys, option = self._place(name)
        if text is None and bool in allowed(option.hint):
            text = "true"  # a bare flag
        if text is None:
            raise ValueError(f"--{name}: a value is expected, found nothing")
        value: Any = text
        for key in reversed(keys):
            value = {key: value}
        found = checked(value, self.all[section], f"--{section}." if section else "--", text=True)
        for key in keys:
            found = found[key]
        return section, keys, found

    def _place(self, name: str) -> tuple[str, list[str], Option]:
        if name in self.known:
            return self.known[name]
        head, _, tail = name.rpartition(".")
        while head:  # a key inside a mapping
            section, keys, option = self.known.get(head, ("", [], Option(None)))
            if dict in allowed(option.hint):
                nested = option.inside or Any in get_args(allowed(option.hint)[dict])
                return section, keys + (tail.split(".") if nested else [tail]), Option(None)
            head, _, key = head.rpartition(".")
            tail = f"{key}.{tail}"
        names = [*_FLAGS, *(name for name, (*_, one) in self.known.items() if not one.refused)]
        raise ValueError(unknown_name("option", name, names, shown=12))

    def parser(self) -> Any:
        """A jsonargparse parser of this command, for the help page and the shell's completion."""
        from argparse import SUPPRESS

        from jsonargparse import ArgumentParser

        usage = f"mathsft {self.command} [--config RECIPE] [--SECTION.KEY VALUE ...]"
        parser = ArgumentParser(
            prog=f"mathsft {self.command}",
            description=self.about,
            usage=f"{usage} [--print_config]" if self.sections else None,
        )
        for name, option in self.positional.items():
            nargs = "+" if list in allowed(option.hint) else "?"
            parser.add_argument(name, nargs=nargs, type=str, help=option.help)
        if "config" in self.plain:
            flag = "--print_config"
            parser.add_argument(flag, action="store_true", help=_FLAGS["print_config"])
        for section, options in {"": self.plain, **self.sections}.items():
            title = f"--{section}.KEY; --{section} null leaves the section out"
            group = parser.add_argument_group(title) if section else parser
            for keys, option in walk(options):
                if option.refused:
                    continue
                # A default is shown only for an option that is not part of another.
                shown = option.default is not None and not (option.inside or keys[1:])
                several = list in allowed(option.hint)  # jsonargparse would offer --KEY+ as well
                group.add_argument(
                    "--" + ".".join([section, *keys] if section else keys),
                    type=str if several else option.hint,
                    default=option.default if shown else SUPPRESS,
                    help=option.help.replace("%", "%%") + " (several: a,b)" * several,
                )
        return parser


def split(arguments: Sequence[str]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Each option's name with its text, None for a bare flag; and the texts without a name."""
    named: list[tuple[str, str | None]] = []
    unnamed = []
    left = ["--help" if argument == "-h" else argument for argument in arguments]
    while left:
        argument = left.pop(0)
        if not argument.startswith("--"):
            unnamed.append(argument)
            continue
        name, equals, text = argument[2:].partition("=")
        if not equals and name not in _FLAGS and left and not left[0].startswith("--"):
            equals, text = "=", left.pop(0)
        named.append((name, text if equals else None))
    return named, unnamed


def completion(commands: Sequence[Options], shell: str = "bash") -> str:
    """A script, made by shtab, that completes commands and options in a shell.

    Raises ImportError without shtab, and ValueError for a shell that shtab does not know.
    """
    from jsonargparse import ArgumentParser

    try:
        from shtab import SUPPORTED_SHELLS
    except ImportError:
        raise ImportError("completion needs the package shtab: pip install shtab") from None
    if shell not in SUPPORTED_SHELLS:
        raise ValueError(unknown_name("shell", shell, SUPPORTED_SHELLS))
    parser = ArgumentParser(prog="mathsft")
    subcommands = parser.add_subcommands(required=False)
    for options in commands:
        subcommands.add_subcommand(options.command, options.parser(), help=options.about)
    return str(parser.get_completion_script(f"shtab-{shell}"))
