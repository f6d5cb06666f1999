"""Final answers: how they are read from a solution, and which answers are the same."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathsft.data.answers import (
    extract_answer,
    normal_answer,
    same_answer,
    split_final_line,
    strip_marks,
)

pytestmark = pytest.mark.same_everywhere


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She has 1,200", "1200"),
        ("He has 3 boxes of 400 = 1,200", "1200"),
        ("It costs $48.", "48"),
        ("It costs $48.50.", "48.5"),
        ("That is .25 of it", "0.25"),
        ("5 - 8 = -3 degrees", "-3"),
        ("He lost: 5-8 = -$3.50", "-3.5"),
        ("5-8=$-3", "-3"),
        ("The average temperature was -7 degrees.", "-7"),
        ("It is 9 -4", ""),  # a difference or a range, not the number 4
        ("6/8 = 3/4 of the cake", "3/4"),
        ("They wait 1 1/2 hours", "3/2"),
        ("That is 10/40 = 25% of them", "25"),
        ("He pays 125€ - 105€ = 20€", "20"),
        ("Eggs: 12 * 2 = 24 eggs. Money: 24 * 2 = $48", "48"),
        ("12 + 12 = 24 eggs in 3 boxes", "24"),
        ("First 3 + 4 = 7.\nSo she has 8 left.\nDone!", "8"),
        ("768 / 50 = 15.36 minutes, which rounds down to 15 minutes", "15"),
        ("He buys at most 400, because 400 < 500", "400"),
        ("He pays 40 because 20 + 20 = 40", "40"),
        ("So x = 7\n#### 7", "7"),
        ("So x = 7\n#### $1,234.50", "1234.5"),
        ("2 + 2 = 4\n#### 4\n\nNext problem: 9\n#### 9", "4"),
        ("2 + 2 = 4\n#### ", ""),
        ("I cannot say.", ""),
        ("", ""),
        ("= " + "9" * 5000, ""),
    ],
)
def test_extract_answer_reads(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


def test_marks_and_final_line_are_split_off() -> None:
    worked = "He has 48/2 = <<48/2=24>>24 left.\nThat is $<<24*2=48>>48.\n#### 1,048\n"
    solution = "He has 48/2 = 24 left.\nThat is $48."
    assert split_final_line(strip_marks(worked)) == (solution, "1048")


def gsm8k_train(data_dir: Path) -> list[tuple[str, str]]:
    with open(data_dir / "gsm8k" / "train.jsonl", encoding="utf-8") as lines:
        return [tuple(json.loads(line)["answer"].rsplit("\n#### ", 1)) for line in lines]


def test_the_plain_rule_reads_99_percent_of_real_solutions(data_dir: Path) -> None:
    """Without marks and ``####``; also on each half, to show that the rule fits both."""
    rows = gsm8k_train(data_dir)
    assert len(rows) == 7473
    right = [same_answer(extract_answer(strip_marks(worked)), label) for worked, label in rows]
    half = len(right) // 2
    assert sum(right) / len(right) >= 0.993
    assert min(sum(right[:half]) / half, sum(right[half:]) / (len(right) - half)) >= 0.992


def test_the_final_line_gives_every_real_answer(data_dir: Path) -> None:
    for worked, label in gsm8k_train(data_dir):
        assert same_answer(extract_answer(f"{worked}\n#### {label}"), label)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1,200", "1200.0"),
        ("$48.", "48"),
        (".25", "1/4"),
        ("1 1/2", "1.5"),
        ("-0", "0"),
        ("50%", "50"),
        ("-$3", "$-3"),
        ("2/4", "1/2"),
    ],
)
def test_equal_values_are_the_same(a: str, b: str) -> None:
    assert same_answer(a, b)
    assert same_answer(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("0.333", "1/3"),
        ("50%", "0.5"),
        ("3", "-3"),
        ("0.1", "0.1000000000000000055511151231257827"),  # equal as floats
        ("", ""),
        ("none", "none"),
        ("3 apples", "3"),
        ("1/0", "1/0"),
    ],
)
def test_other_values_and_unreadable_text_are_not_the_same(a: str, b: str) -> None:
    assert not same_answer(a, b)
    assert not same_answer(b, a)


decimals = st.decimals(-(10**9), 10**9, places=4).map(lambda number: f"{number:f}")
integers = st.integers(-(10**12), 10**12).map(str)
grouped = st.integers(-(10**12), 10**12).map(lambda number: f"{number:,}")
fractions = st.fractions(max_denominator=1000).filter(lambda f: abs(f) < 10**9).map(str)
numbers = st.one_of(decimals, integers, grouped, fractions)


@given(numbers, st.sampled_from(["{}", "{}.", "So it is {}", "a + b = {} eggs", "x\n#### {}"]))
def test_a_written_number_is_read_back_exactly(number: str, sentence: str) -> None:
    answer = extract_answer(sentence.format(number))
    assert Fraction(answer) == Fraction(number.replace(",", ""))
    assert normal_answer(answer) == answer  # the normal form is a fixed point


@given(numbers, numbers)
def test_same_answer_is_equality_of_values(a: str, b: str) -> None:
    assert same_answer(a, a)
    assert same_answer(a, b) == same_answer(b, a)
    assert same_answer(a, b) == (Fraction(a.replace(",", "")) == Fraction(b.replace(",", "")))


@given(st.text())
def test_any_text_gives_a_number_or_nothing(text: str) -> None:
    answer = extract_answer(text)
    assert answer == "" or same_answer(answer, answer)
