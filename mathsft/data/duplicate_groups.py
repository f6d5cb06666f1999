"""What `mathsft.data.deduplication.deduplicate` found: the kept rows, the groups, and a report."""

from collections import Counter
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
        found: dict[int, list[int]] = {}
        for row, (kept, _) in sorted(self.removed.items()):
            found.setdefault(kept, []).append(row)
        return dict(sorted(found.items()))

    def save(self, file: str | Path) -> Path:
        """Write the groups to ``file``, one line for each row of a group; see `deduplicate`.

        Raises ValueError for a suffix other than .jsonl and .csv.
        """
        lines = []
        for number, (kept, removed) in enumerate(self.groups.items()):
            for row in (kept, *removed):
                similarity = 1.0 if row == kept else round(self.removed[row][1], 4)
                parts = row_parts(self._given[row], by=self._by, where=f"row {row}")
                told = {"group": number, "row": row, "kept": row == kept, "similarity": similarity}
                lines.append({**told, "text": excerpt(text for _, text in parts)})
        return write_report(file, lines, ["group", "row", "kept", "similarity", "text"])

    def __str__(self) -> str:
        s = "s" * (len(self.groups) != 1)
        line = (
            f"deduplicate: {self.read:,} rows read, {self.read - len(self.removed):,} kept; "
            f"{self.how}: {len(self.removed):,} left out in {len(self.groups):,} group{s}"
        )
        odd = [f"{count:,} {why}" for why, count in self.not_compared.most_common()]
        return line + (f"; kept without being compared: {', '.join(odd)}" if odd else "")
