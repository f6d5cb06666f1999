"""Typed options, the same for command lines, YAML files and notebooks.

Types, defaults and help come from the functions and dataclasses that take the values; jsonargparse
reads values by the types. This module adds what it lacks: the nearest name for a misspelt key, and
one line that says which key of which file, or which option, has which wrong value.
"""

import builtins
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from datetime import date
from enum import Enum
from functools import cache
from inspect import Parameter, signature, unwrap
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mathsft.checks import check_numbers, load_yaml, unknown_name

_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text",
    list: "a list", dict: "a mapping", NoneType: "null",
}  # fmt: skip
_LISTS = (list, tuple, set, Sequence, Iterable, Collection)


@dataclass(frozen=True)
class Option:
    """One setting.

    ``hint``: its type, as YAML can hold it. ``default``: what its function uses if it is not
    given; None if there is no default, or if the library decides. ``inside``: the options of a
    mapping's keys, such as those of ``model.lora``; with ``named``, of each of its values, such as
    the data sets of ``mix.datasets``. ``refused``, ``line_only``: the reason, if it would change
    nothing, or counts on a command line only. ``ruled``: `mathsft.checks` checks it.
    """

    hint: Any
    default: Any = None
    help: str = ""
    required: bool = False
    inside: Mapping[str, "Option"] | None = None
    named: bool = False
    refused: str = ""
    line_only: str = ""
    ruled: bool = True


def options_of(
    source: Callable[..., Any], *, skip: Collection[str] = (), defaults: bool = True
) -> dict[str, Option]:
    """The arguments of a function or a dataclass as options, with help from its docstring.

    ``skip``, ``**arguments``, and what YAML cannot hold, such as a loaded model, are left out.
    Without ``defaults`` none is read: a library's default may depend on the machine.
    """
    from docstring_parser import parse

    hints = _hints(source)
    described = reversed(source.__mro__) if isinstance(source, type) else [source]
    told = {
        one.arg_name: one.description or ""
        for each in described  # a class inherits settings, and what is said about them
        for one in parse(each.__doc__ or "").params
    }
    if is_dataclass(source):
        told |= {f.name: f.metadata["help"] for f in fields(source) if "help" in f.metadata}
    found = {}
    for name, parameter in signature(source).parameters.items():
        hint = plain_type(hints.get(name, Any))
        several = parameter.kind in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
        if hint is not None and not several and name not in skip:
            required = parameter.default is Parameter.empty
            default = parameter.default if defaults and not required else None
            help = " ".join(told.get(name, "").split())
            found[name] = Option(hint, default, help, required=required)
    return found


def _hints(source: Any) -> dict[str, Any]:
    """The types of a function's arguments, or of a dataclass's fields."""
    plain = isinstance(source, type) and not is_dataclass(source)
    made: Any = source.__init__ if plain else source
    try:
        return get_type_hints(made)
    except NameError:  # a type that is imported only for type checkers
        known = {**vars(builtins), **unwrap(made).__globals__}
        return get_type_hints(made, localns=defaultdict(lambda: object, known))


def plain_type(hint: Any) -> Any:
    """The type as YAML can hold it; None if YAML cannot.

    A path becomes a text, an enumeration one of its values, and a dataclass a mapping.
    """
    base, inner = get_origin(hint) or hint, get_args(hint)
    if base in (Union, UnionType):
        if any(_is(kind, Enum) for kind in inner):  # `SaveStrategy | str`: no other text is valid
            inner = tuple(kind for kind in inner if kind is not str)
        plain = [one for one in map(plain_type, inner) if one is not None]
        return Union[tuple(plain)] if {*plain} - {NoneType} else None  # noqa: UP007
    if base is Any or base is Literal:
        return hint
    if _is(base, Enum):
        return Literal[tuple(str(member.value) for member in base)]
    if _is(base, PurePath):
        return str
    if _is(base, Mapping) or is_dataclass(base):
        value = plain_type(inner[1]) if len(inner) == 2 else Any
        return value and dict[str, value]  # type: ignore[valid-type]
    if base in _LISTS:
        kinds = tuple(kind for kind in inner if kind is not ...)
        value = plain_type(Union[kinds]) if inner else Any  # noqa: UP007
        return value and list[value]  # type: ignore[valid-type]
    return base if base in _WORDS else None


