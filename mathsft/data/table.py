"""Rows as an Arrow table on disk: a data set takes no memory and is converted only once."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features
from datasets.fingerprint import get_temporary_cache_files_directory

from mathsft.data.messages import keys_in, keys_of, type_with
from mathsft.data.rows import KINDS, RowKind, kinds_in
from mathsft.files import read_json, remove, write_whole
from mathsft.processes import say

_BATCH = 1000  # rows held in memory at a time
_ROWS, _NOTES = "rows.arrow", "notes.json"


class Columns:
    """The columns that rows need, found row by row from their kinds and their content.

    A column that may hold messages has every key that at least one message has.
    """

    def __init__(self) -> None:
        self._kinds: set[str] = set()
        self._more: set[str] = set()
        self._keys: dict[str, set[str]] = {}
        self._texts: set[str] = set()

    def add(self, row: dict[str, Any], kind: RowKind, *, where: str) -> None:
        """Add a row; ValueError if a column holds text in one row and messages in another."""
        self._kinds.add(kind.name)
        self._more |= kind.more.keys() & row.keys()
        for column in kind.talk:
            keys = keys_in(row[column])
            if keys is None:
                self._texts.add(column)
            else:
                self._keys.setdefault(column, set()).update(keys)
            self._refuse_both(column, where)
        if not kind.talk:
            self._texts |= kind.features.keys()
            for column in kind.features:
                self._refuse_both(column, where)

    def _refuse_both(self, column: str, where: str) -> None:
        if column in self._texts and column in self._keys:
            raise ValueError(
                f"{where}, column {column!r}: text in some rows and messages in others; a column "
                "can hold only one of the two: give all rows in one form"
            )

    @property
    def features(self) -> Features:
        """The columns and types that the rows so far need."""
        found: dict[str, Any] = {}
        for kind in reversed(KINDS.values()):
            if kind.name in self._kinds:
                more = {name: held for name, held in kind.more.items() if name in self._more}
                found |= {**kind.features, **more}
        for column, keys in self._keys.items():
            found[column] = type_with(found[column], keys)
        return Features(found)


def in_schema(features: Mapping[str, Any]) -> bool:
    """Whether `load_problems` makes these columns: those of one or more kinds, and no others."""
    kinds = kinds_in(features)
    known = {name: held for kind in kinds for name, held in {**kind.more, **kind.features}.items()}
    talk = frozenset().union(*(kind.talk for kind in kinds))
    return (
        bool(kinds)
        and features.keys() <= known.keys()
        and all(
            held == known[name]
            or (name in talk and held == type_with(known[name], keys_of(held) or set()))
            for name, held in features.items()
        )
    )


class RowWriter:
    """Writes rows of any kinds to a file. If a later row needs more columns, all rows get them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns = Columns()
        self._schema: pa.Schema | None = None
        self._writer: pa.RecordBatchStreamWriter | None = None
        self._waiting: list[dict[str, Any]] = []

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._waiting:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def write(self, row: dict[str, Any], kind: RowKind, *, where: str) -> None:
        """Add a row; ``where`` names it in errors."""
        self._columns.add(row, kind, where=where)
        self._waiting.append(row)
        if len(self._waiting) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        schema = self._columns.features.arrow_schema
        if self._writer is None:
            self._begin(schema)
        elif schema != self._schema:
            self._widen(schema)
        assert self._writer is not None
        self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=schema))
        self._waiting = []

    def _begin(self, schema: pa.Schema) -> None:
        self._schema, self._writer = schema, pa.ipc.new_stream(self._path, schema)

    def _widen(self, schema: pa.Schema) -> None:
        assert self._writer is not None
        self._writer.close()
        narrow = self._path.rename(self._path.with_suffix(".narrow"))
        self._begin(schema)
        with pa.memory_map(str(narrow)) as file:
            for batch in pa.ipc.open_stream(file):
                self._writer.write_table(pa.Table.from_pylist(batch.to_pylist(), schema=schema))
        narrow.unlink()


def _has_notes(kept: Path) -> bool:
    """Whether a stored table has its notes; one without, or with damaged ones, is removed."""
    try:
        read_json(kept / _NOTES)
    except FileNotFoundError:
        remove(kept)
        return False
    except ValueError as error:
        say(f"{error}: this stored table is made again")
        remove(kept)
        return False
    return True


def stored(write: Callable[[Path], Any], key: str | None) -> tuple[Dataset, Any]:
    """Return the table that ``write`` writes to its path, and the notes that it returns.

    With a ``key``, both are kept in the cache of `datasets` (``HF_DATASETS_CACHE``); if the cache
    has this key already, they are read and not written again. The table stays on disk. Without a
    key, the table is in memory. The notes must be JSON.
    """
    if key is None:
        with tempfile.TemporaryDirectory() as folder:
            notes = write(Path(folder) / _ROWS)
            return Dataset.from_file(str(Path(folder) / _ROWS), in_memory=True), notes
    cached = datasets.is_caching_enabled()
    cache = datasets.config.HF_DATASETS_CACHE if cached else get_temporary_cache_files_directory()
    kept = Path(cache) / "mathsft" / key
    if not _has_notes(kept):
        kept.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=kept.parent, prefix="being-made-"))
        try:
            notes = write(made / _ROWS)
            write_whole(made / _NOTES, json.dumps(notes))
            made.rename(kept)
        except OSError:
            if not _has_notes(kept):  # else another process was faster
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    notes = read_json(kept / _NOTES)
    return Dataset.from_file(str(kept / _ROWS)), notes
