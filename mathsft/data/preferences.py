"""Pairs of a better and a worse answer, and groups of answers with rewards.

| column | type | meaning |
|---|---|---|
| prompt | text or messages | what both answers, or all answers of a group, reply to |
| chosen, rejected | same as the prompt | the better and the worse answer |
| completions | list of the prompt's type | the answers of a group |
| rewards | list of float64 | one number for each answer |
| source | string | the row's own ``source`` if it has one, else that of the data set |

All columns of a row are text, or all are messages (`mathsft.data.messages`): if one is given as
messages, the others become messages too. The names are TRL's.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Features, List, Value

from mathsft.data.cells import parsed, turns_of
from mathsft.data.chat import template_columns
from mathsft.data.columns import unread
from mathsft.data.messages import Message, content_text, read_messages
from mathsft.data.schemas import UnusableRowError, source_of, text_of

PREFERENCE_FEATURES = Features(
    {
        "prompt": Value("string"),
        "chosen": Value("string"),
        "rejected": Value("string"),
        "source": Value("string"),
    }
)
GROUP_FEATURES = Features(
    {
        "prompt": Value("string"),
        "completions": List(Value("string")),
        "rewards": List(Value("float64")),
        "source": Value("string"),
    }
)
_SIDES = ("chosen", "rejected")
_EQUAL = "whose chosen and rejected answers are equal"


def read_preference(
    row: Mapping[str, Any],
    *,
    where: str,
    source: str = "",
    counted: set[str] | None = None,
    any_role: bool = False,
) -> dict[str, Any]:
    """Read ``prompt`` (or ``conversations``), ``chosen`` and ``rejected``: texts or messages.

    If there is no prompt, the common beginning of chosen and rejected becomes the prompt, as in
    TRL: turns of conversations, or characters of texts (without a space at the end). If the
    prompt is text and the answers are whole conversations, it must be one of their common turns.

    Raises:
        ValueError: another type than the table above says; answers as text without a prompt, when
            a column that is not read may hold it.
        UnusableRowError: an empty text; two equal answers; neither a prompt nor a common
            beginning; an answer that is not the assistant's.
    """
    asked = row.get("conversations") if row.get("prompt") is None else row["prompt"]
    cells = {"prompt": asked, **{name: row.get(name) for name in _SIDES}}
    turns = {name: turns_of(cell) for name, cell in cells.items()}
    for name in cells:
        if turns[name] is None and (name != "prompt" or asked is not None):
            text_of(cells, name, where=where)
    if all(found is None for found in turns.values()):
        made = _texts(cells, row, where=where)
    else:
        reading: dict[str, Any] = {"where": where, "counted": counted, "any_role": any_role}
        made = _conversations(cells, turns, reading) | template_columns(row, where=where)
    if made["chosen"] == made["rejected"]:
        raise UnusableRowError(_EQUAL)
    return {**made, "source": source_of(row, source)}


def _texts(cells: Mapping[str, Any], row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    if cells["prompt"] is not None:
        return dict(cells)
    # A text or a list in another column may be the prompt.
    for name in unread(row, where=where, read={"prompt", "source", *_SIDES}, paired=True):
        if isinstance(row[name], str | list) and not name.lower().startswith(_SIDES):
            raise ValueError(
                f"{where}: column 'prompt' is missing, and {name!r} holds {row[name]!r:.40}. If "
                f"that is the prompt of both answers, pass columns={{'prompt': {name!r}}}; "
                "if not, remove the column"
            )
    chosen, rejected = (cells[name] for name in _SIDES)
    shared = _shared(chosen, rejected)
    shared -= chosen[:shared].endswith(" ")
    made = {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}
    if not made["prompt"].strip():
        raise UnusableRowError("whose chosen and rejected texts share no beginning")
    if chosen != rejected and not (made["chosen"].strip() and made["rejected"].strip()):
        raise UnusableRowError("with one answer that is the beginning of the other")
    return made


def _conversations(
    cells: Mapping[str, Any], turns: Mapping[str, list[Any] | None], reading: Mapping[str, Any]
) -> dict[str, Any]:
    chosen, rejected = (
        _messages(name, cells[name], turns[name], "assistant", **reading) for name in _SIDES
    )
    if chosen == rejected:
        raise UnusableRowError(_EQUAL)
    shared = _shared(chosen, rejected)
    if turns["prompt"] is not None:
        prompt = _messages("prompt", None, turns["prompt"], "user", **reading)
        shared = len(prompt) if shared >= len(prompt) and chosen[: len(prompt)] == prompt else 0
    elif shared:
        prompt = chosen[:shared]
        asked = [content_text(turn["content"]).strip() for turn in prompt]
        if cells["prompt"] is not None and cells["prompt"].strip() not in asked:
            raise UnusableRowError("whose prompt is not in its conversations")
    elif cells["prompt"] is not None:
        prompt = _messages("prompt", cells["prompt"], None, "user", **reading)
    else:
        raise UnusableRowError("whose chosen and rejected conversations share no beginning")
    made = {"prompt": prompt, "chosen": chosen[shared:], "rejected": rejected[shared:]}
    _check_turns(**made)
    return made


def _shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many items two sequences have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _messages(
    name: str, text: Any, turns: list[Any] | None, role: str, **reading: Any
) -> list[Message]:
    """Read a cell's turns; a text becomes one turn of ``role``."""
    given = [{"role": role, "content": text}] if turns is None else turns
    return read_messages({name: given}, name, **reading)


