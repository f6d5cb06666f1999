"""Nested cells: lists and objects, also when a text file stores them as text."""

import ast
import io
import json
import tokenize
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from mathsft.files import nested_too_deep, parse_json

# The columns that hold turns in rows of any kind, before and after reading.
MESSAGE_COLUMNS = (
    "messages",
    "conversations",
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "completions",
)


def parsed(value: Any) -> Any:
    """Return ``value``, or the list or object if ``value`` is its text form.

    CSV files hold nested values as text: as JSON, or in Python's form as pandas writes lists.
    NumPy's form has no commas between the items. Python would join such texts into one, so it is
    not read as a list.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        for read in (json.loads, ast.literal_eval):
            try:
                found = read(value.strip())
            except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                continue
            if isinstance(found, list | dict) and not nested_too_deep(found):
                return value if read is ast.literal_eval and _joins_texts(value) else found
    return value


def _joins_texts(code: str) -> bool:
    """Whether two texts are side by side in Python's form; Python joins them into one."""
    tokens = tokenize.generate_tokens(io.StringIO(code.strip()).readline)
    kinds = [token.type for token in tokens if token.type not in (tokenize.NL, tokenize.NEWLINE)]
    return (tokenize.STRING, tokenize.STRING) in pairwise(kinds)


# The scores of a pair's answers: UltraFeedback's names, and those of other published data sets.
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
# Columns whose cells are numbers, or true and false.
_SCALARS = frozenset(
    {"label", "margin", "trained_from", "weight", "train", "training"}.union(*SCORES)
)


def scalar(name: str, text: Any) -> Any:
    """Return the number, true or false that a text in one of these columns means."""
    if name not in _SCALARS or not isinstance(text, str):
        return text
    try:
        return json.loads(text.lower())
    except (ValueError, RecursionError):
        return text


def turns_of(value: Any) -> list[Any] | None:
    """Return the turns in a cell that may also hold text: a list of messages, or one message.

    None for anything else. A text is read as messages only if it is an object with ``role`` or
    ``from``, or a list of nothing but such objects.
    """
    found = parsed(value)
    if _is_turn(found):
        return [found]
    if isinstance(value, str) and not (isinstance(found, list) and found and _all_turns(found)):
        return None
    return found if isinstance(found, list) else None


def _all_turns(values: list[Any]) -> bool:
    return all(map(_is_turn, values))


def _is_turn(value: Any) -> bool:
    return isinstance(value, Mapping) and bool({"role", "from"} & value.keys())


def json_of(
    given: Mapping[str, Any], key: str, kind: type[list[Any]] | type[dict[str, Any]], *, where: str
) -> str | None:
    """Return the list of objects, or the object, in ``key`` as JSON text; None if it is empty.

    It may be JSON text already. Raises ValueError if it is something else.
    """
    value = given.get(key)
    if isinstance(value, str):
        if not value.strip():
            return None
        value = parse_json(value, f"{where}, {key!r}")
    if value is None or value in ([], {}):
        return None
    good = isinstance(value, kind)
    if good and kind is list:
        good = all(isinstance(item, dict) for item in value)
    if not good:
        expected = "a list of objects" if kind is list else "an object"
        raise ValueError(
            f"{where}, {key!r}: expected {expected}, found {type(value).__name__} ({value!r:.40})"
        )
    return json.dumps(value, ensure_ascii=False)


def without_nulls(value: Any) -> Any:
    """Return ``value`` without the keys whose value is null, at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def from_arrow(row: dict[str, Any]) -> dict[str, Any]:
    """Remove the nulls that Arrow put into the nested objects of a row, such as its tool calls.

    In Arrow all objects of a column have the same keys, so an argument of one call is null in all
    other calls (TRL removes these too). An intended null is lost as well; JSON text keeps it.
    """
    nested = {key: row[key] for key in ("tools", "chat_template_kwargs") if key in row}
    row = {**row, **{key: without_nulls(value) for key, value in nested.items()}}
    for column in MESSAGE_COLUMNS:
        if isinstance(row.get(column), list | dict):
            row[column] = _plain_calls(row[column])
    return row


def _plain_calls(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_calls(item) for item in value]
    if isinstance(value, dict) and "tool_calls" in value:
        return {**value, "tool_calls": without_nulls(value["tool_calls"])}
    return value
