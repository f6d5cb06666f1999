"""Rows passed to a trainer directly, without `load_problems`: checked, and read by kind."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from mathsft.data.cells import from_arrow
from mathsft.data.chat import TEACHER_PROMPT, answered, read_chat, refuse_empty
from mathsft.data.readers import published_by
from mathsft.data.rows import (
    CHAT,
    KINDS,
    PROBLEM,
    PROMPT,
    UNPAIRED,
    RowKind,
    check_columns,
    kind_of,
)
from mathsft.data.schemas import UnusableRowError, text_of

CHOICES_MADE_BY = "add_choices makes choices for worked problems of load_problems"
# About a column that is missing from a row.
_ADVICE = {
    "answer": '. "" says that it is not known',
    "completion": ". A prompt alone is for rollout_trainer, which lets the model answer it",
}
_WORKED = (PROBLEM.name, CHAT.name, PROMPT.name)
# What makes rows of a kind out of problems.
_MAKERS = {
    "preference": "rejection_sampling makes pairs from the model's own answers, and "
    "pairs_from_groups from groups",
    "group": "rollout_trainer lets the model answer problems and prompts in training, and "
    "store_attempts before it",
}


def check_rows(rows: Any, *, name: str) -> None:
    """Raise ValueError if ``rows`` is a file name, the splits of a data set, a pandas frame, …

    The rows themselves are checked as they are read (`row_kind`, `check_texts`).
    """
    if isinstance(rows, str | Path):
        raise ValueError(
            f"{name}: rows are expected, found a text. Load them: load_problems({str(rows)!r})"
        )
    if isinstance(rows, Mapping):
        give = "one split of the data set, such as rows['train']"
        if any(isinstance(held, str) for held in rows.values()):
            give = "a list of rows: [row]"
        elif rows and all(isinstance(held, list) and not _are_rows(held) for held in rows.values()):
            give = "rows, not columns: Dataset.from_dict(columns)"
        raise ValueError(
            f"{name}: rows are expected, found a mapping with {', '.join(map(str, rows))}. Give "
            f"{give}"
        )
    if hasattr(rows, "iloc"):  # the items of a frame are the names of its columns
        raise ValueError(
            f"{name}: rows are expected, found a {type(rows).__name__} of pandas. Give its rows: "
            "rows.to_dict('records')"
        )
    if not isinstance(rows, Iterable):
        raise ValueError(f"{name}: rows are expected, found {rows!r:.60}")


def _are_rows(value: list[Any]) -> bool:
    return all(isinstance(one, Mapping) for one in value)


def check_dataset(rows: Any, *, name: str) -> None:
    """Raise ValueError unless ``rows`` is a data set, as `load_problems` returns it."""
    check_rows(rows, name=name)
    if not isinstance(rows, Dataset):
        raise ValueError(
            f"{name}: a data set of load_problems is expected, found a {type(rows).__name__}. Save "
            "the rows as JSON lines (.jsonl), and read the file with load_problems"
        )


def row_kind(row: Any, *, where: str) -> RowKind:
    """`kind_of`, whose error also says how a row in a published format is read."""
    check_row(row, where=where)
    try:
        return kind_of(row, where=where)
    except ValueError as error:
        raise ValueError(f"{error}{reading_advice(row)}") from None


def check_row(row: Any, *, where: str) -> None:
    """Raise ValueError unless the row maps names of columns to values."""
    if not isinstance(row, Mapping):
        raise ValueError(
            f"{where}: expected a row, such as {{'question': …}}, found {type(row).__name__} "
            f"({row!r:.40})"
        )


def check_texts(row: Mapping[str, Any], columns: Iterable[str], *, where: str) -> None:
    """Raise ValueError if a column of the row is missing or holds something else than text.

    Null passes. An error about a missing column says what makes the row complete.
    """
    for column in columns:
        check_column(row, column, where=where, advice=_ADVICE.get(column, ""))
        text_of(row, column, where=where, empty_ok=True)


def check_prompt(row: Mapping[str, Any], *, where: str) -> None:
    """Raise ValueError unless ``prompt`` is a text or a list of messages."""
    if not isinstance(row["prompt"], str | list):
        raise ValueError(
            f"{where}, column 'prompt': expected text or a list of messages, found "
            f"{type(row['prompt']).__name__} ({row['prompt']!r:.40})"
        )


def is_texts(value: Any) -> bool:
    """Whether a cell is a list of texts."""
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


def check_column(row: Any, column: str, *, where: str, advice: str = "") -> None:
    """Raise ValueError if the row has no such column; ``advice`` ends the message."""
    check_row(row, where=where)
    if column not in row:
        raise ValueError(
            f"{where}: column {column!r} is missing; the row has "
            f"{', '.join(map(repr, row)) or 'no columns'}{reading_advice(row)}{advice}"
        )


def reading_advice(row: Mapping[str, Any]) -> str:
    """What to do with a row in a format that only `load_problems` reads; "" for any other row."""
    name = published_by(row)
    return name and (
        f". It is a row as published ({name}): save the rows as JSON lines (.jsonl), and read the "
        "file with load_problems"
    )


def given_row(
    row: Mapping[str, Any],
    *,
    where: str,
    counted: set[str],
    arrow: bool = False,
    kinds: Collection[str] = _WORKED,
    texts: Collection[str] = ("question", "solution", "answer"),
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
        texts: the columns of a problem that the trainer reads as text.

    Raises:
        UnusableRowError: the row says that it should not be trained, or a turn has no text.
        ValueError: what `load_problems` raises for the same row in a file; a row of another kind.
    """
    check_row(row, where=where)
    row = from_arrow(dict(row)) if arrow else row
    kind = row_kind(row, where=where)
    if row.get("teacher_prompt") is not None and kind.more.keys() & TEACHER_PROMPT:
        counted.add("column 'teacher_prompt'")  # distillation takes it out before
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
        makers = [_MAKERS[name] for name in kinds if name in _MAKERS]
        raise ValueError(
            f"{where}: a row of the kind {kind.name!r}; this objective trains {', '.join(wanted)}. "
            + "".join(f"{maker}. " for maker in makers)
            + f"Found {row!r:.80}"
        )
    if kind is CHAT:
        read = kind.columns | set(parts)
        check_columns(row, where=where, read=read, counted=counted, kind=kind)
        found = read_chat(row, parts, where=where, counted=counted, any_role=True)
        refuse_empty(found["messages"])
        return found
    if kind.talk:
        return kind.read(row, where=where, counted=counted, any_role=True)
    check_columns(row, where=where, read=kind.columns, counted=counted, kind=kind)
    needed = texts if kind is PROBLEM else ("prompt", "completion")
    check_texts(row, needed, where=where)
    if empty := [name for name in needed if row[name] is None and name != "answer"]:
        raise UnusableRowError(f"with null as {empty[0]}")
    return {**row, "answer": row["answer"] or ""} if "answer" in needed else row
