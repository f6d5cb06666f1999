"""Results of calls and sums in a chat template that would fill the memory: refused before."""

import math
import re
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import SandboxedEnvironment

MOST_CHARACTERS = 100_000_000  # of one text, or of all that a template writes
_MOST_BITS = 10_000  # of a whole number
LARGEST = 100_000  # whole number as a width
_WIDTH = re.compile(r"(?:%[-+# 0]*|:[^{}]?[<>=^]?)([1-9]\d{4,})").finditer  # "%99999d", "{:99999}"
_WIDE = {"do_center": "width", "do_indent": "width", "tojson": "indent"}  # and where it stands
_CALLS = {*_WIDE, "str_join", "sync_do_join", "do_replace", "do_format", "identity"}
_CALL = SandboxedEnvironment.call


class TemplateBoundError(TemplateError):
    """A chat template that does not end, or that calculates with very large numbers."""


def number(word: str) -> int:
    """A whole number as a template writes it; 10**12 for a very long one."""
    return int(word.replace("_", ""), 0) if len(word) < 12 else 10**12


def widths(pattern: str) -> Iterable[str]:
    """The widths of five digits and more in a pattern such as "%99999d"."""
    return [found[1] for found in _WIDTH(pattern)]


def too_large(what: str) -> TemplateBoundError:
    """The error for what would fill the memory."""
    return TemplateBoundError(f"{what} fills the memory: is a text put behind itself in a loop?")


def check_call(name: str, frame: FrameType) -> None:
    """Raise TemplateBoundError for a call in a template whose result would be very large."""
    given = frame.f_locals if name in _CALLS else {}
    if name in _WIDE:
        _check_wide([given.get(_WIDE[name])])
    elif name in ("str_join", "sync_do_join"):
        parts = given.get("seq" if name == "str_join" else "value")
        if isinstance(parts, list | tuple):
            _check_size(sum(len(part) for part in parts if isinstance(part, str)))
    elif name == "identity":  # of the text between set and endset
        _check_size(len(str(given["x"])))
    elif name == "do_replace":
        _check_size(str(given.get("s")).count(str(given["old"])) * len(str(given["new"])))
    elif name == "do_format":
        _check_pattern(str(given.get("value")), given.get("args") or given.get("kwargs"))


def checked_call(
    self: SandboxedEnvironment, context: Any, called: Any, /, *args: Any, **k: Any
) -> Any:
    """Call what a template calls, unless it is a text's method whose result is very large."""
    text = getattr(getattr(called, "__wrapped__", called), "__self__", None)  # format is wrapped
    if isinstance(text, str):
        name, values = called.__name__, [*args, *k.values()]
        if name == "replace" and len(values) > 1:
            _check_size(text.count(str(values[0])) * len(str(values[1])))
        elif name == "join" and values and isinstance(values[0], list | tuple):
            _check_size(sum(len(text) + len(part) for part in values[0] if isinstance(part, str)))
        else:
            _check_wide(values)
        if name in ("format", "format_map"):
            _check_pattern(text, tuple(values))
    return _CALL(self, context, called, *args, **k)


def _check_size(characters: int) -> None:
    if characters > MOST_CHARACTERS:
        raise too_large("a text")


def _check_wide(values: Iterable[Any]) -> None:
    if any(isinstance(value, int) and value > LARGEST for value in values):
        raise too_large("a text")


def _check_pattern(pattern: str, values: Any) -> None:
    """Raise for values in a pattern ("%9d", "{:9}") that make it very wide or very long."""
    parts = list(values.values()) if isinstance(values, Mapping) else values
    parts = parts if isinstance(parts, list | tuple) else [parts]
    _check_wide(map(number, widths(pattern)))
    _check_wide(parts if "*" in pattern else ())
    longest = max((len(part) for part in parts if isinstance(part, str)), default=0)
    _check_size((pattern.count("%") + pattern.count("{")) * longest)


def checked_operation(
    self: SandboxedEnvironment, _: Any, operator: str, left: Any, right: Any
) -> Any:
    """The result of a sum, a product or a pattern with values, unless it is very large."""
    sized = [len(side) for side in (left, right) if isinstance(side, str | list | tuple)]
    whole = [abs(side) for side in (left, right) if isinstance(side, int)]
    if operator == "+" and sum(sized) > MOST_CHARACTERS:
        raise too_large("a text or a list")
    if operator == "*" and (
        math.prod((*sized, *whole)) > MOST_CHARACTERS
        if sized
        else sum(number.bit_length() for number in whole) > _MOST_BITS
    ):
        raise too_large("a product")
    if operator == "%" and isinstance(left, str):
        _check_pattern(left, right)
    return self.binop_table[operator](left, right)
