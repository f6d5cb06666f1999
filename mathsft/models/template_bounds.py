"""Chat templates come from the hub or from somebody else: rendering one must come to an end.

Jinja's sandbox keeps a template from Python's objects, but not from counting: two loops of 99,999
inside each other take hours, and ``9**9**9**9`` is calculated before the first character is
written. A text that is put behind itself 40 times fills the memory. None of these can be stopped
from outside, so they are bounded here.
"""

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from types import FrameType
from typing import Any

from jinja2 import Environment, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from mathsft.compat import replaced

try:
    import resource
except ImportError:  # Windows cannot say how much memory was used
    resource = None  # type: ignore[assignment]

_MOST_STEPS = 2_000_000  # the longest templates of the hub take some 30 steps for a message
_LARGE, _LARGEST, _PRODUCT = 100, 100_000, 10_000_000  # whole numbers that a template names
_DEEPEST = 3  # loops in loops: over messages, their parts or calls, and the arguments of these
_MOST_CHARACTERS, _MOST_BYTES = 100_000_000, 2**30  # of one text, and of all that is made
# Names with which a template can take many steps for a short conversation.
_LONG = {"range", "macro", "recursive", "lipsum", "batch", "slice", "cycle"}
# Names with which one variable can become another of several times its size.
_LARGER = {
    *("replace", "join", "format", "tojson", "urlize", "urlencode", "escape", "e", "xmlattr"),
    *("indent", "center", "ljust", "rjust", "zfill", "translate", "expandtabs", "wordwrap"),
    *("map", "sum", "list", "string", "pprint", "*", "%"),
}
_MOST_BITS = 10_000  # of a whole number
_WIDE = {"do_center": "width", "do_indent": "width", "tojson": "indent"}  # and where it stands
_CALLS = {*_WIDE, "str_join", "sync_do_join", "do_replace", "do_format", "identity"}
_CALL = SandboxedEnvironment.call
_WIDTH = re.compile(r"(?:%[-+# 0]*|:[^{}]?[<>=^]?)([1-9]\d{4,})").finditer  # "%99999d", "{:99999}"
_FILE = "<template>"  # the file name of the code that Jinja makes of a template


class TemplateBoundError(TemplateError):
    """A chat template that does not end, or that calculates with very large numbers."""


@cache
def check_template(template: str) -> bool:
    """Raise TemplateBoundError for a power and for large numbers: no chat template needs them.

    Jinja calculates constants while it compiles a template, so this must be called before.

    Args:
        template: its text. Invalid Jinja is left to the compiler.

    Returns:
        Whether its steps must be counted (`bounded`), because of a range, a macro or many loops in
        each other. Without these a template takes as long as its conversation.
    """
    try:
        tokens = [(kind, word) for _, kind, word in Environment().lex(template)]
    except TemplateError:
        return True
    if ("operator", "**") in tokens:
        raise TemplateBoundError("it has a power (**), which can take without end: remove it")
    numbers = [word for kind, word in tokens if kind == "integer"]
    numbers += [found[1] for kind, word in tokens if kind == "string" for found in _WIDTH(word)]
    large = [number for number in map(_number, numbers) if number >= _LARGE]
    if max(large, default=0) > _LARGEST or math.prod(large) > _PRODUCT:
        raise TemplateBoundError(
            f"it names numbers ({', '.join(map(str, large[:3]))}, …) with which it could fill the "
            "memory or take without end: use smaller ones"
        )
    names = [word for kind, word in tokens if kind == "name"]
    depth = deepest = 0
    for name in names:
        depth += (name == "for") - (name == "endfor")
        deepest = max(deepest, depth)
    return deepest > _DEEPEST or not _LONG.isdisjoint(names) or _can_grow(tokens)


def _can_grow(tokens: Sequence[tuple[str, str]]) -> bool:
    """Whether a variable may be made of several copies of others, which doubles it in a loop.

    A variable that is made of one other, and of the conversation, grows only with the latter.
    """
    made: list[tuple[list[str], list[str]]] = []
    words: list[str] = []
    for kind, word in tokens:
        if kind == "block_begin":
            words = []
        elif kind in ("name", "operator"):
            words.append(word)
        elif kind == "block_end" and words:
            sign = {"set": "=", "for": "in"}.get(words[0])
            if words[0] in ("endset", "with"):
                return True
            if sign in words:
                at = words.index(str(sign))
                made.append((words[:at], words[at + 1 :]))
    targets: set[str] = set()
    for _ in range(len(made) + 1):  # a loop's variable counts if what it runs over does
        before = len(targets)
        for target, source in made:
            if target[0] == "set" or not targets.isdisjoint(_roots(source)):
                targets.update(_roots(target[1:]))
        if len(targets) == before:
            break
    for _, source in made:
        used = sum(name in targets for name in _roots(source))
        called = any(pair == ("]", "(") for pair in pairwise(source))  # s["replace"](…)
        if used > 1 or (used and (called or not _LARGER.isdisjoint(source))):
            return True
    return False


