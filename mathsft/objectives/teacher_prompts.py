"""A teacher that is asked in its own form: another prompt before the same tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from mathsft.models.forest import IGNORE
from mathsft.objectives.asked import asked
from mathsft.objectives.base import Row


def teacher_prompt(row: Row, tokenizer: Any, *, where: str) -> list[int] | None:
    """The tokens that the teacher reads in place of the row's prompt; None if it reads the same.

    Raises ValueError for one that is neither text nor messages, and UnusableRowError for one that
    the chat template refuses.
    """
    given = row.get("teacher_prompt")
    if given is None:
        return None
    if not isinstance(given, str | list) or not given:
        raise ValueError(
            f"{where}, column 'teacher_prompt': expected text or a list of messages, found "
            f"{type(given).__name__} ({given!r:.40})"
        )
    where = f"{where}, column 'teacher_prompt'"
    found = asked({"prompt": given}, tokenizer, where=where, unanswered=True)
    return list(found["input_ids"])


def after(prompt: Sequence[int], document: Mapping[str, Sequence[int]]) -> list[int]:
    """The document's tokens from its first scored one on, after another prompt."""
    return [*prompt, *document["input_ids"][_start(document["labels"]) :]]


def teacher_row(row: Row) -> Row:
    """The sequences of a row as the teacher reads them; the same tokens are scored.

    ``teacher_ids`` holds for each sequence what `after` made, or [] if the teacher reads the same.
    """
    ids: list[Sequence[int]] = []
    labels: list[Sequence[int]] = []
    for own, scored, other in zip(row["input_ids"], row["labels"], row["teacher_ids"], strict=True):
        answer = scored[_start(scored) :]
        ids.append(other or own)
        labels.append([*[IGNORE] * (len(other) - len(answer)), *answer] if other else scored)
    return {"input_ids": ids, "labels": labels}


def _start(labels: Sequence[int]) -> int:
    """The place of the first scored token."""
    return next((place for place, label in enumerate(labels) if label != IGNORE), len(labels))
