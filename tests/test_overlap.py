"""Overlap of training and test: what it finds, compared with the plain definition; its speed."""

import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.data.contamination import overlap, question_key, question_template, without_test_rows
from mathsft.data.problems import FEATURES, read_problems


def asking(*questions: str) -> Dataset:
    row = {"solution": "", "answer": "", "choices": [], "label": -1, "source": "made"}
    return Dataset.from_list([{"question": q, **row} for q in questions], features=FEATURES)


def test_case_and_spacing_do_not_make_another_question_but_signs_and_numbers_do() -> None:
    assert question_key("A pen costs Rs. 40 .") == question_key("a pen  costs rs . 40.")
    assert question_key("what is 3 + 2 ?") != question_key("what is 3 - 2 ?")
    assert question_key("1.5 m") != question_key("15 m")
    assert question_key("he pays $1,200 .") == question_key("he pays $ 1 , 200.")


@pytest.mark.parametrize(
    ("question", "masked"),
    [
        ("3 pens at rs . 40 each", "# pens at rs . # each"),
        ("1,200 of 3.5 km", "# of # km"),
        ("what is 25% of 2/3?", "what is # % of # / #"),
        ("m2 and 2 nd", "m # and # nd"),
        ("the mean of 1,2,3 and .5", "the mean of # , # , # and #"),
    ],
)
def test_a_template_is_the_question_with_its_numbers_masked(question: str, masked: str) -> None:
    assert question_template(question) == masked


def test_each_measure_finds_what_it_is_for() -> None:
    long = "a train runs at {} km / hr and crosses a bridge of {} m in the time it takes"
    train = asking("what is 2 + 3 ?", long.format(60, 100), "how many pens has ann ?")
    test = asking(
        "What is 2 + 3?",
        "what is 7 + 9 ?",
        long.format(50, 100),
        long.format(60, 100) + " to boil one egg for tea",
        "how many pens has ben ?",
    )
    found = overlap(train, test)
    assert found.train_rows == 3
    assert found.exact == [0, -1, -1, -1, -1]
    assert found.template == [0, 0, 1, -1, -1]
    assert found.nearest == [0, -1, 1, 1, -1]
    assert found.containment == pytest.approx([1.0, 0.0, 8 / 13, 13 / 19, 0.0])
    assert found.counts == {"exact": 1, "template": 3, "n-grams": 1}
    assert overlap(train, test, threshold=0.65).counts["n-grams"] == 2
    seen, unseen = found.split(test)
    assert seen["question"][:] == test["question"][:3]
    assert unseen["question"][:] == test["question"][3:]
    ours, theirs = found.examples(train, test, kind="template", limit=2)[1]
    assert (ours, theirs) == ("what is 2 + 3 ?", "what is 7 + 9 ?")
    assert found.examples(train, test, kind="exact") == [("what is 2 + 3 ?", "What is 2 + 3?")]
    lines = str(found).splitlines()
    assert lines[0] == "of 5 test questions, 3 training rows contain:"
    assert lines[2].split()[:3] == ["3", "(", "60.0%)"]


words = st.lists(st.sampled_from("abc123"), min_size=1, max_size=12).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(words, max_size=8), st.lists(words, min_size=1, max_size=8), st.integers(1, 4))
def test_it_is_the_plain_definition_pair_by_pair(train: list[str], test: list[str], n: int) -> None:
    found = overlap([{"question": q} for q in train], [{"question": q} for q in test], n=n)

    def first(same: Any) -> int:
        return next((i for i, q in enumerate(train) if same(q)), -1)

    def runs(q: str) -> set[str]:
        return {" ".join(q.split()[i : i + n]) for i in range(len(q.split()) - n + 1)}

    def masked(q: str) -> str:
        return re.sub(r"\d", "#", q)

    every = set().union(*map(runs, train))
    assert found.train_rows == len(train)
    for i, q in enumerate(test):
        assert found.exact[i] == first(lambda other, q=q: other == q)
        assert found.template[i] == first(lambda other, q=q: masked(other) == masked(q))
        wanted = len(runs(q) & every) / len(runs(q)) if runs(q) else float(q in train)
        assert found.containment[i] == pytest.approx(wanted)
        assert (found.nearest[i] >= 0) == (wanted > 0)