def _roots(words: Sequence[str]) -> list[str]:
    """The names of variables: no attributes, and no filters."""
    pairs = zip(["", *words], words, strict=False)
    return [word for before, word in pairs if before not in (".", "|") and word.isidentifier()]


def templates_of(tokenizer: Any) -> Iterable[str]:
    """The texts of a tokenizer's chat templates: none, one, or several with names.

    Args:
        tokenizer: its ``chat_template`` is read.
    """
    found = getattr(tokenizer, "chat_template", None) or ()
    return [found] if isinstance(found, str) else list(dict(found).values())


def _number(word: str) -> int:
    return int(word.replace("_", ""), 0) if len(word) < 12 else 10**12  # it is too large anyway


@contextmanager
def bounded() -> Iterator[None]:
    """In the block, a template raises TemplateBoundError if it takes too many steps or memory.

    A step is a line of the code that Jinja makes of the template, or a call; two million are too
    many. So are a text of 100 million characters, and 1 GiB more than the process ever had. The
    steps of this thread are counted. They are not counted under a debugger or a coverage tool,
    which count lines themselves.
    """
    if sys.gettrace() is not None:
        yield
        return
    steps, written, most = 0, 0, _peak() + _MOST_BYTES

    def count(frame: FrameType, event: str, given: Any) -> Any:
        nonlocal steps, written
        steps += 1
        if steps > _MOST_STEPS:
            raise TemplateBoundError(
                f"it takes more than {_MOST_STEPS:,} steps: does a loop or a macro have no end?"
            )
        if event == "call":
            _check_call(frame.f_code.co_name, frame)
        if event == "return" and isinstance(given, str):  # also what a template writes
            written += len(given)
        if written > _MOST_CHARACTERS or _peak() > most:
            raise _too_large("what it makes")
        return count if frame.f_code.co_filename == _FILE else None

    with replaced(
        SandboxedEnvironment,
        intercepted_binops=frozenset("+*%"),
        call_binop=_checked_operation,
        call=_checked_call,
    ):
        sys.settrace(count)
        try:
            yield
        finally:
            sys.settrace(None)


def _peak() -> int:
    """The most bytes that this process has ever had in memory; 0 on Windows."""
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _too_large(what: str) -> TemplateBoundError:
    return TemplateBoundError(f"{what} fills the memory: is a text put behind itself in a loop?")


def _check_call(name: str, frame: FrameType) -> None:
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


def _checked_call(
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
    if characters > _MOST_CHARACTERS:
        raise _too_large("a text")


def _check_wide(values: Iterable[Any]) -> None:
    if any(isinstance(value, int) and value > _LARGEST for value in values):
        raise _too_large("a text")


def _check_pattern(pattern: str, values: Any) -> None:
    """Raise for values in a pattern ("%9d", "{:9}") that make it very wide or very long."""
    parts = list(values.values()) if isinstance(values, Mapping) else values
    parts = parts if isinstance(parts, list | tuple) else [parts]
    _check_wide(_number(found[1]) for found in _WIDTH(pattern))
    _check_wide(parts if "*" in pattern else ())
    longest = max((len(part) for part in parts if isinstance(part, str)), default=0)
    _check_size((pattern.count("%") + pattern.count("{")) * longest)


def _checked_operation(
    self: SandboxedEnvironment, _: Any, operator: str, left: Any, right: Any
) -> Any:
    """The result of a sum, a product or a pattern with values, unless it is very large."""
    sized = [len(side) for side in (left, right) if isinstance(side, str | list | tuple)]
    whole = [abs(side) for side in (left, right) if isinstance(side, int)]
    if operator == "+" and sum(sized) > _MOST_CHARACTERS:
        raise _too_large("a text or a list")
    if operator == "*" and (
        math.prod((*sized, *whole)) > _MOST_CHARACTERS
        if sized
        else sum(number.bit_length() for number in whole) > _MOST_BITS
    ):
        raise _too_large("a product")
    if operator == "%" and isinstance(left, str):
        _check_pattern(left, right)
    return self.binop_table[operator](left, right)
