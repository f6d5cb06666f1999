"""The texts of many rows, read block by block."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from mathsft.data.row_parts import By, row_parts, words_in
from mathsft.data.schemas import UnusableRowError

# A row that is left out: the row that is kept in its place, and their similarity.
Found = dict[int, tuple[int, float]]
Prefer = Literal["first", "longest", "random"]


class TextBlocks:
    """The words of the rows, read in blocks; ``lengths`` are known after `blocks`."""

    def __init__(self, given: Any, *, by: By, size: int) -> None:
        self.given, self.by, self.size = given, by, size
        self.lengths: dict[int, int] = {}
        self.odd: Counter[str] = Counter()

    def blocks(self) -> Iterator[tuple[list[int], list[list[str]], list[str]]]:
        """The rows that can be compared, block by block: their indices, words and texts."""
        for start in range(0, len(self.given), self.size):
            places, words, texts = [], [], []
            for row, parts in self._read(range(start, min(start + self.size, len(self.given)))):
                some = words_in(parts) if isinstance(parts, list) else []
                if not some:
                    why = "without a word" if isinstance(parts, list) else str(parts)
                    self.odd[why] += 1
                    continue
                self.lengths[row] = len(some)
                places.append(row)
                words.append(some)
                texts.append("\n".join(text for _, text in parts))
            if places:
                yield places, words, texts

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
                yield row, row_parts(held, by=self.by, where=f"deduplicate, row {row}")
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
