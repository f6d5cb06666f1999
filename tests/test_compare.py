"""Differences and their uncertainty, checked against textbook formulas and known tables."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_rows import result
from scipy.stats import bootstrap, ttest_rel
from statsmodels.stats.contingency_tables import mcnemar

from mathsft import cli
from mathsft.evaluation.compare import (
    compare,
    compare_all,
    compare_some,
    detectable_difference,
)
from mathsft.evaluation.results import (
    GARBLED,
    READ_ALIKE,
    SEEN,
    UNSEEN,
    Result,
    accuracy_by,
    reading_labels,
    template_labels,
)

answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)


@pytest.mark.slow
@given(answers)
@settings(max_examples=30, deadline=None)
def test_a_difference_is_gained_less_lost_and_p_is_mcnemar_s(
    pairs: list[tuple[bool, bool]],
) -> None:
    a, b = result("one", [x for x, _ in pairs]), result("other", [y for _, y in pairs])
    found = compare(a, b)
    table = np.zeros((2, 2))
    for x, y in pairs:
        table[int(x), int(y)] += 1
    assert (found.gained, found.lost, found.n) == (table[0, 1], table[1, 0], len(pairs))
    assert found.difference == pytest.approx(b.accuracy().accuracy - a.accuracy().accuracy)
    assert found.p == pytest.approx(float(mcnemar(table, exact=True).pvalue))
    assert found.low <= found.difference <= found.high


def test_with_many_questions_the_interval_is_that_of_the_bootstrap() -> None:
    draw = np.random.default_rng(1)
    right = draw.random(1000) < 0.4
    better = np.where(draw.random(1000) < 0.25, draw.random(1000) < 0.7, right)
    found = compare(result("one", [*right]), result("other", [*better]))
    steps = better.astype(int) - right.astype(int)
    slow = bootstrap((steps,), np.mean, n_resamples=9_999, method="percentile", rng=draw)
    assert found.low == pytest.approx(slow.confidence_interval.low, abs=0.003)
    assert found.high == pytest.approx(slow.confidence_interval.high, abs=0.003)


def test_mcnemar_by_hand() -> None:
    """9 gained, 1 lost: 2 (C(10,0) + C(10,1)) / 2^10 = 22 / 1024."""
    a = result("one", [0] * 9 + [1] + [1] * 20)
    b = result("other", [1] * 9 + [0] + [1] * 20)
    assert compare(a, b).p == pytest.approx(22 / 1024)


def test_p_is_corrected_for_all_pairs_as_holm_has_it() -> None:
    """Smallest p times m, the next times m - 1, …, never falling and never above 1."""
    draw = np.random.default_rng(0)
    runs = [result(n * "x", [*(draw.random(300) < 0.3 + 0.04 * n)]) for n in range(1, 5)]
    found = sorted(compare_all(runs), key=lambda c: c.p)
    assert len(found) == 6
    highest = 0.0
    for rank, comparison in enumerate(found):
        highest = max(highest, min(1.0, comparison.p * (6 - rank)))
        assert comparison.p_holm == pytest.approx(highest)
    against = compare_all(runs, base=runs[1])
    assert [(c.a, c.b) for c in against] == [("xx", "x"), ("xx", "xxx"), ("xx", "xxxx")]


def test_what_n_questions_can_show_is_shown_four_times_out_of_five() -> None:
    """Simulation: a true difference of the given size, the exact test, p < 0.05."""
    n, unequal = 300, 0.3
    size = detectable_difference(n, unequal)
    draw = np.random.default_rng(0)
    gained, lost, _ = draw.multinomial(
        n, [(unequal + size) / 2, (unequal - size) / 2, 1 - unequal], size=2000
    ).T
    tables = [[[0, g], [b, 0]] for g, b in zip(gained, lost, strict=True)]
    shown = np.mean([mcnemar(table, exact=True).pvalue < 0.05 for table in tables])
    assert 0.74 < shown < 0.84  # the exact test is a little more cautious than the formula
    assert detectable_difference(4 * n, unequal) == pytest.approx(size / 2, rel=0.02)
    assert detectable_difference(5, 0.0) == detectable_difference(3, 0.2) == 1.0
    for wrong in ((0, 0.3, 0.8), (10, 1.3, 0.8), (10, 0.3, 1.0)):
        with pytest.raises(ValueError, match="a count, and two shares"):
            detectable_difference(wrong[0], wrong[1], power=wrong[2])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (result("b", [1, 0]), "'a' has 3 questions, 'b' 2"),
        (result("b", [1, 0, 1], task="mathqa"), "'a' is of mathqa_tiny, 'b' of mathqa"),
        (result("b", [1, 0, 1], ids=["q0", "q2", "q1"]), "question 1 of 'a' and of 'b' differ"),
    ],
)
def test_other_questions_are_not_comparable(other: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"not comparable: {message}.*evaluate both on the same"):
        compare(result("a", [1, 1, 0]), other)


def test_two_runs_of_equal_scores_are_one_model_under_two_names() -> None:
    a = result("base", [1, 0, 1])
    shifted = [
        {**q, "loglikelihoods": [s + 1e-5 for s in q["loglikelihoods"]]} for q in a.questions
    ]
    tuned = result("SFT", [1, 0, 1], adapter_hash="abc", questions=shifted)
    with pytest.raises(ValueError, match=r"all 15 .*'base' and 'SFT' are equal.*load_adapter"):
        compare(a, tuned)
    copy = result("copy", [1, 0, 1], questions=a.questions)
    with pytest.raises(ValueError, match="The same weights were scored twice"):
        compare(a, copy)
    close = [result(n, [1, 0, 1], dtype="bfloat16", adapter_hash=n, questions=q)
             for n, q in (("one", a.questions), ("other", shifted))]  # fmt: skip
    compare(*close)  # a short training run in half precision changes no more than that
    with pytest.raises(ValueError, match="are equal"):
        compare(close[0], replace(close[0], name="copy"))
    moved = [{**shifted[0], "loglikelihoods": [-1.0, -2, -3, -4, -5]}, *shifted[1:]]
    compare(a, result("SFT", [1, 0, 1], adapter_hash="abc", questions=moved))


def with_metric(run: Result, name: str, values: Sequence[float]) -> Result:
    """The same run with one metric only."""
    questions = [
        {**question, "metrics": {name: float(value)}}
        for question, value in zip(run.questions, values, strict=True)
    ]
    return replace(run, questions=questions)


def test_a_metric_that_is_a_number_is_compared_by_its_mean() -> None:
    draw = np.random.default_rng(0)
    before = draw.random(60)
    after = np.clip(before + draw.normal(0.05, 0.1, 60), 0, 1)
    a, b = (with_metric(result(name, [1] * 60), "acc", v)
            for name, v in (("base", before), ("tuned", after)))  # fmt: skip
    found = compare(a, b)
    theirs = ttest_rel(after, before)
    assert (found.metric, found.right_or_wrong) == ("acc", False)
    assert found.difference == pytest.approx(np.mean(after - before))
    assert found.p == pytest.approx(float(theirs.pvalue), abs=0.01)
    assert found.low == pytest.approx(theirs.confidence_interval().low, abs=0.01)
    assert found.gained + found.lost <= 60
    assert f"tuned against base: mean acc {found.difference:+.3g} [" in found.line()
    assert "would show" in str(found)
    same = compare(a, with_metric(result("unchanged", [1] * 60), "acc", before))
    assert math.isnan(same.low)
    assert same.line().endswith("mean acc +0, higher for 0 and lower for 0 of 60, p = 1")


def test_each_task_is_compared_by_a_metric_that_it_has() -> None:
    a, b = (with_metric(result(name, [0] * 9), "exact_match", [0] * k + [1] * (9 - k))
            for name, k in (("base", 8), ("tuned", 2)))  # fmt: skip
    found = compare(a, b)
    assert (found.metric, found.gained, found.lost) == ("exact_match", 6, 0)
    with pytest.raises(
        ValueError, match=r"no metric 'acc' .* base has exact_match; tuned has exac"
    ):
        compare(a, b, metric="acc")
    with pytest.raises(ValueError, match=r"no metric that all results have .* other has acc"):
        compare(a, result("other", [1] * 9))
    bad = with_metric(b, "exact_match", [math.nan] * 9)
    with pytest.raises(ValueError, match="tuned: exact_match of question 0 of mathqa_tiny is nan"):
        compare(a, bad)


def test_a_folder_of_many_kinds_is_compared_group_by_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("base", "tuned"):
        right = [name == "tuned", 1, 0, 0, 1, 0]
        run = result(name, right)
        run.save(tmp_path)
        replace(run, num_fewshot=2).save(tmp_path)
        replace(run, limit=3, questions=run.questions[:3]).save(tmp_path)
        numbers = [0.1 * len(name) + 0.05 * n for n in range(6)]
        with_metric(replace(run, task="truthfulqa_mc2"), "acc", numbers).save(tmp_path)
        with_metric(replace(run, task="gsm8k"), "exact_match", right).save(tmp_path)
        replace(with_metric(run, "x", right), task="ppl", questions=[
            {**question, "metrics": {}} for question in run.questions
        ]).save(tmp_path)  # fmt: skip
    replace(run, task="alone").save(tmp_path)
    cli.main(["compare", str(tmp_path)])
    told = capsys.readouterr().out
    assert told.count("tuned against base") == 5
    assert "tuned against base: mean acc +0.1" in told
    assert told.count("(n = 3)") == 4
    assert "not compared: ppl has no metric that all results have" in told
    assert (
        "3 of 13 results are compared with nothing: tuned (alone); base (ppl); tuned (ppl)" in told
    )
    cli.main(["compare", str(tmp_path), "--metric", "exact_match", "--base", "base"])
    told = capsys.readouterr().out
    assert told.count("tuned against base: +16.7 points") == 1
    assert (
        "not compared: mathqa_tiny has no metric 'exact_match' for each question: base has" in told
    )
    with pytest.raises(SystemExit, match="no metric 'bleu' for each question"):
        cli.main(["compare", str(tmp_path), "--metric", "bleu"])


def test_one_model_under_two_names_does_not_stop_the_other_pairs() -> None:
    a, b = result("base", [1, 0, 1]), result("tuned", [1, 1, 1])
    copy = replace(a, name="copy")
    found, refused = compare_some([a, copy, b])
    assert [(c.a, c.b) for c in found] == [("base", "tuned"), ("copy", "tuned")]
    assert ["'base' and 'copy' are equal" in why for why in refused] == [True]


@pytest.mark.parametrize("n", [1, 2, 10])
def test_few_questions_have_a_wide_interval(n: int) -> None:
    same = compare(result("one", [1] * n), result("other", [1] * n))
    assert same.low == -same.high < -0.25
    assert same.p == 1
    turned = compare(result("one", [0] * n), result("other", [1] * n))
    assert turned.low < 1 == turned.high


def test_the_work_of_all_pairs_grows_with_the_pairs_and_not_with_their_questions() -> None:
    """Each result is read once: four times the runs are sixteen times the pairs, no more."""
    asked = Counter()

    class Counted(Result):
        def values(self, metric: str | None = None) -> list[float]:
            asked["values"] += 1
            return super().values(metric)

        @property
        def ids(self) -> list[str]:
            asked["ids"] += 1
            return [question["id"] for question in self.questions]

    for runs in (5, 20):
        asked.clear()
        made = [result(f"run {n}", [n % 2, 1, 0, 1], seed=n) for n in range(runs)]
        compare_all([Counted(**vars(run)) for run in made])
        assert asked["values"] == runs
        assert asked["ids"] <= 4 * runs


def test_a_metric_that_is_no_yes_or_no_is_refused() -> None:
    half = result("half", [1, 0])
    for question in half.questions:
        question["metrics"]["f1"] = 0.5
    with pytest.raises(
        ValueError, match=r"f1 of a question is 0\.5, neither .* has acc, acc_norm, which are"
    ):
        half.correct("f1")
    for question in half.questions:
        question["metrics"] = {"acc": 0.5}
    with pytest.raises(ValueError, match=r"No metric of mathqa_tiny is; `compare` takes it"):
        half.correct()
    half.questions[0]["metrics"]["acc"] = 1.0
    half.questions[1]["metrics"] = {"acc": math.nan}
    with pytest.raises(ValueError, match="acc of question 1 of mathqa_tiny is nan"):
        half.correct()
    half = result("half", [1, 0])
    with pytest.raises(ValueError, match="no metric 'exact_match'; it has acc, acc_norm"):
        half.correct("exact_match")


def test_accuracy_by_category_template_and_reading_counts_every_question_once() -> None:
    run = result("run", [1, 0, 1, 1, 0])
    by_category = accuracy_by(run)
    assert [*by_category] == ["general", "gain"]
    assert [a.n for a in by_category.values()] == [3, 2]
    assert by_category["general"].accuracy == pytest.approx(2 / 3)
    train = [{"question": "What is 77 + 1 ?"}, {"question": "what is that ?"}]
    assert template_labels(run, train) == [SEEN] * 5
    assert template_labels(run, train[1:]) == [UNSEEN] * 5
    other = result("other", [1] * 5)
    other.questions[3]["choices"] = ["1 , 000"]
    clean = result("clean", [1] * 4, questions=other.questions[:4])  # the fifth is unreadable
    assert reading_labels(run, clean) == [READ_ALIKE] * 3 + [GARBLED] * 2
    with pytest.raises(ValueError, match="1 labels for 5 questions"):
        accuracy_by(run, ["x"])


def test_chance_is_one_over_the_choices_and_nothing_where_answers_are_written() -> None:
    run = result("run", [1, 0])
    run.questions[0]["choices"] = ["1", "2"]
    assert run.chance == pytest.approx((1 / 2 + 1 / 5) / 2)
    run.questions[0]["choices"] = []
    assert math.isnan(run.chance)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_no_number_does_not_stop_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    odd = result("odd", [1, 0, 1], task="mathqa")
    odd.questions[1]["metrics"]["acc"] = value
    for one in (
        odd,
        result("m", [1, 1, 1], task="mathqa"),
        result("a", [1, 0]),
        result("b", [1, 1]),
    ):
        one.save(tmp_path)
    cli.main(["compare", str(tmp_path)])
    told = capsys.readouterr().out
    assert "odd, mathqa: acc is not a number for each question, acc_norm 66.7%" in told
    assert f"not compared: odd: acc of question 1 of mathqa is {value}" in told
    assert "b against a: +50.0 points" in told


def test_a_file_that_was_left_out_shows_in_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for one in (result("a", [1, 0]), result("b", [1, 1])):
        one.save(tmp_path)
    (tmp_path / "c.mathqa_tiny.json").write_text("")
    with pytest.raises(SystemExit, match="1 of the files were left out"):
        cli.main(["compare", str(tmp_path)])
    told = capsys.readouterr().out
    assert told.startswith(f"left out: {tmp_path}/c.mathqa_tiny.json: empty, 0 bytes")
    assert "b against a: +50.0 points" in told
