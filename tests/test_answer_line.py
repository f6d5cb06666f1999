"""The answer line: ``####`` followed by a number, and no other ``####``."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from problem_rows import CHAT, GSM, jsonl

from mathsft.data.answers import extract_answer, split_final_line
from mathsft.data.problems import load_problems, read_problems

STEPS = "#### Step 1: multiply\n3*4 = 12\n#### Step 2: add"
STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")  # lm-evaluation-harness' gsm8k


@pytest.mark.parametrize(
    ("text", "solution", "answer"),
    [
        (f"{STEPS}\n#### 17", STEPS, "17"),
        ("#### 1. Multiply\n3*4 = 12\n#### 17", "#### 1. Multiply\n3*4 = 12", "17"),
        ("#### 2) Add\nx\n#### 17", "#### 2) Add\nx", "17"),
        ("#### Solution\nx\n#### **17**", "#### Solution\nx", "17"),
        ("x\n####17", "x", "17"),
        ("x\n#### $17", "x", "17"),
        ("x\n#### \\$17", "x", "17"),
        ("x\n#### -17", "x", "-17"),
        ("x\n#### - 17", "x", "-17"),
        ("x\n#### 17 apples", "x", "17"),
        ("x\n#### $1,200.50", "x", "1200.5"),
        ("x\n#### 1,23,456", "x", "123456"),
        ("x\n#### 5 + 12 = 17", "x", "17"),
        ("x\n#### \\boxed{17}", "x", "17"),
        ("x\n#### $\\frac{34}{2}$", "x", "17"),
        ("x\n#### 17\n\nNext problem\n#### 19", "x", "17"),
        ("x\n#### 3:4", "x", ""),
        ("x\n#### 5-7\n#### 17", "x", ""),
        ("x = 3\n#### ", "x = 3", ""),
        ("x = 3\n#### ?", "x = 3", ""),
    ],
)
def test_a_number_makes_the_answer_line(text: str, solution: str, answer: str) -> None:
    assert split_final_line(text) == (solution, answer)
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### The answer is 17", "17"),
        ("3*4 = 12\n#### Total: 12 + 5 = 17", "17"),
        (f"{STEPS}\n12 + 5 = 17", "17"),
        ("She has 17 apples.\n#### Step 2", "17"),
        ("So 17.\n#### 2. Check it", "17"),
        ("#### Step 1", "1"),  # there is nothing else to read
        ("#### Step one\nnothing", ""),
    ],
)
def test_without_an_answer_line_the_text_is_read_and_no_heading(text: str, answer: str) -> None:
    assert extract_answer(text) == answer
    assert split_final_line(text) == (text, "")


headings = st.sampled_from(["#### Step 1: add", "#### Add", "#### Solution:", "### Step 2"])
lines = st.lists(st.one_of(headings, st.sampled_from(["3*4 = 12", "so 5 more"])), max_size=6)
answers = st.integers(-(10**6), 10**6).flatmap(
    lambda n: st.sampled_from([str(n), f"{n:,}", f"{n}.0"])
)


@given(lines, answers, lines)
def test_the_number_is_the_harnesss_strict_match(
    before: list[str], number: str, after: list[str]
) -> None:
    text = "\n".join([*before, f"#### {number}", *after])
    found = STRICT.search(text)
    assert found is not None
    assert float(extract_answer(text)) == float(found[1].replace(",", ""))
    assert split_final_line(text)[0] == "\n".join(before).strip()


def test_the_stored_solution_keeps_its_headings(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl", {"question": "What is 3 * 4 + 5?", "answer": f"{STEPS}\n#### 17"}
    )
    (row,) = load_problems(path)
    assert (row["solution"], row["answer"]) == (STEPS, "17")


@pytest.mark.parametrize(
    ("worked", "reason"),
    [
        ("It is 3:4.\n#### 3:4", "a final answer that cannot be read as one number"),
        ("So it is 2x.", "a final answer that cannot be read as one number"),
        (r"So \boxed{2\sqrt{3}}", "a final answer that cannot be read as one number"),
        ("Nobody knows.", "no final answer in the solution"),
        ("It is so.\n#### ", "no final answer in the solution"),
    ],
)
def test_an_unreadable_answer_is_a_counted_drop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], worked: str, reason: str
) -> None:
    unread: dict[str, Any] = {"question": "What is it?", "answer": worked}
    path = jsonl(tmp_path / "a.jsonl", GSM, unread)
    assert read_problems(path)[1] == {reason: 1}
    load_problems(path)
    assert f"dropped 1: {reason} (row 2)" in capsys.readouterr().out
    chats = jsonl(tmp_path / "b.jsonl", CHAT, {**CHAT, "RESPONSE": worked})
    assert read_problems(chats, test_questions=[], train_questions=[])[1] == {reason: 1}


@pytest.mark.same_everywhere
def test_no_real_row_is_dropped(data_dir: Path) -> None:
    problems, dropped = read_problems(data_dir / "gsm8k" / "train.jsonl")
    assert (len(problems), dropped) == (7473, {})
    with open(data_dir / "gsm8k" / "train.jsonl", encoding="utf-8") as lines:
        labels = [
            json.loads(line)["answer"].rsplit("#### ", 1)[1].replace(",", "") for line in lines
        ]
    assert list(map(float, problems["answer"])) == list(map(float, labels))
