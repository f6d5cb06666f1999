"""Read text files line by line, and give text that looks the same one plain spelling.

Files may be compressed. They must be UTF-8; if not, the error names the line. Unicode has several
characters for one sign: ``’`` and ``'``, ``−`` and ``-``, ``½`` and ``1/2``. Some are invisible.
Answers are read, and questions are compared, in the plain spelling.
"""

import gzip
import html
import re
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from mathsft.files import check_regular

_APOSTROPHES = (
    "\u2018\u2019\u201a\u201b\u2032\u2035\u02b9\u02bb\u02bc\u02bd\u02c8\u00b4"
    "\uff07\uff40\u2039\u203a"
)
_QUOTES = "\u201c\u201d\u201e\u201f\u2033\u2036\u02ba\u00ab\u00bb\u301d\u301e\u301f\uff02"
# Hyphens, dashes and minus signs that Unicode does not call dashes (category Pd).
_DASHES = "\u2212\u02d7\u2043\u2796"
# Invisible characters that Unicode does not call formatting (category Cf).
_SHAPELESS = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
_OTHERS = {"\u2800": " ", "\u066b": ".", "\u066c": ",", "\u066a": "%"}  # Arabic . , %
_RAISED = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b"
_LOWERED = "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089\u208a\u208b"
_LEVEL = str.maketrans(_RAISED + _LOWERED, "0123456789+-" * 2)
_SMALL_FRACTION = re.compile(f"(?<![{_RAISED}])([{_RAISED}]+)[/\u2044\u2215]([{_LOWERED}]+)")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")
_SCRIPT = re.compile(f"[{_RAISED}]+|[{_LOWERED}]+")
# "2½" is 2 1/2, not 21/2; "5①" is not 51. This non-character marks where a sign became digits.
_EDGE = "\uffff"
_BETWEEN_DIGITS = re.compile(rf"(?<=\d){_EDGE}+(?=\d)")
_MOST_MARKS = 30  # in a row; Unicode's stream-safe text has no more, and no language needs them
_MANY_MARKS = re.compile(rf"[^\x00-\u02ff]{{{_MOST_MARKS + 1},}}")
_ESCAPED = re.compile(r"\\+([!-/:-@\[-`{-~])")
# Pandoc's rule for TeX between dollar signs, which leaves "$20 and $30" alone.
_FORMULA = re.compile(r"\$\$?(?=[^\s$])([^$]*?)(?<=[^\s$])\$\$?(?!\d)")
_FORMULA_BRACKETS = re.compile(r"(?<!\\)\\+[()\[\]]")
_LONG_DASH = re.compile(r"--+(?![\d(.])")
_SAME_SIGN = str.maketrans({"\u00d7": "x", "\u00f7": "/", "\u22c5": "\u00b7"})
# These are removed at the end of a text, unless they belong to a number: 5! and n! are factorials,
# 5' and 5" are feet and inches.
_ENDING = ".?,;:!'\"\u3001\u3002\u037e\u061f"
_FACTORIAL_OR_LENGTH = re.compile(r"(?<=\d)['\"]|(?:(?<=[\d)])|(?<=\b[a-z]))!")
_BEGINNING = " '\"\u00a1\u00bf"

LONGEST_LINE = 64 * 2**20  # bytes
_PIECE = 2**20  # bytes
_MOST_BLANK = 1_000_000  # lines in a row without a word: a small compressed file can hold billions
_MARK = b"\xef\xbb\xbf"  # some editors put a byte order mark first


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read its bytes; a ``.gz`` file is decompressed.

    Raises ValueError for a pipe or a device (`mathsft.files.check_regular`), and for a compressed
    file that is damaged or cut off, also later, while the file is read in the ``with`` block.
    """
    check_regular(path)
    compressed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if compressed else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error})") from error
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(f"{path}: cannot be read ({error.strerror or error})") from error


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file one at a time, without their line ends.

    Only ``\\n`` ends a line: JSON allows U+2028 inside a string, where it does not end a line.
    Raises ValueError for bytes that are not UTF-8, and for a line of more than 64 MiB, with the
    line: a small compressed file can hold one that does not fit into memory. Also raised for more
    than a million blank lines in a row.
    """
    begin = blank = 0
    with opened(path) as file:
        for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), b""), start=1):
            if len(line) == LONGEST_LINE:
                raise ValueError(
                    f"{path}, line {number}: more than {LONGEST_LINE:,} bytes, which cannot be a "
                    "row. Is the file damaged, or in another format?"
                )
            blank = blank + 1 if line.isspace() else 0
            _check_blank(blank, path, number)
            plain = line.removeprefix(_MARK) if number == 1 else line
            yield _decoded(plain.removesuffix(b"\n"), path, line=number, begin=begin)
            begin += len(line)


def text_pieces(path: Path) -> Iterator[str]:
    """Yield the text of a file in pieces; ValueError as in `text_lines`, but for long lines."""
    line, begin, rest = 1, 0, b""
    blank = spaces = 0
    with opened(path) as file:
        while piece := file.read(_PIECE):
            spaces = spaces + len(piece) if piece.isspace() else 0
            blank = blank + piece.count(b"\n") if spaces else 0
            _check_blank(blank if spaces < LONGEST_LINE else spaces, path, line)
            data = rest + piece
            if begin == 0:
                data = data.removeprefix(_MARK)
            # The last character may go on in the next piece: it has up to 4 bytes.
            cut = next((n for n in (1, 2, 3) if len(data) >= n and data[-n] >= 0xC0), 0)
            data, rest = (data[:-cut], data[-cut:]) if cut else (data, b"")
            if data:
                yield _decoded(data, path, line=line, begin=begin)
            line, begin = line + data.count(b"\n"), begin + len(data)
        if rest:
            yield _decoded(rest, path, line=line, begin=begin)


