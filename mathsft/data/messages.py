"""One message of a chat: what it says, in the form in which rows of `mathsft.data.chat` keep it.

| key | type | meaning |
|---|---|---|
| role | string | system, user, assistant, or a tool's: tool, function, ipython |
| content | string | the text, word for word; null only beside ``tool_calls`` |
| train | bool | assistant turns: false is context and is not trained (from ``train``, ``weight``) |
| reasoning_content, reasoning, thinking | string | what an assistant thinks before it answers |
| tool_calls | string | a JSON list of calls, as text: arguments of any form fit in one column |
| tool_call_id, name | string | which call a tool's turn answers, and who speaks |

The keys after ``content`` are there only if a row of the data set has them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from datasets import List, Value

from mathsft.data.columns import holds, trained, unread
from mathsft.data.schemas import UnusableRowError, text_of
from mathsft.names import unknown_name

ROLES = ("system", "user", "assistant")
TOOL_ROLES = ("tool", "function", "ipython")
REASONING = ("reasoning_content", "reasoning", "thinking")
_TEXT_PARTS = ("text", "input_text", "output_text")

MESSAGE_FEATURES = {
    "role": Value("string"),
    "content": Value("string"),
    "train": Value("bool"),
    **{key: Value("string") for key in (*REASONING, "tool_calls", "tool_call_id", "name")},
}


class Message(TypedDict):
    """One turn; see the table above."""

    role: str
    content: str | None
    train: NotRequired[bool]
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[str]
    thinking: NotRequired[str]
    tool_calls: NotRequired[str]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


def messages_type(rows: Iterable[Sequence[Mapping[str, Any]]]) -> List:
    """The type of the column ``messages``: role, content, and the keys that some message has."""
    return _type_of({key for messages in rows for message in messages for key in message})


def common_type(kinds: Iterable[Any]) -> List:
    """The type of ``messages`` that holds what each of several types of `messages_type` holds."""
    return _type_of({key for kind in kinds for key in kind.feature})


def _type_of(held: set[str]) -> List:
    keys = held | _PLAIN.keys()
    return List({key: kind for key, kind in MESSAGE_FEATURES.items() if key in keys})


_PLAIN = {key: MESSAGE_FEATURES[key] for key in ("role", "content")}
PLAIN_MESSAGES = List(_PLAIN)


def is_messages_type(kind: Any) -> bool:
    """Whether a column's type is one that `messages_type` may give."""
    turn = getattr(kind, "feature", None)
    return (
        isinstance(turn, dict)
        and _PLAIN.keys() <= turn.keys()
        and turn.items() <= MESSAGE_FEATURES.items()
    )


def read_messages(
    row: Mapping[str, Any],
    column: str,
    *,
    where: str,
    counted: set[str] | None = None,
    any_role: bool = False,
) -> list[Message]:
    """The turns in ``column`` of ``row``.

    Args:
        counted: gets the keys that are not read and not known to be harmless.
        any_role: let a chat template decide about roles that are not known here.

    Raises:
        ValueError: no list of messages, an unknown role, a value of another type than the table
            above says, or a key that may change what is trained and is not known.
        UnusableRowError: content that is no text, such as an image; a turn that is to be trained
            and is not the assistant's.
    """
    if column not in row:
        raise ValueError(
            f"{where}: column {column!r} is missing; the row has {', '.join(map(repr, row))}"
        )
    turns = [] if row[column] is None else row[column]
    if not isinstance(turns, list):
        raise ValueError(
            f"{where}, column {column!r}: expected a list of messages, "
            f"found {type(turns).__name__} ({turns!r:.40})"
        )
    counted = set() if counted is None else counted
    return [
        _message(turn, where=f"{where}, {column}[{place}]", counted=counted, any_role=any_role)
        for place, turn in enumerate(turns)
    ]


def _message(turn: Any, *, where: str, counted: set[str], any_role: bool) -> Message:
    if not isinstance(turn, Mapping):
        raise ValueError(
            f"{where}: expected {{'role': …, 'content': …}}, found {type(turn).__name__} "
            f"({turn!r:.40})"
        )
    turn = dict(turn)
    role = text_of(turn, "role", where=where, empty_ok=True)
    if role not in (*ROLES, *TOOL_ROLES) and not any_role:
        hint = {"human": " (human is user)", "gpt": " (gpt is assistant)"}.get(role, "")
        raise ValueError(f"{where}: {unknown_name('role', role, ROLES)}{hint}. Rename it")
    for key in (*REASONING, "tool_calls"):
        if role != "assistant" and holds(turn.get(key)):
            raise ValueError(f"{where}: {key!r} belongs to an assistant turn, not to {role!r}")
    others = unread(turn, where=where, read=MESSAGE_FEATURES, what="key")
    counted |= {f"key {name!r} of messages" for name in others}
    message = Message(role=role, content=_content(turn, where=where, counted=counted))
    train = trained(turn, where=where)
    if role == "assistant" and train is not None:
        message["train"] = train
    elif train:
        raise UnusableRowError(f"that ask to train a turn of the {role}")
    for key in (*REASONING, "tool_call_id", "name"):
        if turn.get(key) is not None and text_of(turn, key, where=where, empty_ok=True):
            message[key] = turn[key]  # type: ignore[literal-required]
    if calls := json_of(turn, "tool_calls", list, where=where):
        message["tool_calls"] = calls
    elif message["content"] is None:
        message["content"] = ""
    return message


def _content(turn: dict[str, Any], *, where: str, counted: set[str]) -> str | None:
    """The text as it is; the texts of a list of parts, joined; None if there is none."""
    content = turn.get("content")
    if "content" not in turn and holds(turn.get("tool_calls")):
        return None
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        for place, part in enumerate(content):
            kind = part.get("type", "text")
            others = [key for key in part if key not in ("type", "text") and holds(part[key])]
            if kind not in _TEXT_PARTS or any(key.startswith(("image", "audio")) for key in others):
                raise UnusableRowError(f"with content that is no text ({kind})")
            text_of(dict(part), "text", where=f"{where}, content[{place}]", empty_ok=True)
            counted |= {f"key {name!r} of content parts" for name in others}
        turn = {**turn, "content": content_text(content)}
    text_of(turn, "content", where=where, empty_ok=True)
    found: str | None = turn["content"]
    return found


def content_text(content: Any) -> str:
    """The text of a message's content: the text itself, or that of its parts, joined."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return content or ""


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
    for column in ("messages", "prompt", "completion"):
        turns = row.get(column)
        if isinstance(turns, list):
            row[column] = [
                {**turn, "tool_calls": without_nulls(turn["tool_calls"])}
                if isinstance(turn, dict) and "tool_calls" in turn
                else turn
                for turn in turns
            ]
    return row
