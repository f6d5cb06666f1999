"""What nested cells hold: lists and objects, also as the text in which files of text keep them."""

import ast
import io
import json
import tokenize
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

# The columns in which rows of any kind keep turns, before and after they are read.
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
    """``value``, or the list or object that it is the text of.

    CSV files hold nested values as text: as JSON, or in Python's form as pandas writes lists. In
    NumPy's form no commas stand between the items, and Python would read texts as one: no list.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        for read in (json.loads, ast.literal_eval):
            try:
                found = read(value.strip())
            except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                continue
            if isinstance(found, list | dict):
                return value if read is ast.literal_eval and _joins_texts(value) else found
    return value


def _joins_texts(code: str) -> bool:
    """Whether two texts stand side by side in Python's form, which makes one of them."""
    tokens = tokenize.generate_tokens(io.StringIO(code.strip()).readline)
    kinds = [token.type for token in tokens if token.type not in (tokenize.NL, tokenize.NEWLINE)]
    return (tokenize.STRING, tokenize.STRING) in pairwise(kinds)


# Columns whose cells are numbers, or true and false.
_SCALARS = ("label", "trained_from", "weight", "train", "training")


def scalar(name: str, text: Any) -> Any:
    """The number, or true or false, that a text in one of these columns stands for."""
    if name not in _SCALARS or not isinstance(text, str):
        return text
    try:
        return json.loads(text.lower())
    except json.JSONDecodeError:
        return text


def turns_of(value: Any) -> list[Any] | None:
    """The turns in a cell that may also hold text: a list of messages, or one message.

    None for anything else. A text is taken for messages only if it is nothing but a list of
    objects with ``role`` or ``from``.
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
    """The list of objects, or the object, in ``key`` as JSON text; None if it holds nothing.

    It may be given as JSON text already. Raises ValueError if it is something else.
    """
    value = given.get(key)
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}, {key!r}: no JSON ({error.msg} at character {error.pos + 1}): "
                f"{value!r:.40}"
            ) from error
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
    """``value`` without the keys that are null, at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def from_arrow(row: dict[str, Any]) -> dict[str, Any]:
    """A row of an Arrow table without the nulls that Arrow put into its tools and tool calls.

    All objects of a column have the same keys there, so one call's argument is a null in all
    others (TRL removes them as well). A null that was meant is lost too; JSON text keeps it.
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