def _check_turns(prompt: Sequence[Message], **answers: Sequence[Message]) -> None:
    """Raise UnusableRowError unless the assistant begins and ends each answer."""
    if not prompt or prompt[-1]["role"] == "assistant":
        raise UnusableRowError("whose prompt does not end with a turn to answer")
    for answer in answers.values():
        if not answer or {answer[0]["role"], answer[-1]["role"]} != {"assistant"}:
            raise UnusableRowError("with an answer that is not the assistant's")
        if not (answer[-1]["content"] or "").strip() and "tool_calls" not in answer[-1]:
            raise UnusableRowError("with an empty assistant turn")


def read_group(
    row: Mapping[str, Any],
    *,
    where: str,
    source: str = "",
    counted: set[str] | None = None,
    any_role: bool = False,
) -> dict[str, Any]:
    """Read ``prompt``, ``completions`` and as many ``rewards``; texts, messages, or both.

    Raises ValueError for another type, for rewards that are not finite numbers, and if there are
    more or fewer of them than completions; UnusableRowError for an empty prompt, no completion, or
    an answer that is not the assistant's.
    """
    completions, rewards = (_list(row, name, where=where) for name in ("completions", "rewards"))
    if len(completions) != len(rewards):
        raise ValueError(
            f"{where}: {len(completions)} completions and {len(rewards)} rewards; "
            "expected one reward for each completion"
        )
    if not completions:
        raise UnusableRowError("without completions")
    for place, reward in enumerate(rewards):
        if not isinstance(reward, int | float) or not math.isfinite(reward):
            raise ValueError(
                f"{where}, rewards[{place}]: expected a finite number, found {reward!r:.40}"
            )
    cells = {f"completions[{place}]": cell for place, cell in enumerate(completions)}
    turns = {name: turns_of(cell) for name, cell in cells.items()}
    for name, cell in cells.items():
        if turns[name] is None and not isinstance(cell, str):
            raise ValueError(f"{where}, {name}: expected text or messages, found {cell!r:.40}")
    asked = turns_of(row.get("prompt"))
    if asked is None:
        text_of(dict(row), "prompt", where=where)
    made: dict[str, Any] = {"prompt": row["prompt"], "completions": completions}
    if asked is not None or any(found is not None for found in turns.values()):
        reading: dict[str, Any] = {"where": where, "counted": counted, "any_role": any_role}
        prompt = _messages("prompt", row["prompt"], asked, "user", **reading)
        answers = {
            name: _messages(name, cell, turns[name], "assistant", **reading)
            for name, cell in cells.items()
        }
        _check_turns(prompt, **answers)
        made = {"prompt": prompt, "completions": list(answers.values())}
        made |= template_columns(row, where=where)
    return {**made, "rewards": list(map(float, rewards)), "source": source_of(row, source)}


def _list(row: Mapping[str, Any], name: str, *, where: str) -> list[Any]:
    value = parsed(row.get(name))
    if not isinstance(value, list):
        raise ValueError(
            f"{where}, column {name!r}: expected a list, found {type(value).__name__} "
            f"({value!r:.40})"
        )
    return value
