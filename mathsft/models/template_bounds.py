"""Chat templates come from the hub or from somebody else: rendering one must come to an end.

Jinja's sandbox keeps a template from Python's objects, but not from counting: two loops of 99,999
inside each other take hours, and ``9**9**9**9`` is calculated before the first character is
written. Neither can be stopped from outside, so both are bounded here.
"""

import math
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any

from jinja2 import Environment, TemplateError

_MOST_STEPS = 2_000_000  # the longest templates of the hub take some 30 steps for a message
_LARGE, _LARGEST, _PRODUCT = 100, 100_000, 10_000_000  # whole numbers that a template names
_DEEPEST = 3  # loops in loops: over messages, their parts or calls, and the arguments of these
# Names with which a template can take many steps for a short conversation.
_LONG = {"range", "macro", "recursive", "lipsum", "batch", "slice", "cycle"}
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
    return deepest > _DEEPEST or not _LONG.isdisjoint(names)


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
    """In the block, a template that takes more than two million steps raises TemplateBoundError.

    A step is a line of the code that Jinja makes of the template, or a call. The steps of this
    thread are counted. They are not counted under a debugger or a coverage tool, which count
    lines themselves.
    """
    if sys.gettrace() is not None:
        yield
        return
    steps = 0

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > _MOST_STEPS:
            raise TemplateBoundError(
                f"it takes more than {_MOST_STEPS:,} steps: does a loop or a macro have no end?"
            )
        return count if frame.f_code.co_filename == _FILE else None

    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(None)
