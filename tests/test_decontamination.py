"""Decontamination: the questions of a task, and the rows that hold one."""

import json
from pathlib import Path
from typing import Any

import pytest
from chat_rows import chat
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from own_tasks import ROWS, task_file

from mathsft import cli
from mathsft.data.decontamination import remove_questions
from mathsft.data.problems import read_problems
from mathsft.data.questions import question_key
from mathsft.data.synthetic.multiple_choice import tiny_mathqa_rows
from mathsft.evaluation.decontamination import decontaminate, task_questions

QUESTION = (
    "A train of 150 m runs at 60 km per hour and crosses a bridge of 100 m: how many seconds does "
    "it take to cross?"
)
TESTS = {"trains": ["How many?", QUESTION]}


def found_by(text: str, **how: Any) -> list[tuple[str, int, str]]:
    found = remove_questions([{"text": text}], TESTS, **how)
    return [(match.test, match.question, match.kind) for match in found.matches]


def test_a_row_that_asks_or_holds_a_question_is_left_out() -> None:
    exact = [("trains", 1, "exact")]
    assert found_by(QUESTION.upper()) == exact
    assert found_by(f"Please help: {QUESTION} Thanks!") == exact
    assert found_by("how many ?") == [("trains", 0, "exact")]  # short: only as a whole
    assert found_by("I wonder how many?") == []
    assert found_by(QUESTION.replace("150", "151")) == [("trains", 1, "n-grams")]
    assert found_by(QUESTION.replace("60", "61").replace("100", "10").replace("150", "1")) == []
    assert found_by("A train is late.") == []


def test_templates_are_left_out_only_if_asked_for() -> None:
    other = QUESTION.replace("60", "61").replace("100", "10").replace("150", "1")
    assert found_by(other, templates=True) == [("trains", 1, "template")]
    assert found_by(other) == []


def test_a_threshold_asks_for_a_share_of_the_questions_runs() -> None:
    half = " ".join(QUESTION.split()[:14])
    (match,) = remove_questions([{"text": half}], TESTS, n=8).matches
    words = question_key(QUESTION).split()
    common = len(question_key(half).split()) - 7
    assert match.share == pytest.approx(common / (len(words) - 7))
    assert found_by(half, n=8, threshold=match.share) == [("trains", 1, "n-grams")]
    assert found_by(half, n=8, threshold=match.share + 0.01) == []


words = st.lists(st.sampled_from("abc"), max_size=14).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(st.lists(words, min_size=1, max_size=6), st.lists(words, min_size=1, max_size=5))
def test_a_common_run_is_what_the_harness_calls_one(rows: list[str], asked: list[str]) -> None:
    from lm_eval.decontamination.janitor import word_ngrams

    n = 5
    found = remove_questions([{"text": text} for text in rows], {"test": asked}, n=n)
    left = {match.row for match in found.matches}
    runs = {run for text in asked for run in word_ngrams(question_key(text), n)}
    whole = {question_key(text) for text in asked} - {""}
    for row, text in enumerate(rows):
        key = question_key(text)
        common = key in whole or bool(runs & set(word_ngrams(key, n)))
        assert (row in left) == common
    assert found.rows == [{"text": text} for row, text in enumerate(rows) if row not in left]


def test_all_that_a_row_says_counts_or_only_what_it_asks() -> None:
    rows = [
        chat("Give me an example.", f"Here is one. {QUESTION}"),
        chat("Give me an example.", "No."),
        {"question": "Write a question.", "solution": QUESTION, "answer": ""},
        {"prompt": QUESTION, "chosen": " 15", "rejected": " 16"},
    ]
    assert remove_questions(rows, TESTS).rows == [rows[1]]
    assert remove_questions(rows, TESTS, by="question").rows == rows[:3]


def test_the_report_names_row_test_and_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Dataset.from_list([{"text": "Nothing."}, {"text": ""}, {"text": QUESTION}])
    tests = {"one": ["Other words?", QUESTION], "two": [QUESTION]}
    found = remove_questions(rows, tests, report=tmp_path / "matches.jsonl")
    assert found.rows["text"][:] == ["Nothing.", ""]
    lines = [json.loads(line) for line in (tmp_path / "matches.jsonl").read_text().splitlines()]
    assert [(one["row"], one["test"], one["question"]) for one in lines] == [
        (2, "one", 1), (2, "two", 0),
    ]  # fmt: skip
    assert {(one["kind"], one["share"], one["text"], one["asked"]) for one in lines} == {
        ("exact", 1.0, QUESTION, QUESTION)
    }
    printed = capsys.readouterr().out
    assert "3 rows read, 2 kept; 1 left out" in printed
    assert "one, 2 questions: exact 1; two, 1 questions: exact 1" in printed
    assert "1 shorter questions were compared as a whole only" in printed
    assert "kept without being compared: 1 without a word" in printed


