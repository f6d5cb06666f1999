"""Bad input: a broken file is one clear error, an unusable row is a counted drop."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from problem_rows import CHAT, GSM, MATHQA, OWN, jsonl

from mathsft.data.problems import load_problems, read_problems


def test_missing_paths_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl: there is no such file"):
        load_problems(tmp_path / "none.jsonl")
    with pytest.raises(IsADirectoryError, match="is a folder: give one file"):
        load_problems(tmp_path)


GOOD = json.dumps(GSM).encode()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", "a.jsonl: the file holds no rows"),
        ("a.jsonl", b"\n \n", "a.jsonl: the file holds no rows"),
        ("a.json", b"", "a.json: the file holds no rows"),
        ("a.json", b"[]", "a.json: the file holds no rows"),
        ("a.parquet", b"", "a.parquet: not a whole parquet file"),
        ("a.parquet", b"PAR1 and no more", "a.parquet: not a whole parquet file"),
        ("a.jsonl", GOOD + b"\n" + GOOD[:30], "a.jsonl, row 2: not a whole JSON object"),
        ("a.json", b"[" + GOOD + b",\n" + GOOD[:30], "a.json, line 2: not JSON"),
        ("a.json", GOOD + b"\n" + GOOD, "name the file .jsonl"),
        ("a.json", GOOD, "a.json: expected one array of objects, found dict"),
        ("a.jsonl", GOOD + b"\n[1]", "a.jsonl, row 2: expected an object with named columns"),
        ("a.jsonl", GOOD + b"\n\n\xff\xfe", "a.jsonl, line 3: not UTF-8 (byte 0xff"),
        ("a.json", b"[\n\n" + GOOD.replace(b"What", b"\xe9"), "a.json, line 3: not UTF-8"),
    ],
)
def test_a_broken_file_is_an_error_that_names_the_place(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_problems(path)


@pytest.mark.parametrize(
    ("good", "change", "message"),
    [
        (GSM, {"answer": ...}, "row 3: column 'answer' is missing; the row has 'question'"),
        (GSM, {"question": ...}, "row 3: column 'question' is missing"),
        (GSM, {"question": 5}, "row 3, column 'question': expected text, found int (5)"),
        (CHAT, {"RESPONSE": ...}, "row 3: column 'RESPONSE' is missing"),
        (MATHQA, {"correct": ...}, "row 3: column 'correct' is missing"),
        (MATHQA, {"options": ["1", "2"]}, "row 3, column 'options': expected text, found list"),
        (OWN, {"label": ...}, "row 3: column 'label' is missing"),
        (OWN, {"label": "1"}, "row 3, column 'label': expected int, found str"),
        (OWN, {"choices": "4, 5"}, "row 3, column 'choices': expected list, found str"),
        (OWN, {"choices": [4, 5]}, "row 3, column 'choices': expected a list of texts"),
    ],
)
def test_a_missing_column_or_another_type_names_row_and_column(
    tmp_path: Path, good: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    bad = {key: value for key, value in (good | change).items() if value is not ...}
    path = jsonl(tmp_path / "a.jsonl", good, good, bad)
    with pytest.raises(ValueError, match=re.escape(f"a.jsonl, {message}")):
        read_problems(path, test_questions=[], train_questions=[])


def test_foreign_columns_name_the_known_schemas(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="columns 'text' belong to no known schema; expected"):
        load_problems(jsonl(tmp_path / "a.jsonl", {"text": "hello"}))


@pytest.mark.parametrize(
    ("good", "change", "reason"),
    [
        (GSM, {"question": "  "}, "empty question"),
        (GSM, {"question": None}, "empty question"),
        (GSM, {"answer": ""}, "empty answer"),
        (GSM, {"answer": "#### 5"}, "empty solution"),
        (GSM, {"answer": "I do not know."}, "no final answer in the solution"),
        (GSM, {"answer": "It is 5.\n#### ?"}, "no final answer in the solution"),
        (MATHQA, {"Problem": ""}, "empty Problem"),
        (MATHQA, {"correct": "f"}, "label is not one of the letters a to e"),
        (MATHQA, {"correct": "ab"}, "label is not one of the letters a to e"),
        (MATHQA, {"options": "a ) 4 , b ) 5 , ", "correct": "e"}, "label beyond the choices"),
        (MATHQA, {"options": "4, 5, 6"}, "options not in the form 'a ) … , b ) …'"),
        (OWN, {"question": ""}, "empty question"),
        (OWN, {"label": 2}, "label beyond the choices"),
        (OWN, {"label": -2}, "label beyond the choices"),
    ],
)
def test_an_unusable_row_is_dropped_counted_and_shown(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    good: dict[str, Any],
    change: dict[str, Any],
    reason: str,
) -> None:
    path = jsonl(tmp_path / "a.jsonl", good, good | change, good, good | change)
    assert read_problems(path)[1] == {reason: 2}
    assert len(load_problems(path)) == 2
    shown = f"a.jsonl: 4 rows read, 2 kept; dropped 2: {reason} (rows 2, 4)\n"
    assert capsys.readouterr().out == shown


def test_a_file_without_a_usable_row_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", GSM | {"question": ""})
    with pytest.raises(ValueError, match=r"no usable row; .*dropped 1: empty question \(row 1\)"):
        load_problems(path)


def test_json_lines_may_have_a_byte_order_mark_blank_lines_and_unicode_line_ends(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.jsonl"
    row = json.dumps(GSM | {"question": "What\u2028now?"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{row}\r\n\r\n{row}".encode())
    assert load_problems(path)["question"][:] == ["What\u2028now?"] * 2


def test_half_a_character_is_an_error_that_names_row_and_column(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "How many \ud83d?", "answer": "1\n#### 1"}))
    with pytest.raises(ValueError, match=r"a\.jsonl, row 1, column 'question': half a character"):
        read_problems(path)


def test_question_and_solution_alone_give_an_error_that_names_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "What?", "solution": "It is 1."}))
    with pytest.raises(ValueError, match="name the columns question, answer"):
        read_problems(path)