def test_half_of_real_mathqa_holds_a_quarter_of_the_others_templates(data_dir: Path) -> None:
    rows = read_problems(data_dir / "mathqa" / "dev.json")[0]
    found = overlap(rows.select(range(2237)), rows.select(range(2237, 4475)))
    assert found.counts == {"exact": 1, "template": 589, "n-grams": 246}


@pytest.mark.same_everywhere
def test_nothing_of_real_gsm8k_is_in_real_mathqa(data_dir: Path) -> None:
    gsm8k = read_problems(data_dir / "gsm8k" / "train.jsonl")[0]
    mathqa = read_problems(data_dir / "mathqa" / "dev.json")[0]
    assert overlap(gsm8k, mathqa).counts == {"exact": 0, "template": 0, "n-grams": 0}


@pytest.mark.slow
def test_thirty_thousand_against_three_thousand_rows_take_seconds(data_dir: Path) -> None:
    rows = read_problems(data_dir / "mathqa" / "dev.json")[0]
    train = concatenate_datasets([rows] * 7)
    start = time.perf_counter()
    found = overlap(train, rows.select(range(3000)))
    assert time.perf_counter() - start < 20  # measured: 1.7 s
    assert found.train_rows == 31_325
    # Three questions appear twice ("greater than 500000" and "500,000", "21,36" and "21 , 36").
    # Four more differ only in the punctuation at the end.
    twice = [(row, first) for row, first in enumerate(found.exact) if first != row]
    assert len(twice) == 7
    bare = [re.sub("[ ,]", "", question).rstrip(".:?") for question in rows["question"]]
    assert all(bare[row] == bare[first] for row, first in twice)


def test_rows_that_ask_a_test_question_or_have_its_template_can_be_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = asking("what is 2 + 3 ?", "what is 4 + 4 ?", "how many pens ?")
    test = asking("What is 4 + 4?")
    assert without_test_rows(train, test)["question"][:] == ["what is 2 + 3 ?", "how many pens ?"]
    left = without_test_rows(train, test, templates=True)
    assert left["question"][:] == ["how many pens ?"]
    assert overlap(left, test).counts["template"] == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "1 of 3 rows left out: their question is one of the 1 to exclude"
    assert second == "2 of 3 rows left out: their template is one of the 1 to exclude"


def test_what_cannot_be_measured_is_refused() -> None:
    some = asking("what is 2 + 3 ?")
    with pytest.raises(ValueError, match="no test row"):
        overlap(some, [])
    with pytest.raises(ValueError, match="n=0"):
        overlap(some, some, n=0)
    with pytest.raises(ValueError, match="threshold=70"):
        overlap(some, some, threshold=70)
    with pytest.raises(ValueError, match="1 test rows, but the overlap has 2"):
        overlap(some, asking("a", "b")).split(some)


@pytest.mark.parametrize(
    "wrong",
    [["a text"], "mathqa", {"train": []}, [{"Problem": "?"}], [{"question": None}],
     Dataset.from_dict({"Problem": ["?"]})],
)  # fmt: skip
def test_arguments_that_are_not_problems_are_named(wrong: Any) -> None:
    some = asking("what is 2 + 3 ?")
    with pytest.raises(ValueError, match=r"overlap's test.*: .*expected.*, found"):
        overlap(some, wrong)
    with pytest.raises(ValueError, match=r"overlap's train.*: .*expected.*, found"):
        overlap(wrong, some)


def test_the_global_random_state_is_left_alone() -> None:
    random.seed(3)
    state = random.getstate()
    overlap(asking("a"), asking("b"))
    assert random.getstate() == state
