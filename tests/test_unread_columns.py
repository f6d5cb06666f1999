"""Columns and keys that no reader reads: harmless, counted in the summary, or refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chat_rows import chat, new_tokenizer, with_template
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from made_rows import multiple_choice_rows
from problem_rows import CHAT as INSTRUCTION
from problem_rows import GSM, MATHQA, OWN, jsonl

from mathsft.data.columns import holds
from mathsft.data.problems import load_problems, read_problems
from mathsft.data.sources import questions_of
from mathsft.evaluation.tasks.functions import rows_of_file
from mathsft.evaluation.worked import worked_answers
from mathsft.models.likelihood import encode_choices
from mathsft.objectives.sft import tokenize_problems

CHAT = chat("What is 2 + 3?", "It is 5.")
TEXT = {"prompt": "2 + 3 =", "completion": " 5"}
SPLIT = {"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]}
ASDIV = {
    "body": "Seven red apples and two green apples are in the basket.",
    "question": "How many apples are in the basket?",
    "solution_type": "Addition",
    "answer": "9 (apples)",
    "formula": "7+2=9",
}
SVAMP = {
    "ID": "chal-1",
    "Body": "Dan had $ 8 and spent $ 3 on a candy bar",
    "Question": "How much money does Dan have left?",
    "Equation": "( 8.0 - 3.0 )",
    "Answer": "5.0",
    "Type": "Subtraction",
}
KINDS = {
    "gsm8k": GSM,
    "instruction": INSTRUCTION,
    "mathqa": MATHQA,
    "own": OWN,
    "chat": CHAT,
    "text": TEXT,
    "split": SPLIT,
    "asdiv": ASDIV,
    "svamp": SVAMP,
}
NO_HUB = {"test_questions": [], "train_questions": []}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return with_template(new_tokenizer())


def said(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    load_problems(path, **NO_HUB)
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_not_read_is_counted_in_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    row = KINDS[kind]
    rows = [{**row, "hint": "Add.", "steps": ["a"]}, {**row, "hint": "Add.", "steps": []}, row]
    shown = said(jsonl(tmp_path / "a.jsonl", *rows), capsys)
    assert "3 rows read, 3 kept" in shown
    assert shown.endswith("not read: column 'hint' (2 rows), column 'steps' (1 row)\n")
    more = {"id": 7, "ID": "x", "row_id": 3, "source": "book", "url": "u", "difficulty": 2}
    nothing = {"notes": None, "hint": " ", "extra": [], "nested": {"a": None, "b": [""]}}
    rows = [{**more, **nothing, **row, "metadata": {"any": ["thing"]}}]
    assert "not read" not in said(jsonl(tmp_path / "b.jsonl", *rows), capsys)


def test_the_sources_of_the_course_are_read_whole(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in ("tiny-gsm", "tiny-mathqa"):
        load_problems(source, limit=5)
    load_problems(data_dir / "gsm8k" / "train.jsonl")
    load_problems(data_dir / "mathqa" / "dev.json")
    assert "not read" not in capsys.readouterr().out


def test_keys_of_messages_and_of_their_parts_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = json.loads(json.dumps(CHAT))
    row["messages"][0] |= {"mood": "calm", "id": 3, "refusal": None}
    row["messages"][1]["content"] = [{"type": "text", "text": "It is 5.", "citations": ["a"]}]
    line = "not read: key 'citations' of content parts (1 row), key 'mood' of messages (1 row)"
    shown = said(jsonl(tmp_path / "a.jsonl", row, CHAT), capsys)
    assert set(re.findall(r"key '\w+' of [\w ]+\(1 row\)", shown)) == set(line[10:].split(", "))


CHANGING = {
    "score": 0.4, "quality_score": 3, "reward": 0, "rewards": [1.0], "sampleWeight": 0.2,
    "loss_mask": [0, 1], "is_correct": False, "correct_answer": "6", "negative": "It is 6.",
    "rating": "bad", "exclude": True, "labels": [1], "Weight": 0, "advantages": [0.1],
    "completions": ["5", "6"], "functions": [{"name": "add"}],
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGING)
def test_a_column_that_may_change_what_is_trained_is_an_error(
    tokenizer: Any, tmp_path: Path, name: str
) -> None:
    more = {name: CHANGING[name]}
    for row in KINDS.values():
        message = re.escape(f"a.jsonl, row 2: column {name!r} holds {CHANGING[name]!r}"[:60])
        with pytest.raises(ValueError, match=message):
            read_problems(jsonl(tmp_path / "a.jsonl", row, {**row, **more}), **NO_HUB)
    for row in (CHAT, TEXT, SPLIT, OWN):
        for data in ([row, {**row, **more}], Dataset.from_list([{**row, **more}] * 2)):
            with pytest.raises(ValueError, match=re.escape(f"column {name!r} holds")):
                tokenize_problems(data, tokenizer)
    with pytest.raises(ValueError, match=re.escape(f"problem 0: column {name!r} holds")):
        multiple_choice_rows([{**OWN, **more}], tokenizer)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 + 3 =", "chosen": " 5"},
        {**TEXT, "rejected": " 6"},
        {**CHAT, "rejected": "It is 6."},
        {**CHAT, "chosen": "It is 5.", "rejected": "It is 6."},
        {"question": "2 + 3?", "chosen": "5", "rejected": "6"},
        {**GSM, "rejected_answer": "#### 6"},
    ],
    ids=str,
)
def test_pairs_of_answers_are_not_half_read(tmp_path: Path, row: Any) -> None:
    told = r"row 1.*(half of a pair|'prompt' is missing, and '(messages|question)' holds)"
    with pytest.raises(ValueError, match=told):
        read_problems(jsonl(tmp_path / "a.jsonl", row))


@pytest.mark.parametrize(
    "name", ["body", "context", "passage", "story", "Context", "background", "table", "image"]
)
def test_a_part_of_the_question_in_another_column_is_an_error(
    tokenizer: Any, tmp_path: Path, name: str
) -> None:
    for row in (GSM, INSTRUCTION, MATHQA, OWN, TEXT):
        path = jsonl(tmp_path / "a.jsonl", row, {**row, name: "Tom has 3 pens."})
        with pytest.raises(ValueError, match=f"row 2: column '{name}' holds 'Tom has 3 pens.'"):
            load_problems(path, **NO_HUB)
        with pytest.raises(ValueError, match=f"row 2: column '{name}' holds"):
            questions_of(path)
    for row in (OWN, TEXT):
        with pytest.raises(ValueError, match=f"row 0: column '{name}' holds"):
            tokenize_problems([{**row, name: "Tom has 3 pens."}], tokenizer)
    with pytest.raises(ValueError, match=f"problem 0: column '{name}' holds"):
        worked_answers(None, tokenizer, [{**OWN, name: "Tom has 3 pens."}])
    with pytest.raises(ValueError, match=f"problem 0: column '{name}' holds"):
        encode_choices(tokenizer, [{**OWN, name: "Tom has 3 pens."}])
    path = jsonl(tmp_path / "t.jsonl", {**MATHQA, name: "Tom has 3 pens."})
    with pytest.raises(ValueError, match=f"row 1: column '{name}' holds"):
        rows_of_file(str(path))


@pytest.mark.parametrize("name", ["system", "images", "documents"])
def test_what_stands_before_all_messages_is_not_lost(
    tokenizer: Any, tmp_path: Path, name: str
) -> None:
    for row in (CHAT, SPLIT):
        bad = {**row, name: ["Be brief."]}
        with pytest.raises(ValueError, match=f"row 1: column '{name}' holds"):
            read_problems(jsonl(tmp_path / "a.jsonl", bad))
        with pytest.raises(ValueError, match=f"row 0: column '{name}' holds"):
            tokenize_problems([bad], tokenizer)


def test_a_chat_may_keep_what_it_was_made_of_and_it_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"problem": "2 + 3", "solution": "5", "input": "x", "text": "all of it", **CHAT}
    shown = said(jsonl(tmp_path / "a.jsonl", row), capsys)
    assert all(f"column '{name}' (1 row)" in shown for name in ("problem", "solution", "input"))


def test_rows_given_to_a_trainer_have_what_is_not_read_counted(
    tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**CHAT, "hint": "Add."}, {**OWN, "hint": "Add."}, {**TEXT, "fold": 3, "id": 9}, TEXT]
    tokenize_problems(rows, tokenizer)
    assert capsys.readouterr().out == ("not read: column 'hint' (2 rows), column 'fold' (1 row)\n")
    multiple_choice_rows([{**OWN, "hint": "Add."}], tokenizer)
    assert capsys.readouterr().out.startswith("train: not read: column 'hint' (1 row)\n")
    tokenize_problems(read_problems("tiny-gsm", limit=3)[0], tokenizer)
    assert capsys.readouterr().out == ""


NOTHING = st.recursive(
    st.sampled_from([None, "", " \n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(nothing=NOTHING, something=st.integers() | st.booleans() | st.text("ab", min_size=1))
def test_a_cell_holds_something_if_anything_in_it_does(nothing: Any, something: Any) -> None:
    assert not holds(nothing)
    assert holds(something)
    assert holds([nothing, {"a": nothing, "b": [something]}])
