"""Best of n: how often is the answer right that a judge prefers among n samples?

For each problem there are N samples, with the judge's reward and whether each is right. The
numbers here are exact expectations over all subsets of n of the N samples, so no subset is drawn.
Only the problems are a sample, and the intervals are about them.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import comb, isfinite
from numbers import Real
from statistics import NormalDist
from typing import Any

import numpy as np

from mathsft.checks import at_least, check_number, check_numbers


@dataclass(frozen=True)
class BestOfN:
    """Shares of right answers (0 to 1) if each problem gets ``size`` samples.

    ``judge``: the sample with the highest reward is taken; equal rewards share equally. At size 1
    this is the model's own accuracy. ``oracle``: at least one sample is right, which is what a
    perfect judge would reach (pass@n). ``majority``: the most frequent answer is taken; None if
    no answers were given. ``low`` and ``high`` are the bounds of ``judge``'s interval,
    ``oracle_low`` and so on those of the others. ``problems`` is how many problems there are.
    """

    size: int
    judge: float
    low: float
    high: float
    oracle: float
    oracle_low: float
    oracle_high: float
    majority: float | None
    majority_low: float | None
    majority_high: float | None
    problems: int


def best_of_n(
    rewards: Sequence[Sequence[float]],
    correct: Sequence[Sequence[bool]],
    *,
    answers: Sequence[Sequence[Hashable]] | None = None,
    sizes: Sequence[int] | None = None,
    confidence: float = 0.95,
) -> list[BestOfN]:
    """Return accuracies of best of n, of the oracle and of a majority vote, a row for each size.

    Args:
        rewards: for each problem the judge's reward of each of its N samples.
        correct: whether each of these samples is right.
        answers: the final answer of each sample, for the majority vote. "" and None mean that no
            answer could be read: such a sample has no vote.
        sizes: how many samples to choose from, each at most N; default: 1, 2, 4, 8, … up to N.
        confidence: of the intervals, 0 to 1.

    The oracle is the unbiased estimator 1 - C(N - c, n) / C(N, n) for c right samples (Chen et
    al. 2021, arXiv:2107.03374). In a vote, answers with equally many votes share equally.

    The intervals hold for other problems of the same kind, with these N samples. They are those of
    Agresti and Coull (1998, The American Statistician 52:119), for shares instead of right and
    wrong: the mean ± z standard errors, computed with z² more problems, half of them 0 and half 1
    (z = 1.96 for 0.95). So ten problems that are all right do not look certain.

    Raises ValueError, with the place, for no problem, problems with different numbers of samples,
    a reward that is not a finite number, a ``correct`` that is not true or false, equal answers
    of which one is right and one wrong, and a size that is not 1 to N.
    """
    samples = _check(rewards, correct, answers)
    check_numbers({"confidence": confidence})
    if sizes is None:
        sizes = [2**power for power in range(samples.bit_length())]
    for size in sizes:
        check_number("sizes", size, at_least(1))
        if size > samples:
            raise ValueError(
                f"sizes: {size} samples cannot be chosen of {samples}: sample more answers, or "
                f"give sizes of at most {samples}"
            )
    columns = 2 if answers is None else 3
    values = np.zeros((columns, len(sizes), len(rewards)))
    for row, (scores, right) in enumerate(zip(rewards, correct, strict=True)):
        for place, size in enumerate(sizes):
            values[0, place, row] = _judge(scores, right, size)
            values[1, place, row] = 1 - comb(samples - sum(right), size) / comb(samples, size)
            if answers is not None:
                values[2, place, row] = _majority(answers[row], right, size)
    low, high = mean_bounds(values, confidence=confidence)
    means, count = values.mean(axis=-1), len(rewards)

    def column(which: int, place: int) -> tuple[Any, Any, Any]:
        if which >= columns:
            return None, None, None
        return tuple(float(found[which, place]) for found in (means, low, high))  # type: ignore[return-value]

    return [
        BestOfN(int(size), *column(0, place), *column(1, place), *column(2, place), count)
        for place, size in enumerate(sizes)
    ]


def mean_bounds(values: Any, *, confidence: float) -> tuple[Any, Any]:
    """The bounds of the interval of a mean, Agresti and Coull's (see `best_of_n`).

    Args:
        values: shares, 0 to 1, in an array of shape (…, n).
        confidence: of the interval, 0 to 1.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    n = values.shape[-1] + z * z
    middle = (values.sum(axis=-1) + z * z / 2) / n
    square = ((values**2).sum(axis=-1) + z * z / 2) / n
    half = z * np.sqrt((square - middle**2) / n)
    return np.maximum(0, middle - half), np.minimum(1, middle + half)


