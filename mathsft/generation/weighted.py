"""The weighted sum of several rewards."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mathsft.checks import Rule, check_number
from mathsft.generation.reward_calls import RewardError, call_reward, reward_name, row_name

_FINITE = Rule(lambda value: True, "a finite number")


@dataclass(frozen=True)
class Weighted:
    """The weighted sum of several rewards, whose parts stay visible.

    Calling it gives the sums; `parts` gives the values of each reward, before they are weighted.
    If the caller gives ``log_metric`` (TRL does), the mean of each part is logged. None from a part
    does not count in the sum, as in TRL; if no part applies to a row, RewardError names it.

    Args:
        rewards: rewards of this package, or functions with TRL's signature.
        weights: as many finite numbers; default: 1 for each. A penalty that already gives negative
            values (`Length`) needs a positive weight.
        name: the name under which the sum is logged.
    """

    rewards: Sequence[Callable[..., Any]]
    weights: Sequence[float] | None = None
    name: str = "weighted"

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ValueError("Weighted: give at least one reward")
        if self.weights is not None and len(self.weights) != len(self.rewards):
            raise ValueError(
                f"Weighted: {len(self.rewards)} rewards and {len(self.weights)} weights; give one "
                "weight for each reward"
            )
        for place, weight in enumerate(self.weights or ()):
            check_number(f"weights[{place}]", weight, _FINITE)

    @property
    def __name__(self) -> str:
        """The name under which TRL logs it."""
        return self.name

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        """The weighted sum for each completion.

        Args:
            completions: texts, or lists of messages.
            columns: as in `call_reward`.
        """
        return self.total(self.parts(completions, **columns), **columns)

    def parts(self, completions: Sequence[Any], **columns: Any) -> dict[str, list[float | None]]:
        """The values of each reward by its name, before they are weighted.

        Two rewards with one name are told apart by their place, as "length" and "length_2".

        Args:
            completions: texts, or lists of messages.
            columns: as in `call_reward`.
        """
        found: dict[str, list[float | None]] = {}
        for place, reward in enumerate(self.rewards, start=1):
            name = reward_name(reward)
            name = f"{name}_{place}" if name in found else name
            found[name] = call_reward(reward, completions=completions, optional=True, **columns)
            applies = [value for value in found[name] if value is not None]
            if applies and callable(log := columns.get("log_metric")):
                log(f"rewards/{name}/mean", sum(applies) / len(applies))
        return found

    def total(self, parts: Mapping[str, Sequence[float | None]], /, **columns: Any) -> list[float]:
        """The weighted sum of values that `parts` gave.

        Args:
            parts: the values of each reward, in the order of the rewards.
            columns: ``prompts`` is used in the message of an error.
        """
        weights = self.weights or [1.0] * len(self.rewards)
        sums = []
        for place, values in enumerate(zip(*parts.values(), strict=True)):
            if all(value is None for value in values):
                where = row_name(self.name, place, columns)
                raise RewardError(f"{where}: all parts gave None, so nothing judges this row")
            pairs = zip(weights, values, strict=True)
            sums.append(float(sum(w * value for w, value in pairs if value is not None)))
        return sums
