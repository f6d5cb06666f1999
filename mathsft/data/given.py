"""Rows passed to a trainer directly, without `load_problems`: checked, and read by kind."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mathsft.data.cells import from_arrow
from mathsft.data.chat import read_chat
from mathsft.data.rows import (
    CHAT,
    KINDS,
    PROBLEM,
    PROMPT,
    UNPAIRED,
    answered,
    check_columns,
    kind_of,
)
from mathsft.data.schemas import UnusableRowError

_WORKED = (PROBLEM.name, CHAT.name, PROMPT.name)


def check_rows(rows: Any, *, name: str) -> None:
    """Raise ValueError if ``rows`` is a file name or the splits of a data set."""
    if isinstance(rows, str | Path):
        raise ValueError(
            f"{name}: rows are expected, found a text. Load them: load_problems({str(rows)!r})"
        )
    if isinstance(rows, Mapping):
        raise ValueError(
            f"{name}: rows are expected, found a mapping with {', '.join(map(str, rows))}. Give "
            "one split of the data set, such as rows['train']"
        )


def given_row(
    row: Mapping[str, Any],
    *,
    where: str,
    counted: set[str],
    arrow: bool = False,
    kinds: Collection[str] = _WORKED,
) -> Mapping[str, Any]:
    """Return the row as a trainer reads it.

    Conversations, pairs and groups come back in the columns of their kind (`mathsft.data.rows`).
    The chat template decides which turns may follow each other. A problem, or a text with its
    completion, comes back unchanged. An answer that is labelled as good comes back as a prompt with
    its completion if only those can be trained; one that is labelled as bad is then not usable.

    Args:
        where: names the row in errors.
        counted: collects the columns and keys that hold something and are not read.
        arrow: the row comes from an Arrow table (`mathsft.data.cells.from_arrow`).
        kinds: names of the kinds that the trainer can train.

    Raises:
        UnusableRowError: the row says that it should not be trained.
        ValueError: what `load_problems` raises for the same row in a file; a row of another kind.
    """
    row = from_arrow(dict(row)) if arrow else row
    kind = kind_of(row, where=where)
    parts: tuple[str, ...] = ("messages",)
    if kind is UNPAIRED and PROMPT.name in kinds and kind.name not in kinds:
        read_row = kind.read(row, where=where, counted=counted, any_role=True)
        if not read_row["label"]:
            raise UnusableRowError("labelled as a bad answer")
        return answered(read_row, read_row["completion"])
    if kind is PROMPT and isinstance(row["prompt"], list):
        kind, parts = CHAT, ("prompt", "completion")
    if kind.name not in kinds:
        wanted = [f"{name} (with {' and '.join(KINDS[name].told_by)})" for name in kinds]
        raise ValueError(
            f"{where}: a row of the kind {kind.name!r}; this objective trains {', '.join(wanted)}. "
            f"Found {row!r:.80}"
        )
    if kind is CHAT:
        read = kind.columns | set(parts)
        check_columns(row, where=where, read=read, counted=counted, kind=kind)
        return read_chat(row, parts, where=where, counted=counted, any_role=True)
    if kind.talk:
        return kind.read(row, where=where, counted=counted, any_role=True)
    check_columns(row, where=where, read=kind.columns, counted=counted, kind=kind)
    return row
