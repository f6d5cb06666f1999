"""Rows of a local file, or one clear error that says where the file is broken.

A broken file is an error, never a shorter data set: a line that is not JSON, or bytes
that are not UTF-8, mean that the file is not what its owner believes.
"""

import csv
import json
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from mathsft.data.cells import from_arrow, scalar
from mathsft.data.json_files import first_twice, json_array, json_lines
from mathsft.data.text import LONGEST_LINE, opened, text_lines
from mathsft.files import check_writable

SUFFIXES = (".json", ".jsonl", ".parquet", ".csv")
_BATCH = 1000  # rows of a table that are in memory at a time
_SMALL = 2**30  # bytes of a compressed table that are always unpacked
_MOST_TIMES = 100  # a larger one may have so many times its compressed bytes

Row = tuple[int, dict[str, Any]]


def suffix_of(path: Path) -> str:
    """Return the suffix that shows a file's format: in lower case, without ``.gz``."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return name.suffix.lower()


def read_rows(path: Path) -> list[Row]:
    """All rows of a file; see `iterate_rows`."""
    return list(iterate_rows(path))


def iterate_rows(path: Path) -> Iterator[Row]:
    """The rows of a ``.json`` (one array of objects), ``.jsonl``, ``.parquet`` or ``.csv`` file.

    Each may be compressed (``.jsonl.gz``). The file is read as the rows are taken.

    Yields:
        ``(place, row)`` pairs; ``place`` is the line number in JSON lines and the row's number in
        other files, both counted from 1. Blank lines of JSON lines are not rows, nor is
        the first line of a file of `store_attempts`, which holds its settings. In CSV an empty
        cell is None. All other cells are text, except that ``label``, ``weight`` and similar
        columns hold numbers or true and false.

    Raises:
        FileNotFoundError, IsADirectoryError: the file does not exist, or is a folder.
        ValueError: another suffix, a pipe or a device, not UTF-8, not JSON, cut off, no array, a
            row that is not an object or has more than 64 MiB, an object with a key twice (or a
            table with a column twice), or no row at all; the message names the file and, if there
            is one, the row.
    """
    check_file(path)
    readers = {".json": json_array, ".jsonl": json_lines, ".parquet": _parquet, ".csv": _csv}
    found = 0
    for place, row in readers[suffix_of(path)](path):
        if place == 1 and _is_head(row):
            continue
        found += 1
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, row {place}: expected an object with named columns, "
                f"found {type(row).__name__}"
            )
        yield place, row
    if not found:
        raise ValueError(f"{path}: the file holds no rows")


def _is_head(row: Any) -> bool:
    """Whether this is the first line of a file that sampling writes: how it was made, no row."""
    return isinstance(row, dict) and row.keys() == {"kind", "settings"}


def check_file(path: Path) -> None:
    """Raise the error of `iterate_rows` if ``path`` is not a file that it can read."""
    known = f"{', '.join(SUFFIXES)}, also with .gz"
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give one file ({known})")
    if suffix_of(path) not in SUFFIXES:
        found = suffix_of(path) or "a file without a suffix"
        raise ValueError(f"{path}: cannot read {found}; give one of {known}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file (looked from {Path.cwd()})")


def write_rows(rows: Any, file: str | Path = "mixture.jsonl") -> Path:
    """Write rows to ``file`` (``.jsonl`` or ``.parquet``), so that `read_rows` can read it.

    Args:
        rows: a data set, or a list of rows.
        file: a path that does not exist yet; missing folders are created.

    Raises ValueError for another suffix and for a value that the format cannot hold, and
    FileExistsError if the file exists already.
    """
    path = check_new_file(file)
    writers = {".jsonl": partial(_write_lines, rows), ".parquet": partial(_write_table, rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.stem}.new-{os.getpid()}{path.suffix}")
    try:
        writers[path.suffix.lower()](new)
        os.replace(new, path)  # a killed process leaves no half file under the name
    finally:
        new.unlink(missing_ok=True)
    return path


def check_new_file(file: str | Path = "mixture.jsonl") -> Path:
    """Raise what `write_rows` would raise for this file; call it before the rows are made."""
    path = Path(file)
    if path.suffix.lower() not in (".jsonl", ".parquet"):
        raise ValueError(f"{path}: give a name that ends with .jsonl or .parquet")
    if path.exists():
        raise FileExistsError(f"{path} exists already: give another file, or remove it")
    check_writable(path.parent)
    return path


def _write_lines(rows: Any, path: Path) -> None:
    """``to_json`` is not used: pandas turns -1 into -1.0 in a column that has empty cells."""
    with path.open("w", encoding="utf-8") as file:
        for place, row in enumerate(rows):
            try:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            except (TypeError, UnicodeEncodeError) as error:  # a date; half a character
                raise ValueError(f"row {place} cannot be written as JSON: {error}") from error


def _write_table(rows: Any, path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    if not isinstance(rows, list):
        rows.to_parquet(path)
        return
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    except pyarrow.ArrowException as error:
        raise ValueError(f"the rows do not fit into one table ({error}): write .jsonl") from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    place, compressed = 0, path.suffix.lower() == ".gz"
    try:
        with opened(path) as file, tempfile.TemporaryFile() as copy:
            if compressed:  # a table is read from its end, so it is unpacked first
                _unpack(file, copy, path)
            table = pyarrow.parquet.ParquetFile(copy if compressed else file)
            if twice := first_twice(table.schema_arrow.names):
                raise ValueError(
                    f"{path}: there are two columns {twice!r}, and only one of them would "
                    "count: remove one"
                )
            for batch in table.iter_batches(batch_size=_BATCH):
                for row in _values(batch, path, place):
                    place += 1
                    yield place, from_arrow(row)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a text column is not UTF-8 ({error})") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a whole parquet file ({error})") from error


def _values(batch: Any, path: Path, place: int) -> list[dict[str, Any]]:
    """The rows of a batch. Arrow holds values that Python cannot: a date after the year 9999."""
    try:
        found: list[dict[str, Any]] = batch.to_pylist()
    except UnicodeDecodeError:
        raise
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(
            f"{path}, rows {place + 1} to {place + batch.num_rows}: a value that Python cannot "
            f"hold ({error})"
        ) from error
    return found


def _unpack(file: BinaryIO, copy: BinaryIO, path: Path) -> None:
    """Unpack a table, unless it is so much larger that it would only fill the disk."""
    most = max(_SMALL, _MOST_TIMES * path.stat().st_size)
    for piece in iter(partial(file.read, 2**20), b""):
        copy.write(piece)
        if copy.tell() > most:
            raise ValueError(
                f"{path}: more than {_MOST_TIMES} times larger when it is unpacked, which no table "
                "is: a table is compressed itself"
            )


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))  # a solution may be long
    lines = csv.reader((f"{line}\n" for line in text_lines(path)), strict=True)
    place = 0
    try:
        names = next(lines, [])
        if twice := first_twice(names):
            raise ValueError(f"{path}: there are two columns {twice!r}: remove one")
        if len(names) == 1 and (found := [mark for mark in ";\t" if mark in names[0]]):
            raise ValueError(f"{path}: the columns are separated by {found[0]!r}, not by commas")
        for cells in filter(None, lines):
            place += 1
            if len(cells) != len(names):
                raise ValueError(
                    f"{path}, row {place}: {len(cells)} cells for {len(names)} columns; a text "
                    "with commas or line ends must be in double quotes"
                )
            yield (
                place,
                {
                    n: scalar(n, text) if text else None
                    for n, text in zip(names, cells, strict=True)
                },
            )
    except csv.Error as error:
        raise ValueError(f"{path}, row {place + 1}: not CSV ({error})") from error
