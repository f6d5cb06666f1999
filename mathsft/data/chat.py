"""Conversations, and prompts with completions: the schemas of rows that are no maths problem.

| column | type | meaning |
|---|---|---|
| messages | list of {role, content} | the turns, word for word; role is system, user or assistant |
| trained_from | int64 | assistant turns from this index on are trained; 0 trains all |
| source | string | the row's own ``source`` where it has one, else that of the data set |

or, for text that no chat template is put around, ``prompt``, ``completion`` (both word for
word) and ``source``.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

from datasets import Features, List, Value

from mathsft.data.schemas import UnusableRowError, text_of
from mathsft.names import unknown_name

CHAT_FEATURES = Features(
    {
        "messages": List({"role": Value("string"), "content": Value("string")}),
        "trained_from": Value("int64"),
        "source": Value("string"),
    }
)
PROMPT_FEATURES = Features(
    {"prompt": Value("string"), "completion": Value("string"), "source": Value("string")}
)
ROLES = ("system", "user", "assistant")
_TOOLS = ("tool", "function", "ipython")  # published, and not trained here


class Message(TypedDict):
    """One turn."""

    role: str
    content: str


class Conversation(TypedDict):
    """A row of `CHAT_FEATURES`."""

    messages: list[Message]
    trained_from: int
    source: str


class PromptRow(TypedDict):
    """A row of `PROMPT_FEATURES`."""

    prompt: str
    completion: str
    source: str


def from_chat(row: dict[str, Any], *, where: str, source: str) -> Conversation:
    """``messages``: all assistant turns are trained, or those from ``trained_from`` on."""
    messages = _messages(row, "messages", where=where)
    trained_from = row.get("trained_from")
    if trained_from is None:  # absent, or null where other rows of a file have one
        trained_from = 0
    if not isinstance(trained_from, int) or trained_from < 0:
        raise ValueError(
            f"{where}, column 'trained_from': expected the index of a message, found "
            f"{trained_from!r:.40}"
        )
    return _conversation(messages, trained_from, _source(row, source))


def from_prompt_messages(row: dict[str, Any], *, where: str, source: str) -> Conversation:
    """``prompt`` and ``completion``, both lists of messages: the completion's turns are trained."""
    prompt = _messages(row, "prompt", where=where)
    completion = _messages(row, "completion", where=where)
    return _conversation(prompt + completion, len(prompt), _source(row, source))


def from_prompt_text(row: dict[str, Any], *, where: str, source: str) -> PromptRow:
    """``prompt`` and ``completion``, both texts, word for word: spaces at their ends count."""
    for column in ("prompt", "completion"):
        text_of(row, column, where=where)
    return PromptRow(
        prompt=row["prompt"], completion=row["completion"], source=_source(row, source)
    )


def asked(row: Mapping[str, Any]) -> list[str]:
    """What a row of any schema asks: a problem's question, the user's turns, or the prompt.

    Raises ValueError for a row that asks nothing.
    """
    if row.get("messages") is not None:
        return [turn["content"] for turn in row["messages"] if turn["role"] == "user"]
    found = row.get("prompt") if row.get("question") is None else row["question"]
    if not isinstance(found, str):
        raise ValueError(f"no question, messages or prompt in {row!r:.60}")
    return [found]


def _source(row: dict[str, Any], source: str) -> str:
    own = row.get("source")
    return own.strip() or source if isinstance(own, str) else source


def _messages(row: dict[str, Any], column: str, *, where: str) -> list[Message]:
    """The turns in ``column``. Raises ValueError where they are not a list of role and content."""
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
    messages = []
    for place, turn in enumerate(turns):
        here = f"{where}, {column}[{place}]"
        if not isinstance(turn, dict):
            raise ValueError(
                f"{here}: expected {{'role': …, 'content': …}}, found {type(turn).__name__} "
                f"({turn!r:.40})"
            )
        role = text_of(turn, "role", where=here, empty_ok=True)
        if role not in (*ROLES, *_TOOLS):
            hint = {"human": " (human is user)", "gpt": " (gpt is assistant)"}.get(role, "")
            raise ValueError(f"{here}: {unknown_name('role', role, ROLES)}{hint}. Rename it")
        text_of(turn, "content", where=here, empty_ok=True)
        messages.append(Message(role=role, content=turn["content"] or ""))
    return messages


def _conversation(messages: list[Message], trained_from: int, source: str) -> Conversation:
    """The row, or UnusableRowError with the reason why nothing can be learnt from it."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if set(roles) & set(_TOOLS):
        raise UnusableRowError("with a tool's turn")
    if "assistant" not in roles[trained_from:]:
        raise UnusableRowError("without an assistant turn")
    if turns[0] != "user":
        raise UnusableRowError("whose first turn is not the user's")
    if "system" in turns:
        raise UnusableRowError("with a system turn after the first")
    for message in messages:
        if message["role"] != "system" and not message["content"].strip():
            raise UnusableRowError(f"with an empty {message['role']} turn")
    return Conversation(messages=messages, trained_from=trained_from, source=source)
