"""What `mathsft.data.deduplication.deduplicate` found: the kept rows, the groups, and a report."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mathsft.data.row_parts import By, row_parts
from mathsft.data.row_reports import excerpt, write_report
from mathsft.data.text_blocks import Found


@dataclass(frozen=True)
class Deduplicated:
    """What `deduplicate` found; ``print`` it to see the counts.

    Attributes:
        rows: the rows that are kept, in their order: a data set if one was given, else a list.
        read: how many rows were given.
        removed: for each row that is left out, by its index from 0: the index of the row that is
            kept in its place, and their similarity from 0 to 1.
        how: the method and its settings, in words.
        not_compared: how many rows were kept without being compared, by reason.
    """

    rows: Any
    read: int
    removed: Found
    how: str
    not_compared: Counter[str]
    _given: Any = field(repr=False)
    _by: By = field(repr=False)

    @property
    def groups(self) -> dict[int, list[int]]:
        """The rows that are left out for each row that is kept in their place."""
        return groups_of(self.removed)

    def save(self, file: str | Path) -> Path:
        """Write the groups to ``file``, one line for each row of a group; see `deduplicate`.

        Raises ValueError for a suffix other than .jsonl and .csv.
        """
        return save_groups(file, self.removed, self._text)

    def _text(self, row: int) -> str:
        parts = row_parts(self._given[row], by=self._by, where=f"row {row}")
        return excerpt(text for _, text in parts)

    def __str__(self) -> str:
        s = "s" * (len(self.groups) != 1)
        line = (
            f"deduplicate: {self.read:,} rows read, {self.read - len(self.removed):,} kept; "
            f"{self.how}: {len(self.removed):,} left out in {len(self.groups):,} group{s}"
        )
        odd = [f"{count:,} {why}" for why, count in self.not_compared.most_common()]
        return line + (f"; kept without being compared: {', '.join(odd)}" if odd else "")


def groups_of(removed: Found) -> dict[int, list[int]]:
    """The rows that are left out for each row that is kept in their place, in order."""
    found: dict[int, list[int]] = {}
    for row, (kept, _) in sorted(removed.items()):
        found.setdefault(kept, []).append(row)
    return dict(sorted(found.items()))


def save_groups(file: str | Path, removed: Found, text_of: Callable[[int], str]) -> Path:
    """Write a report of the groups, one line for each of their rows.

    Args:
        file: a name that ends with .jsonl or .csv.
        removed: the rows that are left out, each with the one that is kept in its place.
        text_of: gives the text of a row of a group.
    """
    lines = [
        {
            "group": number,
            "row": row,
            "kept": row == kept,
            "similarity": 1.0 if row == kept else round(removed[row][1], 4),
            "text": text_of(row),
        }
        for number, (kept, others) in enumerate(groups_of(removed).items())
        for row in (kept, *others)
    ]
    return write_report(file, lines, ["group", "row", "kept", "similarity", "text"])
