"""Conversations, and prompts with completions: the schemas of rows that are not maths problems.

| column | type | meaning |
|---|---|---|
| messages | list of {role, content} | the turns, word for word (`mathsft.data.messages`) |
| trained_from | int64 | assistant turns from this index on are trained; 0 trains all |
| source | string | the row's own ``source`` if it has one, else that of the data set |

There are more keys and columns if a row of the data set has them. Messages can have ``train``,
``tool_calls``, …. The column ``tools`` is a JSON list of the functions that may be called. The
column ``chat_template_kwargs`` is a JSON object for the template: ``{"enable_thinking": false}``.

Text without a chat template has ``prompt``, ``completion`` (both word for word) and ``source``.

These rows and problems may have a ``teacher_prompt`` (`mathsft.objectives.distillation`): text.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from datasets import Features, Value

from mathsft.data.cells import json_of, parsed
from mathsft.data.columns import holds
from mathsft.data.messages import (
    PLAIN_MESSAGES,
    TOOL_ROLES,
    Message,
    read_messages,
)
from mathsft.data.schemas import UnusableRowError, source_of, text_of

CHAT_FEATURES = Features(
    {
        "messages": PLAIN_MESSAGES,
        "trained_from": Value("int64"),
        "source": Value("string"),
    }
)
TEACHER_PROMPT = Features({"teacher_prompt": Value("string")})
CHAT_COLUMNS = Features({"tools": Value("string"), "chat_template_kwargs": Value("string")})
PROMPT_FEATURES = Features(
    {"prompt": Value("string"), "completion": Value("string"), "source": Value("string")}
)


class Conversation(TypedDict):
    """A row of `CHAT_FEATURES`, with its optional columns."""

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


def from_chat(
    row: Mapping[str, Any],
    *,
    where: str,
    source: str,
    counted: set[str] | None = None,
    any_role: bool = False,
) -> Conversation:
    """Read ``messages``: all assistant turns are trained, or those from ``trained_from`` on.

    Turns with ``weight: 0`` or ``train: false`` are not trained. Keys of messages that are not
    read are added to ``counted``.
    """
    reading: dict[str, Any] = {"where": where, "counted": counted, "any_role": any_role}
    return _usable(read_chat(row, ("messages",), source=source, **reading))


def from_prompt_messages(
    row: dict[str, Any], *, where: str, source: str, counted: set[str] | None = None
) -> Conversation:
    """``prompt`` and ``completion``, both lists of messages: the completion's turns are trained."""
    columns = ("prompt", "completion")
    return _usable(read_chat(row, columns, where=where, source=source, counted=counted))


def from_sharegpt(
    row: Mapping[str, Any], *, where: str, source: str, counted: set[str] | None = None
) -> Conversation:
    """ShareGPT: ``conversations`` of ``{from, value}``, and ``system`` before them."""
    columns = ("conversations",)
    found = read_chat(row, columns, where=where, source=source, counted=counted)
    return _usable(_after_system(found, row, where=where))


