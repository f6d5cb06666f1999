"""Choices made from a worked answer: five distinct values in one format, no shortcut."""

import random
import re
import subprocess
import sys
from fractions import Fraction

import pytest
from choice_rows import SOLUTION, dataset, problem
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.data.answers import same_answer
from mathsft.data.choices import add_choices, make_choices
from mathsft.data.distractors import Law, grade_school_law, read_steps, slips, tiny_law
from mathsft.data.problems import FEATURES
from mathsft.data.schemas import UnusableRowError

# Formats: every way to write a plain number, from small to extremely large.
DIGITS = st.one_of(st.integers(1, 200), st.integers(1, 10**6), st.integers(1, 10**30))
ANSWERS = st.one_of(
    st.builds(lambda n, f: f.format(n), DIGITS, st.sampled_from(["{}", "-{}", "${:,}", "{}%"])),
    st.builds(lambda n, c: f"${n}.{c:02d}", st.integers(0, 500), st.integers(1, 99)),
    st.builds(lambda n, c: f"{n}.{c}", st.integers(0, 10**9), st.integers(1, 999)),
)


@settings(deadline=None)
@given(
    answer=ANSWERS,
    solution=st.one_of(st.just(SOLUTION), st.text()),
    seed=st.integers(),
    law=st.sampled_from([grade_school_law, tiny_law]),
)
def test_any_answer_gets_five_values_in_its_own_format(
    answer: str, solution: str, seed: int, law: Law
) -> None:
    choices, label = make_choices("How many?", solution, answer, seed=seed, law=law)
    assert choices[label] == answer
    assert len({Fraction(re.sub("[$,%]", "", choice)) for choice in choices}) == 5
    decimals = len(answer.rstrip("%").partition(".")[2])
    for choice in choices:
        assert choice.startswith("-") == answer.startswith("-")
        assert ("$" in choice, "%" in choice) == ("$" in answer, "%" in answer)
        assert len(choice.rstrip("%").partition(".")[2]) == decimals
        assert choice.strip("-0.$%,") != ""


def test_money_with_cents_stays_money_with_cents() -> None:
    choices, label = make_choices("What does it cost?", "It costs 3 * 1.25 = $3.75.", "$3.75")
    assert choices[label] == "$3.75"
    assert all(choice[0] == "$" and choice[-3] == "." for choice in choices)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "no answer"),
        ("0", "answer is 0"),
        ("0.00", "answer is 0"),
        ("3/4", "answer is a fraction"),
        ("12 hours", "answer is not a plain number"),
        ("1,2", "answer is not a plain number"),
    ],
)
def test_an_answer_without_choices_is_dropped_with_its_reason(
    answer: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnusableRowError, match=reason):
        make_choices("How many?", SOLUTION, answer)
    left = add_choices(dataset(problem(), problem(answer=answer), problem(answer="5")))
    assert list(left["answer"]) == ["72", "5"]
    line = capsys.readouterr().out
    assert f"dropped 1: {reason} (row 2)" in line
    assert "choices made: 2, had choices: 0" in line


def test_choices_that_exist_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    own = problem(choices=["7", "8"], label=1, answer="8")
    done = add_choices(dataset(own, problem()))
    assert done[0] == own
    assert len(done[1]["choices"]) == 5
    assert done[1]["choices"][done[1]["label"]] == "72"
    assert done.features == FEATURES
    assert "choices made: 1, had choices: 1" in capsys.readouterr().out


def test_a_dataset_of_another_schema_and_one_with_nothing_left_are_errors() -> None:
    with pytest.raises(ValueError, match=r"'solution' is missing.*load_problems"):
        add_choices(Dataset.from_list([{"question": "?", "answer": "1"}]))
    with pytest.raises(ValueError, match=r"no problem left.*answer is 0"):
        add_choices(dataset(problem(answer="0")))


def test_choices_depend_on_the_row_and_the_seed_alone() -> None:
    rows = [problem(question=f"How many clips did {n} friends buy?") for n in range(20)]
    state = random.getstate()
    forth = list(add_choices(dataset(*rows)))
    back = list(add_choices(dataset(*rows[::-1][:7])))
    assert back == forth[::-1][:7]
    assert list(add_choices(dataset(*rows), seed=1)) != forth
    assert random.getstate() == state


@pytest.mark.slow
def test_choices_are_the_same_in_another_process_with_another_hash_seed() -> None:
    script = (
        "from mathsft.data.choices import make_choices\n"
        f"print(make_choices('How many?', {SOLUTION!r}, '72'))\n"
        "import sys; assert 'torch' not in sys.modules"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {f"{make_choices('How many?', SOLUTION, '72')}\n"}


def test_steps_are_read_from_the_text_and_slips_carried_on() -> None:
    text = "He makes 7 shirts * $7 = $49 and (1,000 - 2) x .5 = 499. Then 49+51 = 100, 2+2 = 5."
    results = [step.result for step in read_steps(text)]
    assert results == [49, 100]  # brackets are not read, so 999 is not 499; 2+2 is not 5
    steps = read_steps(SOLUTION)
    assert [step.result for step in steps] == [24, 72]
    found = slips(steps, Fraction(72))
    assert {48 * 24, 48 - 24, 48 + 48 * 2, 48 + 46} <= found
    assert Fraction(72) not in found
    assert slips(steps, Fraction(71)) == set()


@pytest.mark.slow
@pytest.mark.parametrize(("source", "floor"), [("real", 0.8), ("tiny", 0.6)])
def test_distractors_come_from_the_problems_own_calculation_often(
    source: str, floor: float, request: pytest.FixtureRequest
) -> None:
    problems = request.getfixturevalue(f"{source}_choices").select(range(2000))
    found = 0  # per problem, of four; measured 0.87 on the real rows, 0.68 on the tiny ones
    for row in problems:
        steps, answer = read_steps(row["solution"]), Fraction(row["answer"])
        on_the_way = {step.result for step in steps} - {answer}
        own = {str(value) for value in on_the_way | slips(steps, answer)}
        found += len(own & set(row["choices"]))
    assert found / len(problems) > floor


@pytest.mark.slow
def test_on_real_rows_all_but_a_zero_get_choices(real_choices: Dataset) -> None:
    assert len(real_choices) == 7472
    for row in real_choices:
        assert row["choices"][row["label"]] == row["answer"]
        assert not any(
            same_answer(a, b) for i, a in enumerate(row["choices"]) for b in row["choices"][:i]
        )
