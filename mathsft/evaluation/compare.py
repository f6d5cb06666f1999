"""Compare models that answered the same questions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mathsft.evaluation.guards import ROUNDING, check_distinct
from mathsft.evaluation.narrow import narrow_html, pair_cells
from mathsft.evaluation.paired import (
    detectable_difference,
    detectable_mean,
    mcnemar_p,
    mean_difference_interval,
    score_interval,
    sign_flip_p,
)
from mathsft.evaluation.results import Result, same_questions, shared_metric

__all__ = ["Comparison", "compare", "compare_all", "compare_some", "detectable_difference"]


@dataclass(frozen=True)
class Comparison:
    """``b`` compared with ``a``, question by question; shares are 0 to 1.

    ``difference`` is the accuracy of b minus that of a, with its 95 % interval ``low`` to
    ``high``. Only b answers the ``gained`` questions correctly, only a the ``lost`` ones. ``p`` is
    McNemar's exact p; ``p_holm`` is p corrected for all comparisons in the same table.
    ``detectable`` is the smallest true difference that would show (p < 0.05) four times out of
    five. Printed, it is a few short lines; `line` is all in one.

    If ``metric`` is a number and not right or wrong, ``right_or_wrong`` is false: ``difference``
    is that of the means, ``gained`` questions have a higher number from b and ``lost`` ones a lower
    one, and p is a sign-flip test's. Whether higher is better depends on the metric. ``low``,
    ``high`` and ``detectable`` are NaN if the differences are all 0: nothing tells their size.
    """

    a: str
    b: str
    n: int
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    p: float
    p_holm: float
    detectable: float
    metric: str = "acc"
    right_or_wrong: bool = True

    def __str__(self) -> str:
        """Short lines, which a phone shows whole, the difference and p first."""
        shows = f"a true difference of {100 * self.detectable:.1f} points would show"
        if self.right_or_wrong:
            told = (
                f"{100 * self.difference:+.1f} points "
                f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
            )
            if self.detectable == 1:
                shows = "too few differ for any difference to show"
        else:
            interval = "" if math.isnan(self.low) else f" [{self.low:+.3g}, {self.high:+.3g}]"
            told = f"mean {self.metric} {self.difference:+.3g}{interval}"
            shows = f"a true difference of {self.detectable:.2g} would show"
        lines = [
            f"{self.b} against {self.a}:",
            f"{told}, p = {self.p:.2g}",
            f"{self.gained} gained, {self.lost} lost of {self.n:,}",
            shows,
        ]
        return "\n".join(lines[: 3 if math.isnan(self.detectable) else 4])

    def _repr_html_(self) -> str:
        return narrow_html(["run", "points" if self.right_or_wrong else self.metric, "p"],
                           [pair_cells(self)])  # fmt: skip

    def line(self) -> str:
        """All of it in one line, for a terminal and for scripts."""
        if not self.right_or_wrong:
            return self._of_numbers()
        shows = f"a true difference of {100 * self.detectable:.1f} points would show"
        if self.detectable == 1:
            shows = "too few questions are answered differently for any difference to show"
        return (
            f"{self.b} against {self.a}: {100 * self.difference:+.1f} points "
            f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}], {self.gained} gained and "
            f"{self.lost} lost of {self.n:,}, p = {self.p:.2g}; {shows}"
        )

    def _of_numbers(self) -> str:
        interval = f" [{self.low:+.3g}, {self.high:+.3g}]"
        shows = f"; a true difference of {self.detectable:.2g} would show"
        return (
            f"{self.b} against {self.a}: mean {self.metric} {self.difference:+.3g}"
            f"{'' if math.isnan(self.low) else interval}, higher for {self.gained} and lower for "
            f"{self.lost} of {self.n:,}, p = {self.p:.2g}"
            f"{'' if math.isnan(self.detectable) else shows}"
        )


def compare(a: Result, b: Result, *, metric: str | None = None) -> Comparison:
    """Compare ``b`` with ``a`` on the same questions.

    ``metric`` is a metric of the task, such as "acc_norm"; default: "acc" if both have it, else
    the first that both have.

    If the metric is right or wrong for each question, the interval is Tango's score interval for
    paired shares (1998), which is honest for few questions too: it never claims certainty
    (`mathsft.evaluation.paired.score_interval`). p is McNemar's exact test (1947): if both models
    were equally good, each question that only one of them answers correctly would be the toss of
    a fair coin. Questions that both answer correctly, or neither, say nothing. The exact p is a
    little more cautious than the interval: an interval that just leaves out 0 can have p = 0.06.

    Other metrics are numbers, such as the accuracy of truthfulqa_mc2. Then the interval is a t
    interval of the mean difference (`mathsft.evaluation.paired.mean_difference_interval`), and p is
    Fisher's sign-flip test, which equals McNemar's test for 0 and 1.

    Raises:
        ValueError: different questions or tasks; a metric that one of the two does not have; or
            log-likelihoods that are all equal: then one model was scored twice.
    """
    return compare_all([a, b], metric=metric)[0]


def compare_all(
    results: Sequence[Result], *, base: Result | None = None, metric: str | None = None
) -> list[Comparison]:
    """Compare all pairs of ``results``, or each with ``base``; p is corrected for their number.

    ``p_holm`` is Holm's (1979). With m comparisons and no true difference, at most one in twenty
    such tables shows any p_holm below 0.05; of single p values, one in twenty is below 0.05.

    Args:
        base: one of ``results``, which each other one is compared with; default: all pairs.
        metric: what is compared, such as "acc_norm"; default: "acc" if all results have it, else
            the first metric that all have.

    Raises what `compare` raises.
    """
    found, refused = compare_some(results, base=base, metric=metric)
    if refused:
        raise ValueError(refused[0])
    return found


def compare_some(
    results: Sequence[Result], *, base: Result | None = None, metric: str | None = None
) -> tuple[list[Comparison], list[str]]:
    """As `compare_all`; pairs of equal log-likelihoods are left out and told, not raised.

    Args:
        base: as in `compare_all`.
        metric: as in `compare_all`.

    Returns the comparisons, and for each pair that has none the reason.

    Raises ValueError for different questions or tasks, and for a metric that not all have.
    """
    from statsmodels.stats.multitest import multipletests

    if base is not None:
        pairs = [(base, other) for other in results if other is not base]
    else:
        pairs = list(combinations(results, 2))
    if not pairs:
        return [], []
    used = [*{id(result): result for pair in pairs for result in pair}.values()]
    same_questions(used)
    metric = shared_metric(used, metric)
    values = {id(result): np.array(result.values(metric)) for result in used}
    binary = all(np.isin(each, (0, 1)).all() for each in values.values())
    scores = {id(result): _flat(result) for result in used}
    kept, refused = [], []
    for a, b in pairs:
        if not _apart(a, b, scores[id(a)], scores[id(b)]):
            try:
                check_distinct(a, b)
            except ValueError as error:
                refused.append(str(error))
                continue
        kept.append((a, b, values[id(b)] - values[id(a)]))
    if not kept:
        return [], refused
    rows = _paired_shares(kept) if binary else _paired_numbers(kept)
    holm = multipletests([row["p"] for row in rows], method="holm")[1]
    return [
        Comparison(
            a=a.name, b=b.name, n=len(steps), p_holm=float(adjusted), metric=metric,
            right_or_wrong=binary, **row,
        )
        for (a, b, steps), row, adjusted in zip(kept, rows, holm, strict=True)
    ], refused  # fmt: skip


def _paired_shares(kept: list[Any]) -> list[dict[str, Any]]:
    gained = np.array([(steps > 0).sum() for _, _, steps in kept], dtype=float)
    lost = np.array([(steps < 0).sum() for _, _, steps in kept], dtype=float)
    n = len(kept[0][2])
    low, high = score_interval(gained, lost, n)
    return [
        {
            "difference": float(g - lo) / n, "low": float(start), "high": float(end),
            "gained": int(g), "lost": int(lo), "p": float(p),
            "detectable": detectable_difference(n, float(g + lo) / n),
        }
        for g, lo, start, end, p in zip(
            gained, lost, low, high, mcnemar_p(gained, lost), strict=True
        )
    ]  # fmt: skip


def _paired_numbers(kept: list[Any]) -> list[dict[str, Any]]:
    rows = []
    for start in range(0, len(kept), 1000):  # a thousand columns at once: their memory is bounded
        some = [steps for _, _, steps in kept[start : start + 1000]]
        for steps, p in zip(some, sign_flip_p(np.stack(some, axis=1)), strict=True):
            low, high = mean_difference_interval(steps)
            rows.append(
                {
                    "difference": float(steps.mean()), "low": low, "high": high,
                    "gained": int((steps > 0).sum()), "lost": int((steps < 0).sum()),
                    "p": float(p), "detectable": detectable_mean(steps),
                }
            )  # fmt: skip
    return rows


def _flat(result: Result) -> tuple[list[int], Any]:
    """The number of log-likelihoods of each question, and all of them in one array."""
    scores = result.scores()
    return [len(some) for some in scores], np.array([x for some in scores for x in some])


def _apart(a: Result, b: Result, one: tuple[list[int], Any], other: tuple[list[int], Any]) -> bool:
    """Whether `check_distinct` would pass, at the speed of arrays."""
    if one[0] != other[0] or not len(one[1]):
        return False
    rounding = max(ROUNDING.get(result.dtype, 0.0) for result in (a, b))
    return bool((np.abs(one[1] - other[1]) > rounding).any())
