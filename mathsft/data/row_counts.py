"""Count what happens to a source's rows: read, dropped and why, and other remarks."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import IterableDataset

_ROWS_SHOWN = 5


def refuse_stream(rows: Any, *, name: str) -> None:
    """Raise ValueError for a stream of rows: they cannot be counted, drawn or ordered."""
    if isinstance(rows, IterableDataset):
        raise ValueError(
            f"{name}: a stream cannot be counted or drawn from. Read it without streaming: its "
            "rows are then stored on disk, not in memory"
        )


@dataclass
class RowCounts:
    """Counts made while a source is read; ``line`` shows them to the user in one line."""

    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[int]] = field(default_factory=dict)  # the first rows dropped
    notes: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "RowCounts":
        """Restore a tally from its fields (`vars`), which were stored as JSON."""
        counters = {name: Counter(kept[name]) for name in ("dropped", "notes", "unread")}
        return cls(**{**kept, **counters})

    def drop(self, reason: str, row: int) -> None:
        """Count row ``row`` (from 1; in JSON lines the line number) as dropped for ``reason``."""
        self.dropped[reason] += 1
        if len(places := self.places.setdefault(reason, [])) <= _ROWS_SHOWN:
            places.append(row)

    def counts(self) -> Counter[str]:
        """How many rows were dropped for each reason."""
        return Counter(self.dropped)

    def line(self, name: str) -> str:
        """One line: ``gsm8k/train: 9 rows read, 8 kept; dropped 1: empty question (row 5)``."""
        lost = self.dropped.total()
        text = f"{name}: {self.read:,} rows read, {self.read - lost:,} kept"
        if lost:
            reasons = [
                f"{n:,} {reason} ({_places(self.places[reason])})"
                for reason, n in self.dropped.items()
            ]
            if len(reasons) == 1:  # the total already shows the count
                reasons = [reasons[0].partition(" ")[2]]
            text += f"; dropped {lost:,}: " + ", ".join(reasons)
        if self.notes:
            text += "; " + ", ".join(f"{note}: {n:,}" for note, n in sorted(self.notes.items()))
        return "; ".join([text, *self.remarks, *not_read(self.unread)])


def not_read(unread: Counter[str]) -> list[str]:
    """``not read: column 'hint' (7,473 rows)`` in a list, or []; ``unread`` counts rows by name."""
    names = [f"{name} ({n:,} row{'s' * (n > 1)})" for name, n in unread.most_common()]
    return ["not read: " + ", ".join(names)] if names else []


def _places(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:_ROWS_SHOWN])) + (", …" if len(rows) > _ROWS_SHOWN else "")
    return f"row{'s' if len(rows) > 1 else ''} {shown}"
