"""Rows that are given to a trainer as they are: what they say of their training is read too."""

from collections.abc import Mapping
from typing import Any

from mathsft.data.chat import CHAT_COLUMNS, CHAT_FEATURES, PROMPT_FEATURES, read_chat
from mathsft.data.columns import PROBLEM_COLUMNS, refuse_half, refuse_untrained, unread
from mathsft.data.messages import from_arrow

_CHAT = frozenset([*CHAT_FEATURES, *CHAT_COLUMNS])


def given_row(
    row: Mapping[str, Any], *, where: str, counted: set[str], arrow: bool = False
) -> Mapping[str, Any]:
    """The row as a trainer reads it.

    A conversation comes back as a row of `mathsft.data.chat`. Which turns may follow each other is
    left to the chat template. Another row comes back unchanged.

    Args:
        where: names the row in errors.
        counted: gets the columns and keys that hold something and are not read.
        arrow: the row is one of an Arrow table (`mathsft.data.messages.from_arrow`).

    Raises:
        UnusableRowError: the row says not to train it.
        ValueError: what `load_problems` raises for the same row of a file.
    """
    columns: tuple[str, ...] = ()
    if row.get("messages") is not None:
        columns, read = ("messages",), _CHAT
    elif isinstance(row.get("prompt"), list):
        columns, read = ("prompt", "completion"), _CHAT | {"prompt", "completion"}
    else:
        read = PROBLEM_COLUMNS if row.get("prompt") is None else frozenset(PROMPT_FEATURES)
    refuse_untrained(row, where=where, read=read)
    refuse_half(row, where=where, read=read)
    counted |= {f"column {name!r}" for name in unread(row, where=where, read=read)}
    if not columns:
        return row
    row = from_arrow(dict(row)) if arrow else row
    return read_chat(row, columns, where=where, counted=counted, any_role=True)


def is_conversation(row: Mapping[str, Any]) -> bool:
    """Whether a row that is given to a trainer is a conversation."""
    return row.get("messages") is not None or isinstance(row.get("prompt"), list)
