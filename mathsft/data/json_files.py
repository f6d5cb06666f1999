"""Rows of JSON files, one at a time: JSON lines, and one array of objects.

An array is read in pieces, so that a large file takes no more memory than its largest row. What
Python cannot read, or would read without a word, is an error that names the row: an integer of
more than 4,300 digits, values nested too deep, a key given twice.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mathsft.data.text import LONGEST_LINE, text_lines, text_pieces
from mathsft.files import nested_too_deep

_SPACES = " \t\r\n"
_MANY = 50  # brackets
_NEAR_THE_END = 20  # characters; an error here may only say that a value is not whole yet


class _TwiceError(Exception):
    """A JSON object has a key twice."""


def first_twice(names: Iterable[str]) -> str | None:
    """The first name that is there twice; None if there is none."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(
            f"an object has the key {first_twice(name for name, _ in pairs)!r} twice, and only one "
            "of the two would count: remove one"
        )
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of a file with one in each line, with the line's number; blank lines have none.

    Raises ValueError, with file and line, for a line that is not usable as JSON.
    """
    for place, line in enumerate(text_lines(path), start=1):
        if line.strip():
            where = f"{path}, row {place}"
            try:
                found = _DECODER.decode(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{where}: not a whole JSON object ({error.msg} at character {error.pos + 1}); "
                    "is the line cut off?"
                ) from error
            except (ValueError, RecursionError, _TwiceError) as error:
                raise _unusable(where, error) from None
            _check_depth(found, line, where)
            yield place, found


def json_array(path: Path) -> Iterator[tuple[int, Any]]:
    """The items of a file that is one array, with their numbers from 1.

    Raises ValueError, with file and line or item, for anything else.
    """
    rest = _Rest(path)
    begin = rest.sign()
    if not begin:
        return
    if begin != "[":
        found = rest.value(f"{path}")
        rest.end()
        raise ValueError(f"{path}: expected one array of objects, found {type(found).__name__}")
    rest.skip()
    place = 0
    if rest.sign() == "]":
        rest.skip()
    else:
        while True:
            place += 1
            yield place, rest.value(f"{path}, row {place}")
            sign = rest.sign()
            if sign not in ("]", ","):
                raise rest.error("Expecting ',' delimiter")
            rest.skip()
            if sign == "]":
                break
    rest.end()


class _Rest:
    """The part of a file that is still to be read; ``_text`` holds a piece of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pieces = text_pieces(path)
        self._text, self._at = "", 0
        self._line, self._column = 1, 1  # where `_text` begins in the file

    def _read_more(self, least: int = 1) -> bool:
        """Drop what was read, and append this many characters; False at the end of the file."""
        gone = self._text[: self._at]
        lines = gone.count("\n")
        self._column = len(gone) - gone.rfind("\n") if lines else self._column + len(gone)
        self._line += lines
        parts = [self._text[self._at :]]
        while least > 0 and (piece := next(self._pieces, "")):
            parts.append(piece)
            least -= len(piece)
        self._text, self._at = "".join(parts), 0
        return least <= 0

    def sign(self) -> str:
        """The next character that is no space; "" at the end of the file."""
        while True:
            while self._at < len(self._text):
                if (found := self._text[self._at]) not in _SPACES:
                    return found
                self._at += 1
            if not self._read_more() and not self._text:
                return ""

    def skip(self) -> None:
        """Go past the character that `sign` gave."""
        self._at += 1

    def value(self, where: str) -> Any:
        """The next value. If it is not whole, more of the file is read, and it is read again."""
        self.sign()
        ended = False
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                near = len(self._text) - _NEAR_THE_END
                broken = error.pos < near and not error.msg.startswith("Unterminated")
                if ended or broken or len(self._text) - self._at > LONGEST_LINE:
                    raise self.error(error.msg, error.pos) from error
            except (ValueError, RecursionError, _TwiceError) as error:
                raise _unusable(where, error) from None
            else:
                whole = not isinstance(found, int | float) or end < len(self._text) - _NEAR_THE_END
                if ended or whole:  # else a number that may go on
                    _check_depth(found, self._text, where, self._at, end)
                    self._at = end
                    return found
            # As much again each time: so the time grows with the length, not with its square.
            ended = not self._read_more(max(1, len(self._text) - self._at))

    def end(self) -> None:
        """Raise ValueError if there is more in the file."""
        if self.sign():
            raise self.error("Extra data")

    def error(self, message: str, at: int | None = None) -> ValueError:
        """The error for the place ``at`` in the text; default: where reading has come to."""
        before = self._text[: self._at if at is None else at]
        lines = before.count("\n")
        line = self._line + lines
        column = len(before) - before.rfind("\n") if lines else self._column + len(before)
        hint = "is the file cut off?"
        if message == "Extra data":
            hint = "one object per line is JSON lines: name the file .jsonl"
        return ValueError(
            f"{self._path}, line {line}: not JSON ({message} at column {column}); {hint}"
        )


def _unusable(where: str, error: Exception) -> ValueError:
    if isinstance(error, _TwiceError):
        return ValueError(f"{where}: {error}")
    reason = "lists or objects nested too deep" if isinstance(error, RecursionError) else error
    return ValueError(f"{where}: not usable as JSON ({reason})")


def _check_depth(value: Any, text: str, where: str, begin: int = 0, end: int | None = None) -> None:
    """Raise ValueError for a value that is nested too deep; its text tells most that are not."""
    brackets = text.count("[", begin, end) + text.count("{", begin, end)
    if brackets > _MANY and nested_too_deep(value):
        raise ValueError(f"{where}: not usable as JSON (lists or objects nested too deep)")