def from_alpaca(
    row: Mapping[str, Any], *, where: str, source: str, counted: set[str] | None = None
) -> Conversation:
    """Alpaca: the question is ``instruction`` with ``input`` below it, the answer ``output``.

    A ``system`` turn and the ``history`` (pairs of a question and its answer) come before it.
    """
    for column in ("instruction", "output"):
        text_of(row, column, where=where)
    asked = row["instruction"]
    if holds(row.get("input")):
        text_of(row, "input", where=where)
        asked += f"\n{row['input']}"
    pairs = parsed(row.get("history")) or []
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        raise ValueError(
            f"{where}, column 'history': expected pairs of texts, a question and its answer, "
            f"found {pairs!r:.60}"
        )
    turns = [
        {"role": role, "content": text}
        for pair in [*pairs, (asked, row["output"])]
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    given = {**row, "messages": turns}
    found = read_chat(given, ("messages",), where=where, source=source, counted=counted)
    return _usable(_after_system(found, row, where=where))


def _after_system(found: Conversation, row: Mapping[str, Any], *, where: str) -> Conversation:
    if not holds(row.get("system")):
        return found
    text_of(row, "system", where=where)
    if found["messages"][:1] and found["messages"][0]["role"] == "system":
        raise UnusableRowError("with a system turn and a system column")
    system = Message(role="system", content=row["system"])
    return {**found, "messages": [system, *found["messages"]]}


def read_chat(
    row: Mapping[str, Any],
    columns: Sequence[str],
    *,
    where: str,
    source: str = "",
    counted: set[str] | None = None,
    any_role: bool = False,
) -> Conversation:
    """Return the conversation in the columns of a row; the order of its turns is not checked.

    If there are several columns, the turns of the last one are trained. The arguments are
    those of `mathsft.data.messages.read_messages`. Raises what it raises, and ValueError for a bad
    ``trained_from``, ``tools`` or ``chat_template_kwargs``.
    """
    parts = [
        read_messages(row, column, where=where, counted=counted, any_role=any_role)
        for column in columns
    ]
    messages = [message for part in parts for message in part]
    trained_from = row.get("trained_from") if len(parts) == 1 else len(messages) - len(parts[-1])
    if trained_from is None:  # absent, or null because other rows of the file have one
        trained_from = 0
    if not isinstance(trained_from, int) or trained_from < 0:
        raise ValueError(
            f"{where}, column 'trained_from': expected the index of a message, found "
            f"{trained_from!r:.40}"
        )
    found = Conversation(
        messages=messages, trained_from=trained_from, source=source_of(row, source)
    )
    found |= template_columns(row, where=where)  # type: ignore[typeddict-item]
    return found


def template_columns(row: Mapping[str, Any], *, where: str) -> dict[str, str]:
    """Return those `CHAT_COLUMNS` that a row has, as JSON text."""
    tools = json_of(row, "tools", list, where=where)
    kwargs = json_of(row, "chat_template_kwargs", dict, where=where)
    found = {"tools": tools, "chat_template_kwargs": kwargs}
    return {name: text for name, text in found.items() if text}


def from_prompt_text(row: dict[str, Any], *, where: str, source: str) -> PromptRow:
    """``prompt`` and ``completion``, both texts, word for word: spaces at their ends count."""
    for column in ("prompt", "completion"):
        text_of(row, column, where=where)
    return PromptRow(
        prompt=row["prompt"], completion=row["completion"], source=source_of(row, source)
    )


def with_teacher_prompt(
    made: dict[str, Any], row: Mapping[str, Any], *, where: str
) -> dict[str, Any]:
    """The row as it was read, with its ``teacher_prompt`` if it has one.

    Raises ValueError for one that is not text.
    """
    if row.get("teacher_prompt") is None:
        return made
    return {**made, "teacher_prompt": text_of(row, "teacher_prompt", where=where)}


def answered(row: Mapping[str, Any], answer: Any) -> Mapping[str, Any]:
    """Join a prompt and one of its answers into a row to train on: a conversation, or texts."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return {"prompt": prompt, "completion": answer}
    template = {name: row[name] for name in CHAT_COLUMNS if row.get(name) is not None}
    return {"messages": [*prompt, *answer], "trained_from": len(prompt), **template}


def trained_turns(row: Mapping[str, Any]) -> list[bool]:
    """Return for each message of a conversation whether it is trained.

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


def _usable(row: Conversation) -> Conversation:
    """Return the row; raise UnusableRowError with the reason if it cannot be used."""
    messages = row["messages"]
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    trained_turns(row)
    if turns[0] != "user":
        raise UnusableRowError("whose first turn is not the user's")
    if "system" in turns:
        raise UnusableRowError("with a system turn after the first")
    refuse_empty(messages)
    return row


def refuse_empty(messages: Sequence[Message]) -> None:
    """Raise UnusableRowError if a turn says nothing, such as one whose content is null."""
    for message in messages:
        may_be_empty = message["role"] in ("system", *TOOL_ROLES) or "tool_calls" in message
        if not (message["content"] or "").strip() and not may_be_empty:
            raise UnusableRowError(f"with an empty {message['role']} turn")
