"""Generated choices alone, without the question, do not reveal the right one."""

import random

import numpy as np
import pytest
from choice_rows import dataset, problem
from datasets import Dataset

from mathsft.data.choices import add_choices


def values_and_labels(problems: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(n, 5) absolute values and (n,) labels; the few negative sets mirror positive ones."""
    values = np.array([[abs(int(choice)) for choice in row] for row in problems["choices"]])
    return values, np.array(problems["label"])


def _zeros(values: np.ndarray) -> np.ndarray:
    return sum((values % 10**k == 0).astype(int) for k in range(1, 10))


def _digits(values: np.ndarray) -> np.ndarray:
    return sum((values >= 10**k).astype(int) for k in range(18))


def _ranks(values: np.ndarray) -> np.ndarray:
    return values.argsort(1).argsort(1)


# A rule scores every choice and takes the highest; equal scores share the hit.
RULES = {
    "the smallest": lambda v: _ranks(v) == 0,
    "the second": lambda v: _ranks(v) == 1,
    "the median": lambda v: _ranks(v) == 2,
    "the fourth": lambda v: _ranks(v) == 3,
    "the largest": lambda v: _ranks(v) == 4,
    "the longest": _digits,
    "the shortest": lambda v: -_digits(v),
    "the roundest": _zeros,
    "the least round": lambda v: -_zeros(v),
    "an even one": lambda v: v % 2 == 0,
    "a multiple of three": lambda v: v % 3 == 0,
    "a multiple of five": lambda v: v % 5 == 0,
    "nearest the mean": lambda v: -abs(v - v.mean(1, keepdims=True)),
    "farthest from the mean": lambda v: abs(v - v.mean(1, keepdims=True)),
    "most others divide it": lambda v: (v[:, :, None] % v[:, None, :] == 0).sum(2),
    "it divides most others": lambda v: (v[:, None, :] % v[:, :, None] == 0).sum(2),
    "the first": lambda v: np.arange(5) == 0 * v,
    "the last": lambda v: np.arange(5) == 4 + 0 * v,
}


def _hits(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    best = scores == scores.max(1, keepdims=True)
    return best[np.arange(len(labels)), labels] / best.sum(1)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["real", "tiny"])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_ignores_the_question_is_at_chance(
    rule: str, source: str, request: pytest.FixtureRequest
) -> None:
    values, labels = values_and_labels(request.getfixturevalue(f"{source}_choices"))
    values, labels = values[:5000], labels[:5000]
    scores = np.broadcast_to(np.asarray(RULES[rule](values), float), values.shape)
    n = len(labels)
    assert abs(_hits(scores, labels).mean() - 0.2) < 3 * (0.2 * 0.8 / n) ** 0.5


def _features(values: np.ndarray) -> np.ndarray:
    """(n, 5, f): features of a choice among the others: size, digits, relations."""
    v = values.astype(float)
    other = ~np.eye(5, dtype=bool)[None]
    mine, others = v[:, :, None], v[:, None, :]
    ratios = np.sort(np.where(other, np.log(others / mine), np.inf), 2)[:, :, :4]
    apart = abs(others - mine)
    near = np.sort(np.where(other, apart, np.inf), 2)[:, :, :4]
    sums = v[:, :, None, None] == (v[:, None, :, None] + v[:, None, None, :])
    middles = 2 * v[:, :, None, None] == (v[:, None, :, None] + v[:, None, None, :])
    columns = [np.log(v), v, _ranks(v), _zeros(values), _digits(values)]
    columns += [values % k for k in (10, 100, 2, 3, 4)]
    columns += [values % k == 0 for k in (5, 7, 25)]
    columns += [values // 10 ** (_digits(values) - 1), v / v.mean(1, keepdims=True)]
    columns += [v / np.median(v, 1, keepdims=True), sums.sum((2, 3)), middles.sum((2, 3))]
    columns += [((mine % others == 0) & other).sum(2), ((others % mine == 0) & other).sum(2)]
    columns += [(apart == d).sum(2) for d in (1, 2, 5, 10, 100)]
    columns += [(others == 2 * mine).sum(2), (2 * others == mine).sum(2)]
    columns += [((apart[:, :, :, None] == others[:, :, None, :]) & other[..., None]).sum((2, 3))]
    columns += [np.broadcast_to(np.log(part)[:, None], v.shape) for part in (v.min(1), v.max(1))]
    stacked = np.stack([np.asarray(column, float) for column in columns], 2)
    return np.concatenate([stacked, ratios, near, near / mine], 2)


def hidden_question_accuracy(problems: Dataset, *, more_seeds: int) -> tuple[float, int]:
    """Accuracy of boosted trees that only see the choices, and the number of test questions.

    They learn from one half of the questions, each with ``1 + more_seeds`` sets of choices.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    half = len(problems) // 2
    bare = problems.select(range(half)).map(lambda row: {"choices": [], "label": -1})
    sets = [problems.select(range(half))]
    sets += [add_choices(bare, seed=seed) for seed in range(1, 1 + more_seeds)]
    values, labels = map(np.concatenate, zip(*map(values_and_labels, sets), strict=True))
    model = HistGradientBoostingClassifier(
        max_iter=150,
        learning_rate=0.05,
        max_leaf_nodes=12,
        min_samples_leaf=60,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=0,
    )
    right = np.arange(5) == labels[:, None]
    model.fit(_features(values).reshape(-1, _features(values[:1]).shape[2]), right.ravel())
    values, labels = values_and_labels(problems.select(range(half, len(problems))))
    features = _features(values)
    scores = model.predict_proba(features.reshape(-1, features.shape[2]))[:, 1].reshape(-1, 5)
    return float(_hits(scores, labels).mean()), len(labels)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["real", "tiny"])
def test_a_classifier_that_does_not_see_the_question_is_at_chance(
    source: str, request: pytest.FixtureRequest
) -> None:
    accuracy, n = hidden_question_accuracy(
        request.getfixturevalue(f"{source}_choices"), more_seeds=2
    )
    assert abs(accuracy - 0.2) < 3 * (0.2 * 0.8 / n) ** 0.5, accuracy


def test_the_classifier_would_find_a_shortcut() -> None:
    rng = random.Random(0)
    rows = []
    for n in range(1500):  # the right one is the median, as in many hand-made sets
        choices = sorted(rng.sample(range(1, 300), 5))
        label = 2 if rng.random() < 0.5 else rng.randrange(5)
        rows.append(problem(question=str(n), choices=list(map(str, choices)), label=label))
    accuracy, n = hidden_question_accuracy(dataset(*rows), more_seeds=0)
    assert accuracy > 0.2 + 6 * (0.2 * 0.8 / n) ** 0.5
