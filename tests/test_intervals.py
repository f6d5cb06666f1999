"""Intervals are honest for few questions: their coverage is computed, not promised."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial, ttest_rel
from statsmodels.stats.contingency_tables import mcnemar

from mathsft.evaluation.intervals import mean_interval, wilson_share
from mathsft.evaluation.paired import (
    Z,
    mcnemar_p,
    mean_difference_interval,
    score_interval,
    sign_flip_p,
)

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)


def coverage(n: int) -> dict[tuple[float, float], float]:
    """The exact coverage for each pair of shares gained and lost: a sum over all outcomes."""
    most = min(n, 430)  # more than 430 of 1,000 with a share of 0.3 do not happen: p < 1e-17
    gained, lost = (side.ravel() for side in np.mgrid[: most + 1, : most + 1])
    gained, lost = gained[gained + lost <= n], lost[gained + lost <= n]
    low, high = score_interval(gained, lost, n)
    counts = np.stack([gained, lost, n - gained - lost], axis=1)
    found = {}
    for place, p in enumerate(SHARES):
        for q in SHARES[place:]:
            chance = multinomial.pmf(counts, n, [p, q, 1 - p - q])
            inside = (low <= p - q + 1e-12) & (p - q - 1e-12 <= high)
            found[p, q] = float(chance[inside].sum())
    return found


@pytest.mark.parametrize("n", [20, 50, 200, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_paired_interval_contains_the_true_difference_as_often_as_it_says(n: int) -> None:
    """93 to 97 % where five unequal answers are expected; with fewer, it errs on the safe side."""
    found = coverage(n)
    assert min(found.values()) > 0.93
    known = [share for (p, q), share in found.items() if n * (p + q) >= 5]
    assert max(known) < 0.975
    assert 0.945 < np.mean(known) < 0.965


def test_no_change_at_all_is_not_certainty() -> None:
    """Tango's interval of 0 gained and 0 lost is z² / (n + z²) to each side."""
    for n in (1, 10, 1000):
        low, high = score_interval(0, 0, n)
        assert (-low, high) == pytest.approx((Z**2 / (n + Z**2),) * 2)
    low, high = score_interval(10, 0, 10)  # as Wilson's for 10 of 10, turned round
    assert (float(low), float(high)) == pytest.approx((0.4447, 1.0), abs=1e-3)


@given(st.integers(1, 300), st.data())
def test_a_paired_interval_contains_its_estimate_and_turns_with_the_sides(
    n: int, data: st.DataObject
) -> None:
    gained = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - gained))
    low, high = map(float, score_interval(gained, lost, n))
    assert -1 <= low <= (gained - lost) / n + 1e-9
    assert (gained - lost) / n - 1e-9 <= high <= 1
    assert high - low > 0.5 / (n + 4)
    back = score_interval(lost, gained, n)
    assert (float(-back[1]), float(-back[0])) == pytest.approx((low, high))
    # Each end is a difference that the score test rejects just so.
    for end in (low, high):
        if abs(end) < 1 - 1e-6:
            linear = (2 * n - gained + lost) * end - gained - lost
            q = (math.sqrt(max(0, linear**2 + 8 * n * lost * end * (1 - end))) - linear) / (4 * n)
            spread = math.sqrt(max(0, n * (2 * q + end * (1 - end))))
            assert abs(gained - lost - n * end) == pytest.approx(Z * spread, rel=1e-5, abs=1e-5)


def test_wilson_is_scipy_s() -> None:
    for n in (1, 7, 200):
        for right in {0, 1, n // 2, n}:
            theirs = binomtest(right, n).proportion_ci(0.9, method="wilson")
            ours = wilson_share(right / n, n, confidence=0.9)
            assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_the_mean_of_shares_keeps_a_width_and_its_coverage() -> None:
    assert mean_interval([1.0] * 10)[1:3] == pytest.approx((0.679, 1.0), abs=1e-3)
    equal = mean_interval([0.5] * 10)
    assert equal.accuracy == 0.5
    assert equal.high - equal.low > 0.2
    draw = np.random.default_rng(0)
    for n in (20, 200):
        for a, b in ((0.3, 0.3), (3, 0.3), (0.2, 2)):
            rows = [mean_interval(values) for values in draw.beta(a, b, (1000, n))]
            share = np.mean([row.low <= a / (a + b) <= row.high for row in rows])
            assert share > 0.935, (n, a, b)
    for wrong in ([], [0.2, 1.2]):
        with pytest.raises(ValueError, match=r"no question|values\[1\]=1.2: give a share"):
            mean_interval(wrong)


def test_a_mean_difference_has_the_coverage_of_its_interval() -> None:
    draw = np.random.default_rng(0)
    kinds = {
        "smooth": lambda n: (draw.normal(0.02, 0.1, n), 0.02),
        "skewed": lambda n: (draw.exponential(0.1, n) - 0.08, 0.02),
        "mostly zeros": lambda n: (draw.binomial(1, 0.1, n) * draw.uniform(-0.3, 0.5, n), 0.01),
    }
    for n, least in ((50, 0.925), (200, 0.935)):
        for name, make in kinds.items():
            hits = 0
            for _ in range(1000):
                steps, true = make(n)
                low, high = mean_difference_interval(steps)
                hits += low <= true <= high
            assert hits / 1000 > least, (n, name)
    low, high = mean_difference_interval(np.array([0.1] * 10))
    assert high - low > 0.05  # ten equal differences are not certainty either
    assert all(map(math.isnan, mean_difference_interval(np.zeros(10))))
    many = draw.normal(0.1, 1, 5000)
    theirs = ttest_rel(many, np.zeros(5000)).confidence_interval()
    assert mean_difference_interval(many) == pytest.approx((theirs.low, theirs.high), abs=2e-4)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=13))
def test_sign_flips_of_right_and_wrong_are_mcnemar_s_test(steps: list[float]) -> None:
    gained, lost = steps.count(1.0), steps.count(-1.0)
    p = float(mcnemar_p(np.array([gained]), np.array([lost]))[0])
    assert sign_flip_p(np.array(steps)[:, None])[0] == pytest.approx(p)
    theirs = mcnemar([[0, gained], [lost, 0]], exact=True).pvalue if gained + lost else 1.0
    assert p == pytest.approx(float(theirs))


def test_drawn_sign_flips_agree_with_all_of_them_and_never_give_0() -> None:
    draw = np.random.default_rng(1)
    steps = draw.normal(0.1, 0.3, (40, 3))
    found = sign_flip_p(steps)
    for column, p in zip(steps.T, found, strict=True):
        assert p == pytest.approx(float(ttest_rel(column, 0 * column).pvalue), abs=0.02)
    assert sign_flip_p(np.ones((40, 1)))[0] == pytest.approx(1e-4)
    assert sign_flip_p(np.zeros((40, 1)))[0] == 1.0
    assert (sign_flip_p(steps) == found).all()