def _judge(rewards: Sequence[float], correct: Sequence[bool], size: int) -> float:
    """The chance that the highest reward of a random subset belongs to a right sample.

    The highest reward is v if no sample above v is in the subset, and at least one with v is. Of
    the samples with v, each is then equally likely to be taken.
    """
    equal: dict[float, list[bool]] = {}
    for reward, right in zip(rewards, correct, strict=True):
        equal.setdefault(float(reward), []).append(bool(right))
    below, chance = 0, 0.0
    for reward in sorted(equal):
        tied = equal[reward]
        subsets = comb(below + len(tied), size) - comb(below, size)
        chance += subsets / comb(len(rewards), size) * sum(tied) / len(tied)
        below += len(tied)
    return chance


def _majority(answers: Sequence[Hashable], correct: Sequence[bool], size: int) -> float:
    """The chance that a right answer wins the vote of a random subset.

    For each right answer and each number of votes, the subsets are counted in which no other
    answer has more: answer by answer, by how many samples are taken and how many answers tie.
    """
    votes = Counter(answers)
    silent = votes.pop("", 0) + votes.pop(None, 0)
    right = {answer for answer, good in zip(answers, correct, strict=True) if good} & votes.keys()
    won = 0.0
    for answer in right:
        others = [count for other, count in votes.items() if other != answer]
        for most in range(1, min(votes[answer], size) + 1):
            ways = {(most, 0): comb(votes[answer], most)}
            for count in others:
                ways = _taken(ways, count, most=most, size=size)
            for (taken, ties), found in ways.items():
                won += found * comb(silent, size - taken) / (1 + ties)
    return won / comb(len(answers), size)


def _taken(
    ways: dict[tuple[int, int], int], count: int, *, most: int, size: int
) -> dict[tuple[int, int], int]:
    """Take 0 to ``most`` of the ``count`` samples of one more answer, in all possible ways."""
    found: dict[tuple[int, int], int] = {}
    for (taken, ties), number in ways.items():
        for more in range(min(count, most, size - taken) + 1):
            key = (taken + more, ties + (more == most))
            found[key] = found.get(key, 0) + number * comb(count, more)
    return found


def _check(
    rewards: Sequence[Sequence[float]],
    correct: Sequence[Sequence[bool]],
    answers: Sequence[Sequence[Hashable]] | None,
) -> int:
    """Return N, or raise the errors of `best_of_n`."""
    if not len(rewards):
        raise ValueError("best_of_n: there is no problem, so there is no accuracy")
    given: dict[str, Any] = {"rewards": rewards, "correct": correct}
    if answers is not None:
        given["answers"] = answers
    samples = len(rewards[0])
    if not samples:
        raise ValueError("best_of_n: problem 0 has no samples")
    for name, values in given.items():
        if len(values) != len(rewards):
            raise ValueError(
                f"best_of_n: {name} is for {len(values)} problems, rewards for {len(rewards)}"
            )
        for row, cells in enumerate(values):
            if len(cells) != samples:
                raise ValueError(
                    f"best_of_n, {name}[{row}]: {len(cells)} samples, but problem 0 has {samples}; "
                    "expected as many for each problem"
                )
    for row, (scores, right) in enumerate(zip(rewards, correct, strict=True)):
        for place, score in enumerate(scores):
            if not (isinstance(score, Real) and isfinite(score)):
                raise ValueError(
                    f"best_of_n, rewards[{row}][{place}]: expected a finite number, found "
                    f"{score!r:.40}"
                )
        for place, good in enumerate(right):
            if good not in (True, False):
                raise ValueError(
                    f"best_of_n, correct[{row}][{place}]: expected true or false, found "
                    f"{good!r:.40}"
                )
        labels = {} if answers is None else dict(zip(answers[row], right, strict=True))
        for place, good in enumerate(right):
            if answers is not None and bool(labels[answers[row][place]]) != bool(good):
                raise ValueError(
                    f"best_of_n, problem {row}: the answer {answers[row][place]!r:.40} is right in "
                    "one sample and wrong in another. Equal answers must be graded alike"
                )
    return samples
