"""What a reward is, and how it is called.

A reward is called as in TRL: ``reward(prompts=…, completions=…, completion_ids=…, **columns)``
gives one number for each completion. Completions are texts, or lists of messages. Each column of
the data set comes as a list with one cell per completion. So `trl.GRPOTrainer` takes the rewards
of this package unchanged, and this package takes any reward function that was written for TRL.

A reward that raises stops the run. A reward of 0 in place of the error would teach the model that
the answer was wrong.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

from mathsft.data.messages import REASONING, content_text


class RewardError(RuntimeError):
    """A reward could not be given; the message names the reward and the row."""


class Row(dict[str, Any]):
    """The cells of one row; a column that is missing is an error that names it."""

    def __missing__(self, column: str) -> Any:
        raise ValueError(
            f"the rows have no column {column!r}; they have {', '.join(sorted(self)) or 'none'}"
        )


@dataclass(frozen=True)
class Reward:
    """A reward that judges each completion on its own. A subclass defines `value` and a name.

    Calling it judges a batch, as TRL does. If `value` raises, RewardError names the row.
    """

    name: ClassVar[str] = "reward"

    @property
    def __name__(self) -> str:
        """The name under which TRL logs it."""
        return self.name

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        """One reward for each completion.

        Args:
            completions: texts, or lists of messages (the last message of the assistant counts).
            columns: lists with a cell for each completion; anything else is ignored.
        """
        if isinstance(completions, str):
            raise RewardError(f"reward {self.name!r}: completions is one text; give a list")
        values = []
        for place, completion in enumerate(completions):
            row = Row(_cells(columns, place, len(completions)))
            try:
                value = self.value(completion_text(completion), row)
            except Exception as error:
                said = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                where = row_name(self.name, place, columns)
                raise RewardError(f"{where}: {said}{error}") from error
            values.append(_number(value, row_name(self.name, place, columns)))
        return values

    def value(self, text: str, row: Row) -> float:
        """The reward of one completion.

        Args:
            text: the completion.
            row: the row's other cells, such as ``row["answer"]``.
        """
        raise NotImplementedError


def completion_text(completion: Any) -> str:
    """The text of a completion: itself, or the content of the assistant's last message.

    If a chat template's parser has moved the reasoning out of the text, it is put back before the
    text, between ``<think>`` and ``</think>``. A message that only calls tools has the text "".

    Args:
        completion: a text, or a list of messages.

    Raises ValueError for anything else, and for messages without one of the assistant.
    """
    if isinstance(completion, str):
        return completion
    turns = completion if isinstance(completion, list | tuple) else []
    for turn in reversed(turns):
        if isinstance(turn, Mapping) and turn.get("role", "assistant") == "assistant":
            text = content_text(turn.get("content"))
            thought = next((turn[key] for key in REASONING if turn.get(key)), "")
            return f"<think>{thought}</think>{text}" if thought else text
    raise ValueError(
        f"a completion must be a text or a list with a message of the assistant, found "
        f"{completion!r:.60}"
    )


def call_reward(
    reward: Callable[..., Any],
    /,
    *,
    completions: Sequence[Any],
    optional: bool = False,
    **columns: Any,
) -> list[Any]:
    """Call a reward, and return as many finite floats as there are completions.

    Args:
        reward: a reward of this package, or any function with TRL's signature.
        completions: texts, or lists of messages.
        optional: accept None in place of a number. In TRL it means that the reward does not apply
            to the row, and `Weighted` leaves it out of the sum.
        columns: ``prompts``, ``completion_ids``, ``ended`` and the columns of the data set.

    If the reward raises, each row is judged again on its own to find the first one that fails.

    Raises RewardError, with the reward's name and the row: the reward raises, or gives another
    number of values than completions, or a value that is not a finite number.
    """
    name = reward_name(reward)
    try:
        found = list(reward(completions=completions, **columns))
    except RewardError:  # it names the row already
        raise
    except Exception as error:
        place, cause = _first_failure(reward, completions, columns, error)
        where = row_name(name, place, columns)
        raise RewardError(f"{where} raised {type(cause).__name__}: {cause}") from cause
    if len(found) != len(completions):
        raise RewardError(
            f"reward {name!r} gave {len(found)} values for {len(completions)} completions; it must "
            "give one for each"
        )
    return [
        None if optional and value is None else _number(value, row_name(name, place, columns))
        for place, value in enumerate(found)
    ]


def reward_name(reward: Callable[..., Any]) -> str:
    """The name under which a reward is logged, as in TRL: its ``__name__``.

    Args:
        reward: a reward, or another callable.
    """
    return str(getattr(reward, "__name__", type(reward).__name__))


def row_name(name: str, place: int | None, columns: Mapping[str, Any]) -> str:
    """How an error names a reward and a row: with the beginning of its prompt.

    Args:
        name: the reward's name.
        place: the row's number in the batch; None: no row alone fails.
        columns: ``prompts`` is used.
    """
    if place is None:
        return f"reward {name!r}, called with all rows at once (each alone passes),"
    prompts = columns.get("prompts")
    if not prompts or len(prompts) <= place:
        return f"reward {name!r}, row {place}"
    prompt = prompts[place]
    if not isinstance(prompt, str):
        prompt = content_text(prompt[-1].get("content")) if prompt else ""
    return f"reward {name!r}, row {place} (prompt {prompt!r:.60})"


def _cells(columns: Mapping[str, Any], place: int, count: int) -> dict[str, Any]:
    """The cells of one row. The trainer's state and functions are no columns."""
    cells = {}
    for key, column in columns.items():
        is_list = hasattr(column, "__len__") and hasattr(column, "__getitem__")
        if is_list and not isinstance(column, str | Mapping):
            if len(column) != count:
                raise RewardError(f"{len(column)} {key} for {count} completions; give one for each")
            cells[key] = column[place]
    return cells


def _first_failure(
    reward: Callable[..., Any],
    completions: Sequence[Any],
    columns: Mapping[str, Any],
    error: Exception,
) -> tuple[int | None, Exception]:
    """The first row that fails on its own, and its error; None if only all together fail."""
    for place, completion in enumerate(completions):
        cells = _cells(columns, place, len(completions))
        row = {key: [cells[key]] if key in cells else column for key, column in columns.items()}
        try:
            list(reward(completions=[completion], **row))
        except Exception as alone:
            return place, alone
    return None, error


def _number(value: Any, where: str) -> float:
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()  # a scalar of torch or numpy
    if value is None:
        raise RewardError(f"{where} gave None, which only a part of a `Weighted` sum may give")
    if not (isinstance(value, Real) and math.isfinite(value)):
        raise RewardError(f"{where} gave {value!r:.60}; it must be a finite number")
    return float(value)
