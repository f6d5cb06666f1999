"""Rewards that can be checked: the final answer, the format, the length, and a judge's score.

All are called as in TRL (`mathsft.generation.reward_calls`), and `reward_by_name` makes them from
YAML. A model finds every gap in a reward. So these are strict: a completion that gives several
answers has none, a tag counts only once, and an empty completion earns nothing.
"""

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mathsft.checks import Rule, at_least, check_number, unknown_name
from mathsft.data.answers import reference_answer, same_answer
from mathsft.generation.claims import claimed_answer, has_format, one_number, same_expression
from mathsft.generation.instruction_rewards import InstructionFollowing
from mathsft.generation.reward_calls import Reward, Row
from mathsft.generation.weighted import Weighted

_STYLES = ("think", "boxed", "hashes")
_SHAPES = ("linear", "cosine")


@dataclass(frozen=True)
class FinalAnswer(Reward):
    """1 if the completion gives the right answer, once and marked; otherwise 0.

    The answer must be marked: ``<answer>18</answer>``, a line ``#### 18``, or ``\\boxed{18}``.
    Two marked answers are none, even if both are right (`claimed_answer`): a model that lists
    answers would be paid for guessing. Numbers are compared by value
    (`mathsft.data.answers.same_answer`). If the reference is not one number, such as ``x^2+1``,
    math-verify compares the two expressions.

    Args:
        column: the column with the right answer: a number, GSM8K's worked text, or LaTeX.
        require_ended: give 0 to a completion that was cut after the most tokens. None: if it is
            known; True: it must be known; False: never. It is known from a column ``ended`` (our
            trainer gives it), or from ``eos_token_id``.
        eos_token_id: the stop token or tokens. TRL gives no ``ended``, but its ``completion_ids``
            contain the stop token. So under TRL give ``tokenizer.eos_token_id``.

    Calling it raises RewardError for a row whose reference is missing or cannot be read.
    """

    name = "final_answer"

    column: str = "answer"
    require_ended: bool | None = None
    eos_token_id: int | Collection[int] | None = None

    def value(self, text: str, row: Row) -> float:
        reference = row[self.column]
        claim = claimed_answer(text)
        right = self._is_right(reference, claim)
        return float(right and self._ended(row) is not False)

    def _is_right(self, reference: Any, claim: str) -> bool:
        number = one_number(reference)
        if number or not isinstance(reference, str):
            return same_answer(number or reference_answer(reference), one_number(claim))
        return same_expression(reference, claim)

    def _ended(self, row: Row) -> bool | None:
        if self.require_ended is False:
            return None
        if row.get("ended") is not None:
            return bool(row["ended"])
        if self.eos_token_id is not None:
            stops = self.eos_token_id
            ids = row["completion_ids"]
            return bool(ids) and ids[-1] in ({stops} if isinstance(stops, int) else stops)
        if self.require_ended:
            raise ValueError(
                "require_ended=True, but nothing says whether the completion ended: give a column "
                "'ended', or eos_token_id=tokenizer.eos_token_id"
            )
        return None


@dataclass(frozen=True)
class AnswerFormat(Reward):
    """1 if the whole completion has the form, otherwise 0. It does not judge the answer.

    - "think": ``<think>…</think><answer>…</answer>``: each tag once, in this order, both parts
      not empty, and nothing but spaces around them;
    - "boxed": one ``\\boxed{…}`` that is not empty, at the end; after it only ``$``, ``\\]``,
      ``\\)``, a full stop and spaces;
    - "hashes": one ``####``, at the beginning of the last line, and a text after it.

    Args:
        style: one of the above.
    """

    name = "answer_format"

    style: Literal["think", "boxed", "hashes"] = "hashes"

    def __post_init__(self) -> None:
        if self.style not in _STYLES:
            raise ValueError(unknown_name("answer format", self.style, _STYLES))

    def value(self, text: str, row: Row) -> float:
        return float(has_format(text, self.style))


