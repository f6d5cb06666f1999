"""Accuracies with confidence intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from mathsft.checks import Rule, check_number, check_numbers


class Accuracy(NamedTuple):
    """A share of right answers, 0 to 1, with its interval and the number of questions."""

    accuracy: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.accuracy:.1%} [{self.low:.1%}, {self.high:.1%}] (n = {self.n:,})"


def wilson_interval(correct: Sequence[bool], *, confidence: float = 0.95) -> Accuracy:
    """Accuracy with Wilson's score interval (Wilson 1927).

    ``correct`` says whether each question was answered correctly; ``confidence`` is 0 to 1.

    Wilson's interval stays inside [0, 1]. It is right even for few questions and for accuracies
    near 0 or 1; mean ± 1.96 standard errors is not.

    Raises:
        ValueError: there is no question.
    """
    right = sum(bool(c) for c in correct)
    return wilson_share(right / max(1, len(correct)), len(correct), confidence=confidence)


def wilson_share(share: float, n: int, *, confidence: float = 0.95) -> Accuracy:
    """As `wilson_interval`, from a published share (0 to 1) of ``n`` questions.

    The number of right answers is rounded to a whole one. Raises ValueError for a share outside of
    0 to 1, or a confidence that is not between 0 and 1.
    """
    from scipy.special import ndtri

    check_number("share", share, Rule(lambda value: 0 <= value <= 1, "a share, 0 to 1"))
    check_numbers({"confidence": confidence})
    if n < 1:
        raise ValueError("no question was answered, so there is no accuracy")
    right = round(share * n)
    # Written out: scipy's binomtest has it too, with a test that takes a hundred times longer.
    z, p = float(ndtri((1 + confidence) / 2)), right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if right == 0 else (middle - half) / (1 + z * z / n)
    high = 1.0 if right == n else (middle + half) / (1 + z * z / n)
    return Accuracy(p, low, high, n)


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Accuracy:
    """The mean of numbers from 0 to 1, with an interval that is honest for few of them.

    ``values`` has one number for each question, such as a share of right answers; ``confidence``
    is 0 to 1.

    The interval is that of Agresti and Coull (1998, The American Statistician 52:119), for numbers
    instead of right and wrong: the mean ± z standard errors, z = 1.96, computed with z² more
    values, half of them 0 and half 1. So it has a width even if all values are equal. The mean
    itself is without them.

    Raises:
        ValueError: there is no value, or one that is not 0 to 1.
    """
    import numpy as np

    from mathsft.generation.best_of_n import mean_bounds

    check_numbers({"confidence": confidence})
    if not len(values):
        raise ValueError("no question was answered, so there is no mean")
    given = np.array(values, dtype=float)
    if len(wrong := np.flatnonzero(~((given >= 0) & (given <= 1)))):
        raise ValueError(f"values[{wrong[0]}]={given[wrong[0]]}: give a share, 0 to 1")
    low, high = mean_bounds(given, confidence=confidence)
    return Accuracy(float(given.mean()), float(low), float(high), len(given))
