"""Columns may have custom names; the error for a wrong one names its place and the nearest name."""

import re
from pathlib import Path

import pytest
from chat_rows import chat
from problem_rows import GSM, jsonl

from mathsft.data.problems import load_problems, read_problems


def test_columns_may_have_custom_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"q": GSM["question"], "a": GSM["answer"], "answer_id": 3}
    named = {"question": "q", "answer": "a"}
    found = load_problems(jsonl(tmp_path / "a.jsonl", row), columns=named)
    assert found["question"][:] == [GSM["question"]]
    assert "not read" not in capsys.readouterr().out
    swapped = {"question": GSM["answer"], "answer": GSM["question"]}
    path = jsonl(tmp_path / "b.jsonl", swapped)
    names = {"question": "answer", "answer": "question"}
    assert read_problems(path, columns=names)[0]["question"][:] == [GSM["question"]]
    turns = jsonl(tmp_path / "c.jsonl", {"dialogue": chat("a", "b")["messages"]})
    assert len(read_problems(turns, columns={"messages": "dialogue"})[0]) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"question": "qq"}, "a.jsonl, row 1: cannot read question: unknown column 'qq': "),
        ({"question": "qq"}, "did you mean 'q'?"),
        ({"questoin": "q"}, "columns: unknown name 'questoin': "),
        ({"questoin": "q"}, "did you mean 'question'?"),
        ({"question": "q", "source": "hint"}, "cannot read source: unknown column 'hint'"),
        ({"question": "q", "id": "a"}, "columns: unknown name 'id'"),
        ({"answer": "q"}, "the row has both columns 'answer' and 'q', but answer is read"),
    ],
)
def test_a_wrong_name_names_file_row_and_the_nearest(
    tmp_path: Path, columns: dict[str, str], message: str
) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"q": "What?", "a": "#### 1", "answer": "1"})
    with pytest.raises(ValueError, match=re.escape(message)):
        read_problems(path, columns=columns)


def test_a_later_row_without_the_column_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"q": "What?", "answer": "1 = 1\n#### 1"}, GSM)
    with pytest.raises(ValueError, match=r"row 2: cannot read question: unknown column 'q'"):
        read_problems(path, columns={"question": "q"})


def test_unknown_columns_give_an_error_with_a_suggestion(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"Question": "What?", "Anser": "1"})
    hint = "did you mean columns={'question': 'Question', 'answer': 'Anser'}?"
    with pytest.raises(ValueError, match=re.escape(hint)):
        load_problems(path)