@dataclass(frozen=True)
class Length(Reward):
    """0 for a completion of at most ``target`` tokens, then falling to -1 at ``max_length``.

    n is the number of tokens, the stop token included, and u = (n - target) / (max_length - target)
    is the share of the way. Longer completions than ``max_length`` get -1.

    - "linear": -u. See `soft_overlong`, which is this with other arguments.
    - "cosine": -(1 - cos(pi u)) / 2, which begins slowly.

    An empty completion gets 0, the best value. So never use it alone.

    Args:
        target: tokens that cost nothing.
        max_length: tokens from which the reward is -1; at least ``target``.
        shape: one of the above.

    Calling it needs ``completion_ids``, which TRL and our trainer give.
    """

    name = "length"

    target: int
    max_length: int
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        check_number("target", self.target, at_least(0))
        more = Rule(
            lambda value: value >= max(1, self.target) and value == int(value),
            f"a whole number, at least target={self.target} and at least 1",
        )
        check_number("max_length", self.max_length, more)
        if self.shape not in _SHAPES:
            raise ValueError(unknown_name("shape", self.shape, _SHAPES))

    def value(self, text: str, row: Row) -> float:
        over = len(row["completion_ids"]) - self.target
        if over <= 0:
            return 0.0
        room = self.max_length - self.target
        share = min(over / room, 1.0) if room else 1.0
        return -share if self.shape == "linear" else (math.cos(math.pi * share) - 1) / 2


def soft_overlong(max_length: int, cache: int) -> Length:
    """DAPO's soft overlong punishment (Yu et al. 2025, arXiv:2503.14476, eq. 13).

    0 up to ``max_length - cache`` tokens, then falling linearly to -1 at ``max_length``. It is
    TRL's ``get_soft_overlong_punishment``.

    Args:
        max_length: the longest completion, in tokens; DAPO: 20,480.
        cache: the last tokens before it, in which the reward falls; DAPO: 4,096.
    """
    within = Rule(
        lambda value: 0 <= value <= max_length, f"0 or more, at most max_length={max_length}"
    )
    check_number("cache", cache, within)
    return Length(target=max_length - cache, max_length=max_length)


@dataclass(frozen=True)
class JudgedBy:
    """The score of a reward model, or of another judge that sees all rows at once.

    A model's score has no fixed zero, and it can be fooled: see `check_judge`.

    Args:
        score: ``score(prompts, completions)`` gives a number for each completion. It gets both as
            they are: texts, or lists of messages.
        name: the name under which it is logged.
    """

    score: Callable[[Sequence[Any], Sequence[Any]], Sequence[float]]
    name: str = "judged_by"

    @property
    def __name__(self) -> str:
        """The name under which TRL logs it."""
        return self.name

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        """One score for each completion.

        Args:
            completions: texts, or lists of messages.
            columns: ``prompts`` is needed.
        """
        if "prompts" not in columns:
            raise ValueError(f"reward {self.name!r} needs the prompts: give prompts=…")
        return list(self.score(columns["prompts"], completions))


REWARDS: dict[str, Callable[..., Any]] = {
    "final_answer": FinalAnswer,
    "answer_format": AnswerFormat,
    "length": Length,
    "soft_overlong": soft_overlong,
    "instruction_following": InstructionFollowing,
    "weighted": Weighted,
}


def reward_by_name(name: str, **settings: Any) -> Callable[..., list[float]]:
    """Make a reward from its name and its settings, as a recipe has them.

    The rewards of "weighted" are names, or mappings with a name and settings::

        name: weighted
        rewards: [final_answer, {name: answer_format, style: think}]
        weights: [1.0, 0.1]

    Args:
        name: a key of `REWARDS`.
        settings: the arguments of that reward.

    Raises ValueError for an unknown name, an unknown setting, or one that is missing.
    """
    if name not in REWARDS:
        raise ValueError(unknown_name("reward", name, REWARDS))
    known = inspect.signature(REWARDS[name]).parameters
    for setting in settings:
        if setting not in known:
            raise ValueError(unknown_name(f"setting of the reward {name!r}", setting, known))
    for setting, parameter in known.items():
        if parameter.default is parameter.empty and setting not in settings:
            raise ValueError(f"the reward {name!r} needs the setting {setting!r}")
    if name == "weighted":
        settings["rewards"] = [_part(part) for part in settings["rewards"]]
    return REWARDS[name](**settings)  # type: ignore[no-any-return]


def _part(given: Any) -> Callable[..., Any]:
    if isinstance(given, Mapping):
        if "name" not in given:
            raise ValueError(f"a reward in 'rewards' has no name: {dict(given)!r:.60}")
        return reward_by_name(**given)
    return reward_by_name(given) if isinstance(given, str) else given
