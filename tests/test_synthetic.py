"""The generated problems: right answers, separate splits, no shortcut in the choices."""

import random
import re
from fractions import Fraction

import pytest

from mathsft.data.mathqa import official_choices
from mathsft.data.synthetic import SIZES
from mathsft.data.synthetic.grade_school import tiny_gsm_rows
from mathsft.data.synthetic.multiple_choice import tiny_mathqa_rows
from mathsft.models.tiny.corpus import documents

LETTERS = "abcde"
OPERATIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "rectangle_area": lambda a, b: a * b,
    "rectangle_perimeter": lambda a, b: 2 * (a + b),
}


@pytest.fixture(scope="module")
def gsm() -> list[dict[str, str]]:
    return tiny_gsm_rows("train", 2000)


@pytest.fixture(scope="module")
def mathqa() -> list[dict[str, str]]:
    return tiny_mathqa_rows("train")


def value_of(choice: str) -> Fraction:
    number = re.search(r"\d+( / \d+)?", choice)
    assert number, choice
    return Fraction(number.group().replace(" ", ""))


def execute(formula: str) -> Fraction:
    """The value of a MathQA formula such as ``add(3, divide(4, const_2))``."""
    formula = formula.strip()
    if "(" not in formula:
        return Fraction(formula.removeprefix("const_"))
    name, inner = formula[:-1].split("(", 1)
    depth, cut = 0, 0
    for i, letter in enumerate(inner):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            cut = i
    return OPERATIONS[name](execute(inner[:cut]), execute(inner[cut + 1 :]))


def test_every_calculation_of_a_worked_solution_is_right(gsm: list[dict[str, str]]) -> None:
    for row in gsm:
        marks = re.findall(r"<<(\d+)([+\-*/])(\d+)=(\d+)>>(\d+)", row["answer"])
        assert 1 <= len(marks) <= 3
        for left, sign, right, result, shown in marks:
            operation = dict(zip("+-*/", ["add", "subtract", "multiply", "divide"], strict=True))
            assert OPERATIONS[operation[sign]](Fraction(left), Fraction(right)) == int(result)
            assert result == shown
        assert row["answer"].split("\n")[-1] == f"#### {marks[-1][3]}"


def test_the_formula_gives_the_labelled_choice(mathqa: list[dict[str, str]]) -> None:
    for row in mathqa:
        choices = official_choices(row["options"])
        assert execute(row["annotated_formula"]) == value_of(choices[LETTERS.index(row["correct"])])


def test_five_choices_of_different_value_read_by_the_real_parser(
    mathqa: list[dict[str, str]],
) -> None:
    for row in mathqa:
        choices = official_choices(row["options"])
        assert len({value_of(choice) for choice in choices}) == 5


def _roundness(value: Fraction) -> tuple[int, int]:
    digits = str(value.numerator)
    return len(digits) - len(digits.rstrip("0")), -value.denominator


SHORTCUTS = {
    "the smallest": lambda values: values.index(min(values)),
    "the largest": lambda values: values.index(max(values)),
    "the median": lambda values: values.index(sorted(values)[2]),
    "the second": lambda values: values.index(sorted(values)[1]),
    "the longest": lambda values: max(range(5), key=lambda i: len(str(values[i]))),
    "the shortest": lambda values: min(range(5), key=lambda i: len(str(values[i]))),
    "the roundest": lambda values: max(range(5), key=lambda i: _roundness(values[i])),
    "an even one": lambda values: max(range(5), key=lambda i: values[i] % 2 == 0),
    "a multiple of three": lambda values: max(range(5), key=lambda i: values[i] % 3 == 0),
    "nearest the mean": lambda values: min(
        range(5), key=lambda i: abs(values[i] - sum(values) / 5)
    ),
    "the first": lambda values: 0,
    "the last": lambda values: 4,
}


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_choosing_without_the_question_is_chance(
    mathqa: list[dict[str, str]], shortcut: str
) -> None:
    hits = sum(
        SHORTCUTS[shortcut]([value_of(c) for c in official_choices(row["options"])])
        == LETTERS.index(row["correct"])
        for row in mathqa
    )
    n = len(mathqa)
    assert abs(hits / n - 0.2) < 3 * (0.2 * 0.8 / n) ** 0.5, hits / n


@pytest.mark.parametrize("make", [tiny_gsm_rows, tiny_mathqa_rows])
def test_no_question_is_in_two_splits_and_none_twice(make) -> None:
    key = "question" if make is tiny_gsm_rows else "Problem"
    seen: dict[str, str] = {}
    for split in (*SIZES, "pretrain"):
        for row in make(split, 400):
            assert seen.setdefault(row[key], split) == split
    assert len(seen) == 4 * 400


@pytest.mark.parametrize("make", [tiny_gsm_rows, tiny_mathqa_rows])
def test_rows_are_the_same_every_time_and_leave_the_global_random_state(make) -> None:
    state = random.getstate()
    assert make("test", 50) == make("test", 100)[:50]
    assert random.getstate() == state


def test_an_unknown_split_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="train"):
        tiny_gsm_rows("dev")
    with pytest.raises(ValueError, match="limit"):
        tiny_gsm_rows("pretrain")


def test_pretraining_text_holds_no_course_format_and_no_lesson_question() -> None:
    text = "\n".join(documents(3000, seed=0))
    for mark in ("###", "Question:", "Answer:", "a )", "<<", "answer :"):
        assert mark not in text
    for split in SIZES:
        for row in tiny_gsm_rows(split, 400):
            assert row["question"] not in text
        for row in tiny_mathqa_rows(split, 400):
            assert row["Problem"] not in text
