"""Compare models that answered the same questions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mathsft.checks import Rule, at_least, check_number, check_numbers
from mathsft.evaluation.guards import check_distinct
from mathsft.evaluation.results import Result, same_questions

RESAMPLES = 10_000  # the interval's ends are then known to about 0.02 standard errors


@dataclass(frozen=True)
class Comparison:
    """``b`` compared with ``a``, question by question; shares are 0 to 1.

    ``difference`` is the accuracy of b minus that of a, with its 95 % interval ``low`` to
    ``high``. Only b answers the ``gained`` questions correctly, only a the ``lost`` ones. ``p`` is
    McNemar's exact p; ``p_holm`` is p corrected for all comparisons in the same table.
    ``detectable`` is the smallest true difference that would show (p < 0.05) four times out of
    five.
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

    def __str__(self) -> str:
        shows = f"a true difference of {100 * self.detectable:.1f} points would show"
        if self.detectable == 1:
            shows = "too few questions are answered differently for any difference to show"
        return (
            f"{self.b} against {self.a}: {100 * self.difference:+.1f} points "
            f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}], {self.gained} gained and "
            f"{self.lost} lost of {self.n:,}, p = {self.p:.2g}; {shows}"
        )


def compare(a: Result, b: Result, *, metric: str = "acc", seed: int = 0) -> Comparison:
    """Compare ``b`` with ``a`` on the same questions by ``metric``, "acc" or "acc_norm".

    The interval is a percentile bootstrap over questions (Efron 1979). A question adds +1, 0 or
    -1 to the difference, so a resample of n questions is one multinomial draw of the three
    counts. The distribution is the same, and ten thousand resamples take a millisecond. ``seed``
    seeds the draw.

    McNemar's exact test (1947): if both models were equally good, each question that only one of
    them answers correctly would be the toss of a fair coin. Questions that both answer correctly,
    or neither, say nothing.

    Raises:
        ValueError: different questions or tasks; a metric that is not right or wrong; or
            log-likelihoods that are all equal: then one model was scored twice.
    """
    return compare_all([a, b], metric=metric, seed=seed)[0]


def compare_all(
    results: Sequence[Result],
    *,
    base: Result | None = None,
    metric: str = "acc",
    seed: int = 0,
) -> list[Comparison]:
    """Compare all pairs of ``results``, or each with ``base``; p is corrected for their number.

    ``p_holm`` is Holm's (1979). With m comparisons and no true difference, at most one in twenty
    such tables shows any p_holm below 0.05; of single p values, one in twenty is below 0.05.

    Args:
        base: one of ``results``, which each other one is compared with; default: all pairs.
        metric: what counts as right, "acc" or "acc_norm".
        seed: the seed of the resamples that the intervals come from.

    Raises what `compare` raises.
    """
    from scipy.stats import binomtest
    from statsmodels.stats.multitest import multipletests

    check_numbers({"seed": seed})
    if base is not None:
        pairs = [(base, other) for other in results if other is not base]
    else:
        pairs = list(combinations(results, 2))
    if not pairs:
        return []
    same_questions([result for pair in pairs for result in pair])
    found = []
    for a, b in pairs:
        check_distinct(a, b)
        right_a, right_b = np.array(a.correct(metric)), np.array(b.correct(metric))
        gained, lost = int((right_b & ~right_a).sum()), int((right_a & ~right_b).sum())
        n, unequal = len(right_a), gained + lost
        low, high = _interval(gained, lost, n, seed)
        p = float(binomtest(gained, unequal).pvalue) if unequal else 1.0
        found.append((a.name, b.name, n, (gained - lost) / n, low, high, gained, lost, p))
    holm = multipletests([row[-1] for row in found], method="holm")[1]
    return [
        Comparison(*row, float(adjusted), detectable_difference(row[2], (row[6] + row[7]) / row[2]))
        for row, adjusted in zip(found, holm, strict=True)
    ]


def _interval(gained: int, lost: int, n: int, seed: int) -> tuple[float, float]:
    shares = [gained / n, lost / n, (n - gained - lost) / n]
    draws: NDArray[np.int64] = np.random.default_rng(seed).multinomial(n, shares, size=RESAMPLES)
    low, high = np.percentile((draws[:, 0] - draws[:, 1]) / n, [2.5, 97.5])
    return float(low), float(high)


def detectable_difference(n: int, unequal: float, *, power: float = 0.8) -> float:
    """The smallest true difference of two accuracies that n shared questions show (p < 0.05).

    Args:
        n: the number of questions.
        unequal: the share of questions that only one of the two answers correctly; these
            questions are the noise of a paired comparison.
        power: the probability with which the difference shows; 0.8 is the usual choice.

    Solves Connor's sample size for McNemar's test (1987, Biometrics 43:207),
    ``n d² = (z₀.₉₇₅ √u + z_power √(u − d²))²``, for d. The result is 1 (no difference shows) if
    even d = u would not show, because too few questions are answered differently.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    give = "a count, and two shares"
    check_number("n", n, Rule(at_least(1).holds, give))
    check_number("unequal", unequal, Rule(lambda share: 0 <= share <= 1, give))
    check_number("power", power, Rule(lambda share: 0 < share < 1, give))
    level, reach = norm.ppf(0.975), norm.ppf(power)

    def short(d: float) -> float:
        return math.sqrt(n) * d - level * math.sqrt(unequal) - reach * math.sqrt(unequal - d * d)

    # u is the share gained plus the share lost, so their difference cannot exceed it.
    return float(brentq(short, 0, unequal)) if short(unequal) > 0 else 1.0
