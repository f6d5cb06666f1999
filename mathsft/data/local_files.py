"""Rows of a local file, or one clear error that says where the file is broken.

A broken file is an error, never a shorter data set: a line that is no JSON, or bytes
that are no UTF-8, mean that the file is not what its owner believes.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mathsft.data.messages import from_arrow

SUFFIXES = (".json", ".jsonl", ".parquet")

Row = tuple[int, dict[str, Any]]


def read_rows(path: Path) -> list[Row]:
    """The rows of a ``.json`` (one array of objects), ``.jsonl`` or ``.parquet`` file.

    Returns:
        ``(place, row)`` pairs; ``place`` is the line number in JSON lines and the row's
        number elsewhere, both counted from 1. Blank lines of JSON lines are no rows.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: another suffix, not UTF-8, not JSON, cut off, no array, a row that is no
            object, an object with a key twice (or a table with a column twice), or no row at all;
            the message names the file and, if there is one, the row.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give one file ({', '.join(SUFFIXES)})")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path}: cannot read {path.suffix or 'a file without a suffix'}; "
            f"give one of {', '.join(SUFFIXES)}"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file (looked from {Path.cwd()})")
    reader = {".json": _json_array, ".jsonl": _json_lines, ".parquet": _parquet}
    rows = list(reader[path.suffix.lower()](path))
    if not rows:
        raise ValueError(f"{path}: the file holds no rows")
    for place, row in rows:
        if (key := _twice(row)) is not None:
            raise ValueError(
                f"{path}, row {place}: an object has the key {key!r} twice, and only one of the "
                "two would count: remove one"
            )
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, row {place}: expected an object with named columns, "
                f"found {type(row).__name__}"
            )
    return rows


def write_rows(rows: Any, file: str | Path = "mixture.jsonl") -> Path:
    """Write a data set to ``file`` (``.jsonl`` or ``.parquet``), where `read_rows` finds it again.

    Args:
        file: a path that is not there yet; folders on the way to it are made.

    Raises ValueError for another suffix, and FileExistsError where the file is there already.
    """
    path = Path(file)
    writers = {".jsonl": partial(_write_lines, rows), ".parquet": rows.to_parquet}
    if path.suffix.lower() not in writers:
        raise ValueError(f"{path}: give a name that ends with {' or '.join(writers)}")
    if path.exists():
        raise FileExistsError(f"{path} is there already: give another file, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    writers[path.suffix.lower()](path)
    return path


def _write_lines(rows: Any, path: Path) -> None:
    """Not ``to_json``: by way of pandas it makes -1.0 of -1 in a column that has empty places."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")  # some editors put a byte order mark first
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8 (byte {data[error.start]:#04x} at offset "
            f"{error.start}); save the file as UTF-8"
        ) from error


class _Repeating(dict[str, Any]):
    """A JSON object with a ``repeated`` key, whose first value is lost."""

    repeated = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    repeating = _Repeating(found)
    repeating.repeated = next(name for name in names if names.count(name) > 1)
    return repeating


def _twice(value: Any) -> str | None:
    """The first key that an object in ``value`` had twice, at any depth; None without one."""
    if isinstance(value, _Repeating):
        return value.repeated
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((key for key in map(_twice, inner) if key is not None), None)


def _json_lines(path: Path) -> Iterator[Row]:
    # Not splitlines(): JSON allows U+2028 inside a string, and it is no line end there.
    for place, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            try:
                yield place, json.loads(line, object_pairs_hook=_object)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}, row {place}: not a whole JSON object "
                    f"({error.msg} at character {error.pos + 1}); is the line cut off?"
                ) from error


def _json_array(path: Path) -> Iterator[Row]:
    text = _text(path)
    if not text.strip():
        return
    try:
        rows = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        hint = "is the file cut off?"
        if error.msg == "Extra data":
            hint = "one object per line is JSON lines: name the file .jsonl"
        raise ValueError(
            f"{path}, line {error.lineno}: not JSON ({error.msg} at column {error.colno}); {hint}"
        ) from error
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected one array of objects, found {type(rows).__name__}")
    yield from enumerate(rows, start=1)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"{path}: there are two columns {twice[0]!r}, and only one of them would count: "
                "remove one"
            )
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a text column is not UTF-8 ({error})") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a whole parquet file ({error})") from error
    yield from enumerate(map(from_arrow, rows), start=1)
