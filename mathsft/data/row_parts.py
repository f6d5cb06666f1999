"""The texts of a row that are compared with other rows: what it asks, or all that it says."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from mathsft.data.given import check_row
from mathsft.data.messages import REASONING, content_text
from mathsft.data.questions import question_key
from mathsft.data.readers import format_of
from mathsft.data.rows import PROBLEM, UNPAIRED, Row, RowKind, kind_of, kinds_in

By = Literal["question", "all"]
Part = tuple[str, str]  # what the text is in its row, such as "solution", and the text

# Columns that are no text. A label and a reward count as part of the texts that they judge.
_NO_TEXT = {"source", "label", "rewards", "margin", "trained_from", "chat_template_kwargs"}


def row_parts(row: Any, *, by: By, where: str) -> list[Part]:
    """The texts of a row of any kind, each with what it is in the row.

    Args:
        row: a row as `load_problems` returns it, as it is published (`mathsft.data.readers`), or
            with a column ``text``.
        by: "question" gives what the row asks, such as all turns of the user. "all" gives the
            answers, the choices and the other turns as well.
        where: names the row in errors.

    Raises:
        UnusableRowError: `load_problems` would drop this row.
        ValueError: no row, a row of no known kind, or something else in place of a text.
    """
    check_row(row, where=where)
    if isinstance(row.get("text"), str) and not kinds_in(row) and "question" not in row:
        return [("text" if by == "all" else "", row["text"])]
    kind, row = _read(row, where=where)
    if by == "all":
        return list(_all_parts(kind, row))
    try:
        return [("", text) for text in kind.asks(row)]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def words_in(parts: list[Part]) -> list[str]:
    """The words of the parts in normal form (`question_key`); numbers and signs count as words.

    A word also holds the name of its part: what is right in one row and wrong in another is not
    the same text.
    """
    return [
        f"{name}:{word}" if name else word
        for name, text in parts
        # JSON can hold half a character (a lone surrogate), which cannot be hashed.
        for word in question_key(text).encode("utf-8", "backslashreplace").decode().split()
    ]


def _read(row: Row, *, where: str) -> tuple[RowKind, Row]:
    """The row's kind, and the row in the columns of this kind."""
    # In a data set of several kinds, a column that the row's kind does not have is null.
    row = {name: value for name, value in row.items() if value is not None}
    try:
        found = format_of(row, where=where)
    except ValueError:
        return kind_of(row, where=where), row  # a question or a prompt alone
    plain = isinstance(row.get("question"), str) and not isinstance(row.get("choices"), Mapping)
    if found.kind is PROBLEM and plain and "options" not in row:
        return PROBLEM, row  # a question needs no answer to be compared
    how = {"any_role": True} if found.kind.talk and found.reader is found.kind.reader else {}
    return found.kind, found.reader(row, where=where, source="", **how)


def _all_parts(kind: RowKind, row: Row) -> Iterator[Part]:
    for column in (*kind.features, *kind.more):
        value = row.get(column)
        if column == "choices":
            for place, choice in enumerate(value or ()):
                right = place == row.get("label")
                yield from _texts("right choice" if right else "choice", choice)
        elif column == "completions":
            for answer, reward in zip(row["completions"], row["rewards"], strict=True):
                yield from _texts(f"completion of reward {reward}", answer)
        elif column not in _NO_TEXT:
            labelled = kind is UNPAIRED and column == "completion"
            yield from _texts(f"{column} {row['label']}" if labelled else column, value)


def _texts(name: str, value: Any) -> Iterator[Part]:
    if value is None:
        return
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(name, one)
    elif isinstance(value, Mapping) and "role" in value:
        name = f"{name} {value['role']}"
        yield name, content_text(value.get("content"))
        for key in (*REASONING, "tool_calls"):
            yield from _texts(f"{name} {key}", value.get(key))
    else:
        yield name, json.dumps(value, ensure_ascii=False, default=str)
