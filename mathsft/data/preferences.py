"""Pairs of a better and a worse answer to the same prompt.

| column | type | meaning |
|---|---|---|
| prompt | text or messages | what both answers reply to |
| chosen, rejected | same as the prompt | the better and the worse answer |
| source | string | the row's own ``source`` if it has one, else that of the data set |
| margin | float64 | by how much the chosen answer is better; only for reward models |

All columns of a row are text, or all are messages (`mathsft.data.messages`): if one is given as
messages, the others become messages too. A row need not have a margin. The names are TRL's.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Features, Value

from mathsft.data.cells import SCORES, turns_of
from mathsft.data.chat import template_columns
from mathsft.data.columns import unread
from mathsft.data.messages import Message, content_text, read_messages
from mathsft.data.pairs import answer_key
from mathsft.data.schemas import UnusableRowError, source_of, text_of

PREFERENCE_FEATURES = Features(
    {
        "prompt": Value("string"),
        "chosen": Value("string"),
        "rejected": Value("string"),
        "source": Value("string"),
    }
)
MARGIN = Features({"margin": Value("float64")})
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
            a column that is not read may hold it; a ``margin`` that is not a finite number.
        UnusableRowError: an empty text; two answers that are equal except for spelling
            (`mathsft.data.pairs.answer_key`); neither a prompt nor a common beginning; an answer
            that is not the assistant's; scores (`SCORES`) that do not prefer the chosen answer.
    """
    _check_scores(row, where=where)
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
    if answer_key(made["chosen"]) == answer_key(made["rejected"]):
        raise UnusableRowError(_EQUAL)
    return {**made, "source": source_of(row, source), **_margin(row, where=where)}


def _margin(row: Mapping[str, Any], *, where: str) -> dict[str, float]:
    value = row.get("margin")
    if value is None:
        return {}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value)):
        raise ValueError(
            f"{where}, column 'margin': expected a finite number, by which the chosen answer is "
            f"better, found {value!r:.40}"
        )
    return {"margin": float(value)}


def _check_scores(row: Mapping[str, Any], *, where: str) -> None:
    for names in SCORES:
        scores: list[Any] = [row.get(name) for name in names]
        if None in scores:
            continue
        for name, score in zip(names, scores, strict=True):
            if not isinstance(score, int | float):
                raise ValueError(
                    f"{where}, column {name!r}: expected a number, found {score!r:.40}"
                )
        if scores[0] <= scores[1]:
            how = "the same score as" if scores[0] == scores[1] else "a lower score than"
            raise UnusableRowError(f"whose chosen answer has {how} the rejected one")


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
        answer_messages(name, cells[name], turns[name], "assistant", **reading) for name in _SIDES
    )
    if chosen == rejected:
        raise UnusableRowError(_EQUAL)
    shared = _shared(chosen, rejected)
    if turns["prompt"] is not None:
        prompt = answer_messages("prompt", None, turns["prompt"], "user", **reading)
        shared = len(prompt) if shared >= len(prompt) and chosen[: len(prompt)] == prompt else 0
    elif shared:
        prompt = chosen[:shared]
        asked = [content_text(turn["content"]).strip() for turn in prompt]
        if cells["prompt"] is not None and cells["prompt"].strip() not in asked:
            raise UnusableRowError("whose prompt is not in its conversations")
    elif cells["prompt"] is not None:
        prompt = answer_messages("prompt", cells["prompt"], None, "user", **reading)
    else:
        raise UnusableRowError("whose chosen and rejected conversations share no beginning")
    made = {"prompt": prompt, "chosen": chosen[shared:], "rejected": rejected[shared:]}
    check_turns(**made)
    return made


def _shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many items two sequences have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def answer_messages(
    name: str, text: Any, turns: list[Any] | None, role: str, **reading: Any
) -> list[Message]:
    """Read a cell's turns; a text becomes one turn of ``role``."""
    given = [{"role": role, "content": text}] if turns is None else turns
    return read_messages({name: given}, name, **reading)


def check_turns(prompt: Sequence[Message], **answers: Sequence[Message]) -> None:
    """Raise UnusableRowError unless the assistant begins and ends each answer."""
    if not prompt or prompt[-1]["role"] == "assistant":
        raise UnusableRowError("whose prompt does not end with a turn to answer")
    for answer in answers.values():
        if not answer or {answer[0]["role"], answer[-1]["role"]} != {"assistant"}:
            raise UnusableRowError("with an answer that is not the assistant's")
        if not (answer[-1]["content"] or "").strip() and "tool_calls" not in answer[-1]:
            raise UnusableRowError("with an empty assistant turn")
