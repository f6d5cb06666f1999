"""How sure an accuracy is."""

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

    ``correct`` says of each question whether it was right; ``confidence`` is 0 to 1.

    Wilson's interval stays inside [0, 1] and is right also for few questions and for
    accuracies near 0 or 1, where mean ± 1.96 standard errors is not.

    Raises:
        ValueError: no question at all.
    """
    right = sum(bool(c) for c in correct)
    return wilson_share(right / max(1, len(correct)), len(correct), confidence=confidence)


def wilson_share(share: float, n: int, *, confidence: float = 0.95) -> Accuracy:
    """As `wilson`, from a published share (0 to 1) of ``n`` questions, rounded to whole ones.

    Raises ValueError for a share outside of 0 to 1 or a confidence that is not between them.
    """
    from scipy.stats import binomtest

    check_number("share", share, Rule(lambda value: 0 <= value <= 1, "a share, 0 to 1"))
    check_numbers({"confidence": confidence})
    if n < 1:
        raise ValueError("no question was answered: an accuracy of nothing is not a number")
    right = round(share * n)
    interval = binomtest(right, n).proportion_ci(confidence, method="wilson")
    return Accuracy(right / n, float(interval.low), float(interval.high), n)
