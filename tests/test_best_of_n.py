"""Best of n: exact over all subsets, with ties; intervals that cover what they should."""

from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from mathsft.generation.best_of_n import best_of_n


def brute_force(
    rewards: list[float], answers: list[str], right: set[str], size: int
) -> tuple[float, float, float]:
    """Judge, oracle and majority of one problem, subset by subset."""
    judge, oracle, majority = [], [], []
    for subset in combinations(range(len(rewards)), size):
        top = max(rewards[i] for i in subset)
        best = [answers[i] in right for i in subset if rewards[i] == top]
        judge.append(sum(best) / len(best))
        oracle.append(any(answers[i] in right for i in subset))
        said = [answers[i] for i in subset if answers[i]]
        most = max(map(said.count, said), default=0)
        winners = {answer for answer in said if said.count(answer) == most}
        majority.append(len(winners & right) / len(winners) if winners else 0.0)
    return float(np.mean(judge)), float(np.mean(oracle)), float(np.mean(majority))


samples = st.integers(1, 6).flatmap(
    lambda n: st.lists(
        st.tuples(
            st.lists(st.integers(0, 2).map(float), min_size=n, max_size=n),
            st.lists(st.sampled_from(["", "4", "5", "6"]), min_size=n, max_size=n),
            st.sets(st.sampled_from(["4", "5"])),
        ),
        min_size=1,
        max_size=3,
    )
)


@settings(max_examples=60, deadline=None)
@given(samples)
def test_all_columns_equal_the_mean_over_all_subsets(problems: Any) -> None:
    rewards, answers, right = zip(*problems, strict=True)
    correct = [[a in good for a in said] for said, good in zip(answers, right, strict=True)]
    sizes = range(1, len(rewards[0]) + 1)
    rows = best_of_n(rewards, correct, answers=answers, sizes=sizes)
    for row in rows:
        each = [brute_force(*problem, row.size) for problem in problems]
        expected = np.mean(each, axis=0)
        assert [row.judge, row.oracle, row.majority] == pytest.approx(list(expected))


def test_the_oracle_is_the_published_estimator_and_size_one_the_accuracy() -> None:
    """pass@k as in Chen et al. 2021, listing 3: 1 - prod(1 - k / (n - c + 1 .. n))."""
    rng = np.random.default_rng(0)
    correct = rng.random((20, 16)) < rng.random((20, 1))
    rows = best_of_n(rng.random((20, 16)), correct)
    assert [row.size for row in rows] == [1, 2, 4, 8, 16]
    for row in rows:
        c, k = correct.sum(1), row.size
        passed = [1.0 if 16 - x < k else 1 - np.prod(1 - k / np.arange(16 - x + 1, 17)) for x in c]
        assert row.oracle == pytest.approx(np.mean(passed))
    assert rows[0].judge == rows[0].oracle == pytest.approx(correct.mean())
    assert rows[0].majority is None


def test_a_perfect_judge_reaches_the_oracle_and_a_constant_one_changes_nothing() -> None:
    correct = np.random.default_rng(1).random((30, 8)) < 0.3
    perfect = best_of_n(correct.astype(float), correct)
    constant = best_of_n(np.zeros((30, 8)), correct)
    for one, other in zip(perfect, constant, strict=True):
        assert one.judge == pytest.approx(one.oracle)
        assert other.judge == pytest.approx(correct.mean())
        assert one.low <= one.judge <= one.high


def test_the_interval_covers_the_true_value_about_as_often_as_it_says() -> None:
    """Of 200 draws of 60 problems whose expectation is known; the limits are 4 errors wide."""
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        correct = rng.random((60, 4)) < rng.beta(1, 1, (60, 1))
        row = best_of_n(np.zeros((60, 4)), correct, sizes=[1])[0]
        covered += row.low <= 0.5 <= row.high
    assert 0.88 < covered / 200 <= 1.0


def test_ten_problems_that_are_all_alike_are_not_certain() -> None:
    for right in (False, True):
        row = best_of_n(np.zeros((10, 4)), [[right] * 4] * 10)[-1]
        assert row.judge == row.oracle == right
        assert row.high - row.low == row.oracle_high - row.oracle_low > 0.2
        assert row.low <= row.judge <= row.high
    bounds = [best_of_n([[0.0]] * 9, [[True]] * 9, confidence=c)[0].low for c in (0.5, 0.8, 0.99)]
    assert bounds == sorted(bounds, reverse=True)


def test_with_many_problems_the_interval_is_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(3)
    correct = rng.random((1500, 4)) < rng.beta(1, 1, (1500, 1))
    row = best_of_n(np.zeros((1500, 4)), correct, sizes=[1])[0]
    slow = bootstrap(
        (correct.mean(axis=1),), np.mean, n_resamples=2000, method="percentile", rng=rng
    ).confidence_interval
    assert (row.low, row.high) == pytest.approx((slow.low, slow.high), abs=0.003)


def test_the_rows_are_a_table() -> None:
    table = pd.DataFrame(best_of_n([[0.0, 1.0]], [[False, True]]))
    assert list(table["size"]) == [1, 2]
    assert list(table["judge"]) == [0.5, 1.0]


def test_sixty_four_samples_with_many_answers_take_no_time() -> None:
    rng = np.random.default_rng(4)
    answers = [[str(x) for x in rng.integers(0, 12, 64)] for _ in range(10)]
    correct = [[a == "3" for a in said] for said in answers]
    rows = best_of_n(rng.random((10, 64)), correct, answers=answers)
    assert [row.size for row in rows] == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ("rewards", "correct", "more", "told"),
    [
        ([], [], {}, "there is no problem"),
        ([[]], [[]], {}, "problem 0 has no samples"),
        ([[1.0], [1.0, 2.0]], [[True], [True, False]], {}, r"rewards\[1\]: 2 samples"),
        ([[1.0]], [[True], [True]], {}, "correct is for 2 problems"),
        ([[float("nan")]], [[True]], {}, r"rewards\[0\]\[0\]: expected a finite"),
        ([[1.0]], [["yes"]], {}, r"correct\[0\]\[0\]: expected true or false"),
        ([[1.0]], [[True]], {"sizes": [2]}, "2 samples cannot be chosen of 1"),
        ([[1.0]], [[True]], {"sizes": [0]}, "sizes=0"),
        ([[1.0]], [[True]], {"confidence": 95}, "confidence=95"),
        ([[1.0, 1.0]], [[True, False]], {"answers": [["4", "4"]]}, "right in one sample and wrong"),
    ],
)
def test_what_makes_no_sense_is_named(rewards: Any, correct: Any, more: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        best_of_n(rewards, correct, **more)


def test_every_small_case_of_two_samples() -> None:
    """By hand: with unequal rewards the larger one, with equal ones the mean."""
    for one, two, a, b in product([0.0, 1.0], [0.0, 1.0], [False, True], [False, True]):
        row = best_of_n([[one, two]], [[a, b]], sizes=[2])[0]
        assert row.judge == ((a + b) / 2 if one == two else (a if one > two else b))