def _is(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def allowed(hint: Any) -> dict[Any, Any]:
    """The types that a hint allows: ``{list: list[str], str: str}`` for ``list[str] | str``."""
    one_of = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return {get_origin(kind) or kind: kind for kind in one_of}


def walk(options: Mapping[str, Option]) -> Iterator[tuple[tuple[str, ...], Option]]:
    """Every option by its keys, also those inside another: ``("lora",)`` and ``("lora", "r")``."""
    for name, option in options.items():
        yield (name,), option
        if option.inside and not option.named:
            yield from (((name, *keys), one) for keys, one in walk(option.inside))


def checked(
    given: Mapping[Any, Any], options: Mapping[str, Option], where: str, *, text: bool = False
) -> dict[str, Any]:
    """Read the values in ``given`` by their options; messages have ``where`` before a key's name.

    Args:
        text: values are texts of a command line, not values of a YAML file.

    Raises ValueError for an unknown key (naming the nearest), one that would change nothing or must
    be on the line, a value of the wrong type, and an impossible number (`mathsft.checks`).
    """
    found = {}
    for key, value in given.items():
        option = options.get(key)
        if option is None:
            known = [name for name, one in options.items() if not one.refused]
            raise ValueError(f"{where}{key}: {unknown_name('key', str(key), known, shown=30)}")
        if option.refused:
            raise ValueError(f"{where}{key} would change nothing: {option.refused}")
        if option.line_only and not text:
            raise ValueError(f"{where}{key}: {option.line_only}")
        found[str(key)] = _value(value, option, f"{where}{key}", text)
    check_numbers({key: one for key, one in found.items() if options[key].ruled}, where=where)
    return found


def _value(value: Any, option: Option, where: str, text: bool) -> Any:
    given, kinds = value, allowed(option.hint)
    if text and isinstance(value, str):
        value = _from_line(value, kinds, where)
    if isinstance(value, Mapping) and dict in kinds:
        inside = option.inside
        if inside and option.named:
            inside = dict.fromkeys(value, Option(dict[str, Any], inside=inside))
        if inside:
            return checked(value, inside, f"{where}.", text=text)
        if text and value is given:  # given by keys with dots
            value = {key: _value(one, Option(Any), where, text) for key, one in value.items()}
    if Any in kinds or (isinstance(value, Mapping) and Any in get_args(kinds.get(dict))):
        return _numbers(value)  # jsonargparse would turn the text "no" into False
    if int in kinds and float not in kinds:
        value = _whole(value)
    quoted = isinstance(given, str) and not text and bool in kinds
    none = value is None and NoneType not in kinds  # which jsonargparse accepts
    if not none and not (quoted and not {str, Literal} & kinds.keys()):
        from jsonargparse import ArgumentError

        try:
            read = _reader(option.hint).parse_object({"value": value}).value
            return value if isinstance(value, int) else read  # 2 epochs stay 2, and not 2.0
        except ArgumentError:
            pass
    raise ValueError(f"{where}: {_wrong(given, kinds, text)}")


@cache
def _reader(hint: Any) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser


def _from_line(value: str, kinds: Mapping[Any, Any], where: str) -> Any:
    """Read a text of a command line: as a mapping, as a list (also ``a,b``), or as a text."""
    if Any in kinds or (value[:1] in ("{", "[") and {dict, list} & kinds.keys()):
        return load_yaml(value, where)
    parts = [part.strip() for part in value.split(",")]
    names = all(re.fullmatch(r"[\w./@ -]+", part) for part in parts)  # a pattern may have commas
    if list in kinds and value != "null" and (str not in kinds or (len(parts) > 1 and names)):
        return parts
    return value


def _wrong(value: Any, kinds: Mapping[Any, Any], text: bool) -> str:
    """What is wrong with a value, and what is expected instead."""
    words = [_WORDS[kind] for kind in kinds if kind in _WORDS]
    if int in kinds and float in kinds:
        words.remove(_WORDS[int])
    choices = [str(choice) for choice in get_args(kinds.get(Literal))]
    if choices and isinstance(value, str):
        return unknown_name("value", value, choices + ["true or false"] * (bool in kinds))
    wanted = " or ".join(["one of " + ", ".join(choices)] * bool(choices) + words)
    if isinstance(value, list) and list not in kinds:
        return f"one value is expected ({wanted}), found the list {value}"
    found = f"the text {value!r}" if isinstance(value, str) else str(value)
    hint = ""
    if {str, Literal} & kinds.keys() and isinstance(value, date | int | float) and not text:
        hint = " (YAML reads no as false, and dates and numbers not as text): put it in quotes"
    return f"{wanted} is expected, found {found}{hint}"


def _whole(value: Any) -> Any:
    """1000 for 1e3, also as a text; what is not a whole number stays as it is."""
    if not isinstance(value, str | float):
        return value
    try:
        return int(float(value)) if float(value).is_integer() else value
    except ValueError:
        return value


def _numbers(value: Any) -> Any:
    """Turn texts that read as numbers into numbers: in a mapping no type says what is expected."""
    if isinstance(value, Mapping):
        return {key: _numbers(inner) for key, inner in value.items()}
    for kind in (int, float) if isinstance(value, str) else ():
        with suppress(ValueError):
            return kind(value)
    return value
