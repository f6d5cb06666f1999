"""Accuracies with confidence intervals."""

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
    """Accuracy with Wilson's score interval (Wilson 1927), computed by scipy.

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
    from scipy.stats import binomtest

    check_number("share", share, Rule(lambda value: 0 <= value <= 1, "a share, 0 to 1"))
    check_numbers({"confidence": confidence})
    if n < 1:
        raise ValueError("no question was answered, so there is no accuracy")
    right = round(share * n)
    interval = binomtest(right, n).proportion_ci(confidence, method="wilson")
    return Accuracy(right / n, float(interval.low), float(interval.high), n)
