"""ASDiv and SVAMP: the story and the question together, and the equation as the solution."""

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from problem_rows import jsonl
from test_unread_columns import ASDIV, SVAMP

from mathsft.data.answers import extract_answer
from mathsft.data.problems import FEATURES, load_problems, read_problems
from mathsft.data.prompts import sft_completion
from mathsft.data.sources import questions_of
from mathsft.data.word_problems import worked_equation
from mathsft.models.loading import load_model
from mathsft.objectives.sft import tokenize_problems

ASKED = (
    "Seven red apples and two green apples are in the basket. How many apples are in the basket?"
)


def read(tmp_path: Path, *rows: dict[str, Any]) -> Any:
    return read_problems(jsonl(tmp_path / "rows.jsonl", *rows))


def test_asdiv_and_svamp_are_problems_with_story_answer_and_solution(tmp_path: Path) -> None:
    rows, dropped = read(tmp_path, ASDIV)
    assert not dropped
    assert rows.features == FEATURES
    assert rows.to_list() == [
        {"question": ASKED, "solution": "7 + 2 = 9", "answer": "9", "choices": [], "label": -1,
         "source": "rows.jsonl"}
    ]  # fmt: skip
    joined = f"{SVAMP['Body']} {SVAMP['Question']}"
    for answer in ("5.0", "5", 5.0, 5):
        (row,) = read(tmp_path, {**SVAMP, "Answer": answer, "question_concat": joined})[0]
        assert (row["question"], row["solution"], row["answer"]) == (joined, "8 - 3 = 5", "5")


def test_the_story_is_trained_and_compared_with_tests(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, ASDIV)
    tokenizer = load_model("tiny", device="cpu")[1]
    (found,), _ = tokenize_problems(rows, tokenizer)
    text = tokenizer.decode(found["input_ids"])
    assert ASKED in text
    assert text.endswith("7 + 2 = 9\n#### 9<|endoftext|>")
    assert questions_of(tmp_path / "rows.jsonl") == [ASKED]


@pytest.mark.parametrize(
    ("answer", "formula", "solution", "number"),
    [
        ("5 (dollars)", "10-(3+2)=5", "10 - (3 + 2) = 5", "5"),
        ("45 (cents)", "1 (quarter)*25 (cent/quarter) + 2 (dime)*10 (cent/dime) = 45 (cent)",
         "1 * 25 + 2 * 10 = 45", "45"),
        ("9.6 (kilometers)", "3200*3=9600; 9600/1000 (m/km) = 9.6 (km)",
         "3200 * 3 = 9600\n9600 / 1000 = 9.6", "9.6"),
        ("1,121 (crayons)", "5,092-3,971=1,121", "5092 - 3971 = 1121", "1121"),
        ("3.33 (dollars)", "10/3=3.33", "10 / 3 = 3.33", "3.33"),
        ("2/3", "1-(1/3)=2/3", "1 - 1 / 3 = 2 / 3", "2/3"),
        ("48", "(3×8)+(3×8)=48", "3 * 8 + 3 * 8 = 48", "48"),
    ],
)  # fmt: skip
def test_published_formulas_come_out_as_a_person_writes_them(
    tmp_path: Path, answer: str, formula: str, solution: str, number: str
) -> None:
    (row,) = read(tmp_path, {**ASDIV, "answer": answer, "formula": formula})[0]
    assert (row["solution"], row["answer"]) == (solution, number)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"formula": "7+2=8"}, "whose formula and answer disagree"),
        ({"formula": "7*2=14"}, "whose formula and answer disagree"),
        ({"formula": "7+2=10; 10-1=9"}, "whose formula and answer disagree"),
        ({"formula": "27/3=9.4"}, "whose formula and answer disagree"),
        ({"answer": "Mrs. Hilt"}, "whose answer is not one number"),
        ({"answer": "11:45 p.m."}, "whose answer is not one number"),
        ({"answer": "5 (boys); 4 (girls)"}, "whose answer is not one number"),
        ({"answer": ""}, "empty answer"),
        ({"question": " "}, "empty question"),
    ],
    ids=str,
)
def test_rows_that_contradict_themselves_or_have_no_number_are_counted_drops(
    tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    rows, dropped = read(tmp_path, ASDIV, {**ASDIV, **change})
    assert (len(rows), dropped) == (1, {reason: 1})
    assert read(tmp_path, SVAMP, {**SVAMP, "Answer": "6"})[1] == {
        "whose Equation and answer disagree": 1
    }


@pytest.mark.parametrize(
    "formula",
    ["3:4=24:32", "87/9=9 r6", "x+2=9", "2**99999=9", "9/0=9", "lcm(3,9)=9", "", "7+2;=9"],
)
def test_a_formula_that_is_no_plain_arithmetic_leaves_the_question_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], formula: str
) -> None:
    rows = load_problems(jsonl(tmp_path / "a.jsonl", ASDIV, {**ASDIV, "formula": formula}))
    assert (rows[1]["question"], rows[1]["solution"], rows[1]["answer"]) == (ASKED, "", "9")
    said = capsys.readouterr().out
    assert "2 rows read, 2 kept; without a solution (formula cannot be computed): 1" in said


def test_a_story_without_its_equation_is_not_half_read(tmp_path: Path) -> None:
    for row, missing, message in (
        (ASDIV, "formula", "column 'body' holds 'Seven red apples"),
        (SVAMP, "Equation", "column 'Equation' is missing"),
        (SVAMP, "Question", "belong to no known schema"),
    ):
        rest = {key: value for key, value in row.items() if key != missing}
        with pytest.raises(ValueError, match=re.escape(message)):
            read(tmp_path, rest)


WHOLE = st.integers(0, 9999)
EXPRESSIONS = st.recursive(
    st.tuples(WHOLE.map(str), WHOLE).map(lambda pair: (pair[0], Fraction(pair[0]))),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(
        lambda parts: (
            f"( {parts[0][0]} {parts[1]} {parts[2][0]} )",
            {"+": parts[0][1] + parts[2][1], "-": parts[0][1] - parts[2][1]}.get(
                parts[1], parts[0][1] * parts[2][1]
            ),
        )
    ),
    max_leaves=6,
)


@given(EXPRESSIONS)
def test_any_expression_is_computed_and_its_solution_gives_the_answer(
    expression: tuple[str, Fraction],
) -> None:
    text, value = expression
    worked, agrees = worked_equation(text, str(value))
    assert agrees
    left, _, right = worked.rpartition(" = ")
    assert Fraction(eval(left)) == value == Fraction(right)
    assert extract_answer(sft_completion(worked, str(value))) == str(value)
    assert not worked_equation(text, str(value + 1))[1]
