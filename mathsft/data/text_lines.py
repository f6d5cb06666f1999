"""Text files as they are read row by row, compressed or not: UTF-8, or an error with the line."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

_MARK = b"\xef\xbb\xbf"  # some editors put a byte order mark first


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, of ``.gz`` those that are compressed in it.

    Raises ValueError, also while it is read in the ``with`` block, for a compressed file that is
    damaged or cut off.
    """
    compressed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if compressed else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error})") from error


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file without their ends, one at a time.

    Lines end with ``\\n``: JSON allows U+2028 inside a string, and it is no line end there.
    Raises ValueError for bytes that are not UTF-8, with the line.
    """
    begin = 0
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            plain = line.removeprefix(_MARK) if number == 1 else line
            yield _decoded(plain.removesuffix(b"\n"), path, line=number, begin=begin)
            begin += len(line)


def whole_text(path: Path) -> str:
    """The text of a file. Raises ValueError for bytes that are not UTF-8, with the line."""
    with opened(path) as file:
        return _decoded(file.read().removeprefix(_MARK), path, line=1, begin=0)


def _decoded(data: bytes, path: Path, *, line: int, begin: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise ValueError(
            f"{path}, line {line}: not UTF-8 (byte {data[error.start]:#04x} at offset "
            f"{begin + error.start}); save the file as UTF-8"
        ) from error
