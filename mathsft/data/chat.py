"""Conversations, and prompts with completions: the schemas of rows that are no maths problem.

| column | type | meaning |
|---|---|---|
| messages | list of {role, content} | the turns, word for word (`mathsft.data.messages`) |
| trained_from | int64 | assistant turns from this index on are trained; 0 trains all |
| source | string | the row's own ``source`` where it has one, else that of the data set |

If a row of the data set has them, messages have further keys (``train``, ``tool_calls``, …), and
there are the columns ``tools``, the functions that may be called as a JSON list, and
``chat_template_kwargs``, a JSON object for the template such as ``{"enable_thinking": false}``.

For text that no chat template is put around: ``prompt``, ``completion`` (both word for word) and
``source``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from datasets import Features, Value

from mathsft.data.messages import (
    PLAIN_MESSAGES,
    TOOL_ROLES,
    Message,
    content_text,
    is_messages_type,
    json_of,
    messages_type,
    read_messages,
)
from mathsft.data.schemas import UnusableRowError, text_of

CHAT_FEATURES = Features(
    {
        "messages": PLAIN_MESSAGES,
        "trained_from": Value("int64"),
        "source": Value("string"),
    }
)
CHAT_COLUMNS = Features({"tools": Value("string"), "chat_template_kwargs": Value("string")})
PROMPT_FEATURES = Features(
    {"prompt": Value("string"), "completion": Value("string"), "source": Value("string")}
)


class Conversation(TypedDict):
    """A row of `CHAT_FEATURES`, with what else it holds."""

    messages: list[Message]
    trained_from: int
    source: str
    tools: NotRequired[str]
    chat_template_kwargs: NotRequired[str]


class PromptRow(TypedDict):
    """A row of `PROMPT_FEATURES`."""

    prompt: str
    completion: str
    source: str


def chat_features(rows: Sequence[Mapping[str, Any]]) -> Features:
    """`CHAT_FEATURES`, and what else some of the conversations hold."""
    more = {name: kind for name, kind in CHAT_COLUMNS.items() if any(name in row for row in rows)}
    kind = messages_type(row["messages"] for row in rows)
    return Features({**CHAT_FEATURES, "messages": kind, **more})


def is_chat(features: Mapping[str, Any]) -> bool:
    """Whether columns are, or hold, those of `chat_features`."""
    return is_messages_type(features.get("messages")) and all(
        features.get(name) == kind for name, kind in CHAT_FEATURES.items() if name != "messages"
    )


def from_chat(
    row: dict[str, Any], *, where: str, source: str, counted: set[str] | None = None
) -> Conversation:
    """``messages``: all assistant turns are trained, or those from ``trained_from`` on.

    Turns with ``weight: 0`` or ``train: false`` are not. ``counted`` gets the keys of messages
    that are not read.
    """
    return _usable(read_chat(row, ("messages",), where=where, source=source, counted=counted))


def from_prompt_messages(
    row: dict[str, Any], *, where: str, source: str, counted: set[str] | None = None
) -> Conversation:
    """``prompt`` and ``completion``, both lists of messages: the completion's turns are trained."""
    columns = ("prompt", "completion")
    return _usable(read_chat(row, columns, where=where, source=source, counted=counted))


def read_chat(
    row: Mapping[str, Any],
    columns: Sequence[str],
    *,
    where: str,
    source: str = "",
    counted: set[str] | None = None,
    any_role: bool = False,
) -> Conversation:
    """The conversation in the columns of a row, whichever turns follow each other.

    Of several columns the turns of the last one are trained. Raises what
    `mathsft.data.messages.read_messages` raises, which has the same arguments.
    """
    parts = [
        read_messages(row, column, where=where, counted=counted, any_role=any_role)
        for column in columns
    ]
    messages = [message for part in parts for message in part]
    trained_from = row.get("trained_from") if len(parts) == 1 else len(messages) - len(parts[-1])
    if trained_from is None:  # absent, or null where other rows of a file have one
        trained_from = 0
    if not isinstance(trained_from, int) or trained_from < 0:
        raise ValueError(
            f"{where}, column 'trained_from': expected the index of a message, found "
            f"{trained_from!r:.40}"
        )
    found = Conversation(messages=messages, trained_from=trained_from, source=_source(row, source))
    if tools := json_of(row, "tools", list, where=where):
        found["tools"] = tools
    if kwargs := json_of(row, "chat_template_kwargs", dict, where=where):
        found["chat_template_kwargs"] = kwargs
    return found


def from_prompt_text(row: dict[str, Any], *, where: str, source: str) -> PromptRow:
    """``prompt`` and ``completion``, both texts, word for word: spaces at their ends count."""
    for column in ("prompt", "completion"):
        text_of(row, column, where=where)
    return PromptRow(
        prompt=row["prompt"], completion=row["completion"], source=_source(row, source)
    )


def trained_turns(row: Mapping[str, Any]) -> list[bool]:
    """For each message of a conversation whether it is trained.

    Raises UnusableRowError if none is.
    """
    first = row.get("trained_from") or 0
    messages = row["messages"]
    if not any(message["role"] == "assistant" for message in messages[first:]):
        raise UnusableRowError("without an assistant turn")
    trained = [
        index >= first and message["role"] == "assistant" and message.get("train") is not False
        for index, message in enumerate(messages)
    ]
    if not any(trained):
        raise UnusableRowError("without a trained assistant turn")
    return trained


def asked(row: Mapping[str, Any]) -> list[str]:
    """What a row of any schema asks: a problem's question, the user's turns, or the prompt.

    Raises ValueError for a row that asks nothing.
    """
    turns = row.get("messages")
    if turns is None and isinstance(row.get("prompt"), list):
        turns = row["prompt"]
    if turns is not None:
        return [content_text(turn["content"]) for turn in turns if turn["role"] == "user"]
    found = row.get("prompt") if row.get("question") is None else row["question"]
    if not isinstance(found, str):
        raise ValueError(f"no question, messages or prompt in {row!r:.60}")
    return [found]


def _source(row: Mapping[str, Any], source: str) -> str:
    own = row.get("source")
    return own.strip() or source if isinstance(own, str) else source


def _usable(row: Conversation) -> Conversation:
    """The row, or UnusableRowError with the reason why nothing can be learnt from it."""
    messages = row["messages"]
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    trained_turns(row)
    if turns[0] != "user":
        raise UnusableRowError("whose first turn is not the user's")
    if "system" in turns:
        raise UnusableRowError("with a system turn after the first")
    for message in messages:
        may_be_empty = message["role"] in ("system", *TOOL_ROLES) or "tool_calls" in message
        if not (message["content"] or "").strip() and not may_be_empty:
            raise UnusableRowError(f"with an empty {message['role']} turn")
    return row
