"""The texts of many rows, read block by block."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from mathsft.data.given import check_rows
from mathsft.data.row_counts import refuse_stream
from mathsft.data.row_parts import By, Part, row_parts, words_in
from mathsft.data.schemas import UnusableRowError

# A row that is left out: the row that is kept in its place, and their similarity.
Found = dict[int, tuple[int, float]]
Prefer = Literal["first", "longest", "random"]


def listed(rows: Any, *, name: str) -> Dataset | list[Any]:
    """The rows as a data set or a list. Raises ValueError, with ``name``, for anything else."""
    check_rows(rows, name=name)
    refuse_stream(rows, name=name)
    given = rows if isinstance(rows, Dataset) else list(rows)
    if not len(given):
        raise ValueError(f"{name}: there are no rows")
    return given


def without(given: Dataset | list[Any], removed: Collection[int]) -> Any:
    """The rows that are not removed, in their order: a data set, or a list."""
    left = [row for row in range(len(given)) if row not in removed]
    return given.select(left) if isinstance(given, Dataset) else [given[row] for row in left]


class TextBlocks:
    """The words of the rows, read in blocks; ``lengths`` are known after `blocks`."""

    def __init__(self, given: Any, *, by: By, size: int, name: str) -> None:
        self.given, self.by, self.size, self.name = given, by, size, name
        self.lengths: dict[int, int] = {}
        self.odd: Counter[str] = Counter()

    def parts(self) -> Iterator[tuple[int, list[Part]]]:
        """The parts of each row that can be compared; the others are counted in ``odd``."""
        for start in range(0, len(self.given), self.size):
            for row, parts in self._read(range(start, min(start + self.size, len(self.given)))):
                if isinstance(parts, UnusableRowError):
                    self.odd[str(parts)] += 1
                elif any(text.strip() for _, text in parts):
                    yield row, parts
                else:
                    self.odd["without a word"] += 1

    def blocks(self) -> Iterator[tuple[list[int], list[list[str]], list[str]]]:
        """The rows that can be compared, block by block: their indices, words and texts."""
        rows, words, texts = [], [], []
        for row, parts in self.parts():
            if not (some := words_in(parts)):
                self.odd["without a word"] += 1
                continue
            self.lengths[row] = len(some)
            rows.append(row)
            words.append(some)
            texts.append("\n".join(text for _, text in parts))
            if len(rows) == self.size:
                yield rows, words, texts
                rows, words, texts = [], [], []
        if rows:
            yield rows, words, texts

    def again(self, rows: Sequence[int]) -> Iterator[tuple[int, list[str]]]:
        """The words of some rows, in this order."""
        for start in range(0, len(rows), self.size):
            for row, parts in self._read(rows[start : start + self.size]):
                yield row, words_in(parts)

    def _read(self, rows: Sequence[int]) -> Iterator[tuple[int, Any]]:
        if isinstance(self.given, Dataset):
            columns = self.given.select(rows).with_format(None)[:]
            part = [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
        else:
            part = [self.given[row] for row in rows]
        for row, held in zip(rows, part, strict=True):
            try:
                yield row, row_parts(held, by=self.by, where=f"{self.name}, row {row}")
            except UnusableRowError as reason:
                yield row, reason

    def order(self, prefer: Prefer, seed: int) -> list[int]:
        """The rows that can be compared, the preferred ones first."""
        rows = sorted(self.lengths)
        if prefer == "longest":
            rows.sort(key=lambda row: -self.lengths[row])
        if prefer == "random":
            places = np.random.default_rng(seed).permutation(len(self.given)).tolist()
            rows = [row for row in places if row in self.lengths]
        return rows
