"""Chat templates come from the hub or from somebody else: rendering one must come to an end.

Jinja's sandbox keeps a template from Python's objects, but not from counting: two loops of 99,999
inside each other take hours, and ``9**9**9**9`` is calculated before the first character is
written. A text that is put behind itself 40 times fills the memory. None of these can be stopped
from outside, so they are bounded here.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from types import FrameType
from typing import Any

from jinja2 import Environment, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from mathsft.compat import replaced
from mathsft.models import template_sizes
from mathsft.models.template_sizes import (
    LARGEST,
    TemplateBoundError,
    check_call,
    checked_call,
    checked_operation,
    number,
    too_large,
    widths,
)

try:
    import resource
except ImportError:  # Windows cannot say how much memory was used
    resource = None  # type: ignore[assignment]

_MOST_STEPS = 2_000_000  # the longest templates of the hub take some 30 steps for a message
_LARGE, _PRODUCT = 100, 10_000_000  # whole numbers that a template names
_DEEPEST = 3  # loops in loops: over messages, their parts or calls, and the arguments of these
_MOST_BYTES = 2**30  # more than the process had before
# Names with which a template can take many steps for a short conversation.
_LONG = {"range", "macro", "recursive", "lipsum", "batch", "slice", "cycle"}
# Names with which one variable can become another of several times its size.
_LARGER = {
    *("replace", "join", "format", "tojson", "urlize", "urlencode", "escape", "e", "xmlattr"),
    *("indent", "center", "ljust", "rjust", "zfill", "translate", "expandtabs", "wordwrap"),
    *("map", "sum", "list", "string", "pprint", "*", "%"),
}
_FILE = "<template>"  # the file name of the code that Jinja makes of a template


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
    numbers += [one for kind, word in tokens if kind == "string" for one in widths(word)]
    large = [one for one in map(number, numbers) if one >= _LARGE]
    if max(large, default=0) > LARGEST or math.prod(large) > _PRODUCT:
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
            check_call(frame.f_code.co_name, frame)
        if event == "return" and isinstance(given, str):  # also what a template writes
            written += len(given)
        if written > template_sizes.MOST_CHARACTERS or _peak() > most:
            raise too_large("what it makes")
        return count if frame.f_code.co_filename == _FILE else None

    with replaced(
        SandboxedEnvironment,
        intercepted_binops=frozenset("+*%"),
        call_binop=checked_operation,
        call=checked_call,
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
