"""Answers with a label or with rewards: single ones (unpaired), and groups under one prompt.

| column | type | meaning |
|---|---|---|
| prompt | text or messages | what the answers reply to |
| completion | same as the prompt | a single answer |
| label | bool | whether that answer is good |
| completions | list of the prompt's type | the answers of a group |
| rewards | list of float64 | one number for each answer |
| ended | list of bool | optional, for each answer: false if it was cut, and has no stop token |
| source | string | the row's own ``source`` if it has one, else that of the data set |

All columns of a row are text, or all are messages, as in `mathsft.data.preferences`. The names are
TRL's.
"""

import math
from collections.abc import Mapping
from typing import Any

from datasets import Features, List, Value

from mathsft.data.cells import parsed, turns_of
from mathsft.data.chat import template_columns
from mathsft.data.preferences import answer_messages, check_turns
from mathsft.data.schemas import UnusableRowError, source_of, text_of

UNPAIRED_FEATURES = Features(
    {
        "prompt": Value("string"),
        "completion": Value("string"),
        "label": Value("bool"),
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
ENDED = Features({"ended": List(Value("bool"))})
_MOST = 1e30  # a loss is in float32, which holds numbers to 3e38


def read_unpaired(
    row: Mapping[str, Any],
    *,
    where: str,
    source: str = "",
    counted: set[str] | None = None,
    any_role: bool = False,
) -> dict[str, Any]:
    """Read ``prompt``, ``completion`` (texts or messages) and ``label``, true or false.

    A row without a label becomes a prompt with its completion, or a conversation. Raises
    ValueError for another type or label; UnusableRowError for an empty text, or an answer that is
    not the assistant's.
    """
    label = row.get("label")
    if not (label is None or isinstance(label, bool)):
        raise ValueError(
            f"{where}, column 'label': expected true (a good answer) or false (a bad one), found "
            f"{label!r:.40}"
        )
    cells = {name: row.get(name) for name in ("prompt", "completion")}
    turns = {name: turns_of(cell) for name, cell in cells.items()}
    for name in cells:
        if turns[name] is None:
            text_of(row, name, where=where)
    made: dict[str, Any] = cells
    if any(found is not None for found in turns.values()):
        reading: dict[str, Any] = {"where": where, "counted": counted, "any_role": any_role}
        prompt = answer_messages("prompt", cells["prompt"], turns["prompt"], "user", **reading)
        answer = answer_messages(
            "completion", cells["completion"], turns["completion"], "assistant", **reading
        )
        check_turns(prompt, completion=answer)
        made = {"prompt": prompt, "completion": answer, **template_columns(row, where=where)}
    made["source"] = source_of(row, source)
    if label is not None:
        return {**made, "label": label}
    if isinstance(made["prompt"], str):
        return made
    turns_before = made.pop("prompt")
    messages = [*turns_before, *made.pop("completion")]
    return {**made, "messages": messages, "trained_from": len(turns_before)}


def read_group(
    row: Mapping[str, Any],
    *,
    where: str,
    source: str = "",
    counted: set[str] | None = None,
    any_role: bool = False,
) -> dict[str, Any]:
    """Read ``prompt``, ``completions`` and as many ``rewards``; texts, messages, or both.

    ``ended``, if the row has it, says of each answer whether it stopped by itself.

    Raises ValueError for another type, for rewards that are not finite numbers or beyond 1e30, and
    if there are more or fewer of them (or of ``ended``) than completions; UnusableRowError for an
    empty prompt, no completion, or an answer that is not the assistant's.
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
        if not isinstance(reward, int | float) or not abs(reward) <= _MOST:
            limit = " of at most 1e30" if _is_huge(reward) else ""
            raise ValueError(
                f"{where}, rewards[{place}]: expected a finite number{limit}, found {reward!r:.40}"
            )
    ended = None if row.get("ended") is None else _list(row, "ended", where=where)
    if ended is not None:
        if len(ended) != len(completions):
            raise ValueError(
                f"{where}: {len(completions)} completions and {len(ended)} values in 'ended'; "
                "expected one for each completion"
            )
        if wrong := [value for value in ended if not isinstance(value, bool)]:
            raise ValueError(
                f"{where}, column 'ended': expected true (the answer stopped by itself) or false "
                f"(it was cut), found {wrong[0]!r:.40}"
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
        prompt = answer_messages("prompt", row["prompt"], asked, "user", **reading)
        answers = {
            name: answer_messages(name, cell, turns[name], "assistant", **reading)
            for name, cell in cells.items()
        }
        check_turns(prompt, **answers)
        made = {"prompt": prompt, "completions": list(answers.values())}
        made |= template_columns(row, where=where)
    made["rewards"] = list(map(float, rewards))
    if ended is not None:
        made["ended"] = ended
    return {**made, "source": source_of(row, source)}


def _is_huge(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _list(row: Mapping[str, Any], name: str, *, where: str) -> list[Any]:
    value = parsed(row.get(name))
    if not isinstance(value, list):
        raise ValueError(
            f"{where}, column {name!r}: expected a list, found {type(value).__name__} "
            f"({value!r:.40})"
        )
    return value