def _check_blank(blank: int, path: Path, line: int) -> None:
    if blank > _MOST_BLANK:
        many = f"more than {_MOST_BLANK:,} blank lines in a row"
        raise ValueError(f"{path}, line {line}: {many}. Is the file damaged?")


def _decoded(data: bytes, path: Path, *, line: int, begin: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise ValueError(
            f"{path}, line {line}: not UTF-8 (byte {data[error.start]:#04x} at offset "
            f"{begin + error.start}); save the file as UTF-8"
        ) from error


class _Spelling(dict[int, str]):
    """For `str.translate`: each character's plain spelling, computed once."""

    def __missing__(self, code: int) -> str:
        self[code] = spelled = _spelled(chr(code))
        return spelled


def _spelled(character: str) -> str:
    if character in _OTHERS:
        return _OTHERS[character]
    if character in _APOSTROPHES:
        return "'"
    if character in _QUOTES:
        return '"'
    category = unicodedata.category(character)
    if category == "Pd" or character in _DASHES:
        return "-"
    variation = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    if category == "Cf" or variation or character in _SHAPELESS:
        return ""
    if category == "Cc":
        return character if character.isspace() else ""
    if category == "Zs":
        return " "
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    spelled = unicodedata.normalize("NFKC", character).replace("\u2044", "/")
    if spelled != character and re.search("[0-9]", spelled):
        return f"{_EDGE}{spelled}{_EDGE}"
    return spelled


_SPELLING = _Spelling()


def plain_text(text: str) -> str:
    """``text`` in Unicode's NFKC, with one spelling for more characters that look alike.

    Quotes, apostrophes, dashes, minus signs, spaces and decimal digits become ASCII. Invisible
    characters are removed (zero-width, soft hyphen, byte order mark, direction marks, variation
    selectors, control characters). NFKC alone would change numbers; here ``2½`` is ``2 1/2``
    (not ``21/2``) and ``x²`` is ``x^2`` (not ``x2``). Case and line breaks stay.
    """
    if text.isascii() and not _CONTROL.search(text):
        return text
    text = _SMALL_FRACTION.sub(
        lambda match: f"{_EDGE}{match[1]}/{match[2]}{_EDGE}".translate(_LEVEL), text
    )
    text = _SCRIPT.sub(lambda match: _script(match[0]), text)
    text = _BETWEEN_DIGITS.sub(" ", text.translate(_SPELLING)).replace(_EDGE, "")
    return _normalized(text)


def _normalized(text: str) -> str:
    """``text`` in NFKC. A sign keeps its first `_MOST_MARKS` marks.

    Python sorts the marks of a sign by insertion, which takes the square of their number.
    """
    return unicodedata.normalize("NFKC", _MANY_MARKS.sub(_with_fewer_marks, text))


def _with_fewer_marks(run: re.Match[str]) -> str:
    kept, marks = [], 0
    for character in run[0]:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= _MOST_MARKS:
            kept.append(character)
    return "".join(kept)


def _script(raised: str) -> str:
    return ("^" if raised[0] in _RAISED else "_") + raised.translate(_LEVEL) + _EDGE


def reader_text(text: str) -> str:
    """``text`` without what a reader does not see, for comparing questions.

    In addition to `plain_text`: lower case, single spaces, no HTML or backslash escapes
    (``&amp;``, ``\\$``), formulas without their ``$…$`` or ``\\(…\\)``, ``--`` and ``—`` as one
    dash, TeX's quotes as quotes, × as x and ÷ as /, and no punctuation at the end. Signs inside
    stay: ``3 + 2`` and ``3 - 2``, ``1.5`` and ``15``, ``-5`` and ``5``, ``5!`` and ``5`` differ.
    """
    if "&" in text:
        text = html.unescape(text)
    plain = plain_text(text).translate(_SAME_SIGN) if not text.isascii() else plain_text(text)
    plain = plain.casefold()
    if not plain.isascii():  # casefold can leave characters that NFKC combines
        plain = _normalized(plain)
    if "\\" in plain:
        plain = _ESCAPED.sub(r"\1", _FORMULA_BRACKETS.sub(" ", plain))
    plain = " ".join(plain.split())
    if "$" in plain:
        plain = _FORMULA.sub(r"\1", plain)
    if "--" in plain:
        plain = _LONG_DASH.sub("-", plain)
    if "`" in plain or "''" in plain:
        plain = plain.replace("``", '"').replace("''", '"').replace("`", "'")
    return _without_ending(plain.lstrip(_BEGINNING))


def _without_ending(text: str) -> str:
    last = len(text) - 1
    while last >= 0 and (
        text[last].isspace()
        or (text[last] in _ENDING and not _FACTORIAL_OR_LENGTH.match(text, last))
    ):
        last -= 1
    return text[: last + 1]