@pytest.mark.parametrize(
    ("rows", "tests", "how", "message"),
    [
        ([], TESTS, {}, "there are no rows"),
        ([{"text": 3}], TESTS, {}, "decontaminate, row 0"),
        ([{"text": "x"}], {}, {}, "no test is given"),
        ([{"text": "x"}], {"mine": []}, {}, "mine: there are no questions"),
        ([{"text": "x"}], TESTS, {"n": 0}, "n=0"),
        ([{"text": "x"}], TESTS, {"threshold": 0}, "threshold=0"),
        ([{"text": "x"}], TESTS, {"by": "answer"}, "unknown by 'answer'"),
        ([{"text": "x"}], TESTS, {"report": "x.html"}, "ends with .jsonl or .csv"),
    ],
)
def test_bad_input_is_one_line(rows: Any, tests: Any, how: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        remove_questions(rows, tests, **how)
    assert "\n" not in str(error.value)


def test_a_files_rows_are_the_questions_of_the_file_task(data_dir: Path, tmp_path: Path) -> None:
    published = json.loads((data_dir / "mathqa" / "dev.json").read_text())[:40]
    file = tmp_path / "some.json"
    file.write_text(json.dumps(published))
    rows, _ = read_problems(file)
    found = decontaminate(rows, "mathqa_file", test_file=file, by="question")
    assert len(found.rows) == 0
    assert {match.kind for match in found.matches} == {"exact"}
    assert [match.asked for match in found.matches] == [match.text for match in found.matches]


def test_an_own_task_files_questions_begin_and_end_with_the_rows_own_text(tmp_path: Path) -> None:
    own = task_file(tmp_path, doc_to_text='"Question: {{q}}\\nChoices: {{choices}}\\nAnswer:"')
    assert task_questions(str(own)) == {"mine": [row["q"] for row in ROWS]}
    story = task_file(tmp_path, "story", doc_to_text='"{{q}} Also: {{q}}"')
    assert task_questions([str(story)])["story"][0] == "what is 0 + 1 ? Also: what is 0 + 1 ?"


@pytest.mark.slow
def test_tasks_by_name_by_file_and_in_a_group(tmp_path: Path) -> None:
    """The words that a task puts around a question are left out."""
    asked = [row["Problem"] for row in tiny_mathqa_rows("test")]
    assert task_questions("mathqa_tiny") == {"mathqa_tiny": asked}
    group = tmp_path / "group.yaml"
    group.write_text("group: both\ntask: [mathqa_tiny]\n")
    rows = [{"text": asked[3]}, {"text": "what is 5 + 1 ?"}]
    found = decontaminate(rows, [str(group), str(task_file(tmp_path))])
    assert found.tests == {"mathqa_tiny": 1000, "mine": 6}
    assert [(match.row, match.test, match.question) for match in found.matches] == [
        (0, "mathqa_tiny", 3), (1, "mine", 5),
    ]  # fmt: skip


def test_a_question_may_come_from_a_column_that_the_task_names(tmp_path: Path) -> None:
    own = task_file(
        tmp_path, doc_to_text="right", should_decontaminate="true", doc_to_decontamination_query="q"
    )
    assert task_questions(str(own))["mine"][2] == "what is 2 + 1 ?"
    bare = task_file(tmp_path, "bare", doc_to_text="right")  # the prompt is a number
    assert task_questions(str(bare))["bare"][2] == "what is 2 + 1 ?"


def test_what_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"the rows of mathqa_clean cannot be loaded"):
        decontaminate([{"text": "x"}], "mathqa_clean")
    code = task_file(tmp_path, doc_to_text="!function mine.text")
    with pytest.raises(ValueError, match="would run code"):
        decontaminate([{"text": "x"}], str(code))
    with pytest.raises(FileNotFoundError, match="no such task file"):
        decontaminate([{"text": "x"}], str(tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match="which file"):
        decontaminate([{"text": "x"}], "mathqa_file")
    other = task_file(tmp_path, "other", doc_to_text='"{{ 6 // (3 - (q[8] | int)) }}"')
    with pytest.raises(ValueError, match="other, question 3: the task cannot make its prompt"):
        decontaminate([{"text": "x"}], str(other))


def test_the_command_writes_the_rows_with_all_their_columns(tmp_path: Path) -> None:
    rows = [{"id": 7, **chat("what is 3 + 1 ?", "4")}, {"id": 8, **chat("what is 9 ?", "9")}]
    source, out = tmp_path / "chats.jsonl", tmp_path / "clean.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ["decontaminate", "--source", source, "--file", out, "--tasks", task_file(tmp_path)]
    cli.main([*map(str, line), "--report", str(tmp_path / "matches.csv")])
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows[1:]
    assert "0,mine,3,exact,1.0,what is 3 + 1 ? 4,what is 3 + 1 ?" in (
        (tmp_path / "matches.csv").read_text()
    )
