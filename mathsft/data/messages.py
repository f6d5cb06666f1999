"""One message of a chat, in the form in which the rows of `mathsft.data.chat` store it.

| key | type | meaning |
|---|---|---|
| role | string | system, user, assistant, or a tool's: tool, function, ipython |
| content | string | the text, word for word; null only together with ``tool_calls`` |
| train | bool | assistant turns: false is context and is not trained (from ``train``, ``weight``) |
| reasoning_content, reasoning, thinking | string | what an assistant thinks before it answers |
| tool_calls | string | a JSON list of calls, as text: arguments of any form fit in one column |
| tool_call_id, name | string | which call a tool's turn answers, and who speaks |

The keys after ``content`` are there only if a row of the data set has them.
"""

from collections.abc import Collection, Mapping
from typing import Any, NotRequired, TypedDict

from datasets import List, Value

from mathsft.checks import unknown_name
from mathsft.data.cells import json_of, parsed
from mathsft.data.columns import holds, trained, unread
from mathsft.data.schemas import UnusableRowError, text_of

ROLES = ("system", "user", "assistant")
TOOL_ROLES = ("tool", "function", "ipython")
# Who speaks in ShareGPT's data, as roles.
SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "observation": "tool"}
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


_PLAIN = {key: MESSAGE_FEATURES[key] for key in ("role", "content")}
PLAIN_MESSAGES = List(_PLAIN)


def keys_in(cell: Any) -> set[str] | None:
    """The keys of the messages in a cell, or of its lists of messages; None if it holds texts."""
    if not isinstance(cell, list | tuple) or any(isinstance(item, str) for item in cell):
        return None
    keys: set[str] = set()
    for item in cell:
        keys |= item.keys() if isinstance(item, Mapping) else keys_in(item) or set()
    return keys


def keys_of(kind: Any) -> set[str] | None:
    """The keys of the messages in a column of this type; None for a column of texts."""
    turn = getattr(kind, "feature", None)
    if isinstance(turn, Mapping):
        return set(turn)
    return keys_of(turn) if isinstance(turn, List) else None


def type_with(kind: Any, keys: Collection[str]) -> List:
    """The type of a column whose messages have these keys, in addition to role and content.

    ``kind`` is the column's type with any keys, or with text: a column of lists of texts becomes
    a column of lists of conversations.
    """
    found = List({key: held for key, held in MESSAGE_FEATURES.items() if key in {*_PLAIN, *keys}})
    lists = isinstance(kind, List) and not isinstance(kind.feature, Mapping)
    return List(found) if lists else found


def read_messages(
    row: Mapping[str, Any],
    column: str,
    *,
    where: str,
    counted: set[str] | None = None,
    any_role: bool = False,
) -> list[Message]:
    """The turns in ``column`` of ``row``, each ``{role, content}`` or ShareGPT's ``{from, value}``.

    Args:
        counted: a set; keys that are not read and not known to be harmless are added to it.
        any_role: accept unknown roles; a chat template decides about them later.

    Raises:
        ValueError: no list of messages, an unknown role, a value of another type than the table
            above says, or an unknown key that may change what is trained.
        UnusableRowError: content that is not text, such as an image; a turn that should be
            trained but is not the assistant's.
    """
    if column not in row:
        raise ValueError(
            f"{where}: column {column!r} is missing; the row has {', '.join(map(repr, row))}"
        )
    turns = [] if row[column] is None else parsed(row[column])
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


def _renamed(turn: dict[str, Any]) -> dict[str, Any]:
    """ShareGPT's ``{from, value}`` as ``{role, content}``."""
    speaker = turn.get("from")
    if not isinstance(speaker, str) or "value" not in turn or holds(turn.get("role")):
        return turn
    rest = {key: held for key, held in turn.items() if key not in ("from", "value")}
    return {**rest, "role": SPEAKERS.get(speaker, speaker), "content": turn["value"]}


def _message(turn: Any, *, where: str, counted: set[str], any_role: bool) -> Message:
    if not isinstance(turn, Mapping):
        raise ValueError(
            f"{where}: expected {{'role': …, 'content': …}}, found {type(turn).__name__} "
            f"({turn!r:.40})"
        )
    turn = _renamed(dict(turn))
    role = text_of(turn, "role", where=where, empty_ok=True)
    if role not in (*ROLES, *TOOL_ROLES) and not any_role:
        hint = f" ({role} is {SPEAKERS[role]})" if role in SPEAKERS else ""
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
    """The text as it is, or the joined texts of a list of parts; None if there is none."""
    content = turn.get("content")
    if "content" not in turn and holds(turn.get("tool_calls")):
        return None
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        for place, part in enumerate(content):
            kind = part.get("type", "text")
            others = [key for key in part if key not in ("type", "text") and holds(part[key])]
            if kind not in _TEXT_PARTS or any(key.startswith(("image", "audio")) for key in others):
                raise UnusableRowError(f"with content that is not text ({kind})")
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
