"""Every format in every kind of file, and errors that name their place."""

import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_rows import chat
from datasets import Dataset
from pair_rows import GROUP, PAIR, TALK, TALK_GROUP, TALK_UNPAIRED, UNPAIRED
from problem_rows import GSM, MATHQA, OWN, jsonl

from mathsft.data.problems import load_problems, read_problems

ASKED = {"question": "What is 2 + 3?", "solution": "", "answer": "5", "choices": ["4", "5"]}
CHOICES = {**ASKED, "label": 1}
SHARED = {
    "conversations": [
        {"from": "human", "value": "What is 2 + 3?"},
        {"from": "gpt", "value": "It is 5."},
    ]
}
FORMATS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "alpaca": (
        {"instruction": "Add.", "input": "2 + 3", "output": "It is 5."},
        {**chat("Add.\n2 + 3", "It is 5."), "trained_from": 0},
    ),
    "alpaca whole": (
        {
            "system": "Be brief.",
            "history": [["Hi", "Hello."]],
            "instruction": "Add 2 and 3, it's [easy]",
            "input": "",
            "output": "5",
        },
        {**chat("Hi", "Hello.", "Add 2 and 3, it's [easy]", "5", system="Be brief."),
         "trained_from": 0},
    ),
    "sharegpt": (SHARED, {**chat("What is 2 + 3?", "It is 5."), "trained_from": 0}),
    "sharegpt whole": (
        {**SHARED, "system": "Be brief."},
        {**chat("What is 2 + 3?", "It is 5.", system="Be brief."), "trained_from": 0},
    ),
    "arc": (
        {
            "question": "What is 2 + 3?",
            "choices": {"text": ["4", "5"], "label": ["A", "B"]},
            "answerKey": "B",
        },
        CHOICES,
    ),
    "arc in digits": (
        {
            "question": "What is 2 + 3?",
            "choices": {"text": ["4", "5"], "label": ["1", "2"]},
            "answerKey": "2",
        },
        CHOICES,
    ),
    "mmlu": ({"question": "What is 2 + 3?", "choices": ["4", "5"], "answer": 1}, CHOICES),
    "plain": ({"question": "What is 2 + 3?", "choices": ["4", "5"], "label": 1}, CHOICES),
    "plain with its answer": (
        {"question": "What is 2 + 3?", "choices": ["four", "five"], "label": 1, "answer": "5"},
        {**CHOICES, "choices": ["four", "five"]},
    ),
    "unlabelled": (
        {"question": "What is 2 + 3?", "choices": ["4", "5"], "label": -1},
        {**CHOICES, "label": -1, "answer": ""},
    ),
    "aqua": (
        {
            "question": "What is 2 + 3?",
            "options": ["A)4", "B)5"],
            "rationale": "It is 5.",
            "correct": "B",
        },
        {**CHOICES, "solution": "It is 5."},
    ),
    "pair": (PAIR, PAIR),
    "pair of messages": (TALK, TALK),
    "unpaired": (UNPAIRED, UNPAIRED),
    "unpaired messages": (TALK_UNPAIRED, TALK_UNPAIRED),
    "group": (GROUP, GROUP),
    "group of messages": (TALK_GROUP, TALK_GROUP),
    "own": (OWN, OWN),
    "gsm8k": (GSM, {**ASKED, "solution": "2 + 3 = 5.", "choices": [], "label": -1}),
    "mathqa": (
        {**MATHQA, "options": "['a ) 4', 'b ) 5']"},
        {**CHOICES, "question": MATHQA["Problem"], "solution": MATHQA["Rationale"]},
    ),
}  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]], *, nested: Any = json.dumps) -> Path:
    """Write rows in the format of the suffix, without the package's own writers."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if plain.suffix == ".jsonl":
        jsonl(plain, *rows)
    elif plain.suffix == ".json":
        plain.write_text(json.dumps(rows), encoding="utf-8")
    elif plain.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), plain)
    else:
        with plain.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(
                {k: nested(v) if isinstance(v, list | dict) else v for k, v in row.items()}
                for row in rows
            )
    if plain != path:
        path.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    return path


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_from_every_kind_of_file(
    tmp_path: Path, name: str, suffix: str, packed: str
) -> None:
    row, wanted = FORMATS[name]
    path = write(tmp_path / f"rows{suffix}{packed}", [row, row])
    how = {"reading": "clean"} if name == "mathqa" else {}
    found, dropped = read_problems(path, **how)
    assert not dropped
    assert found.to_list() == [{"source": path.name, **wanted}] * 2


@pytest.mark.parametrize("name", ["sharegpt", "arc", "mmlu", "aqua", "group", "own", "pair"])
def test_csv_as_pandas_writes_it_holds_nested_cells_too(tmp_path: Path, name: str) -> None:
    row, wanted = FORMATS[name]
    path = write(tmp_path / "rows.csv", [row], nested=str)
    assert read_problems(path)[0].to_list() == [{"source": path.name, **wanted}]


def test_csv_keeps_texts_as_they_are_and_reads_what_is_said_of_training(tmp_path: Path) -> None:
    odd = ' 007, "[1, 2]"\nand\r\nmore '
    rows = [{"prompt": odd, "completion": "[1, 2]", "weight": n, "train": ""} for n in (1, 0)]
    found, dropped = read_problems(write(tmp_path / "a.csv", rows))
    assert found["prompt"][:] == [odd]
    assert found["completion"][:] == ["[1, 2]"]
    assert dropped == {"with weight 0 or train false": 1}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"question,answer\n", "the file holds no rows"),
        ("a.csv", b"question,answer\na,1\nb\n", "row 2: 1 cells for 2 columns"),
        ("a.csv", b"question,answer\na,1\nb,c,2\n", "row 2: 3 cells for 2 columns"),
        ("a.csv", b'question,answer\na,1\nb,"2\n', "row 2: not CSV (unexpected end of data)"),
        ("a.csv", b"question;answer\na;1\n", "separated by ';', not by commas"),
        ("a.csv", b"question,question\na,1\n", "there are two columns 'question'"),
        ("a.csv", b"question,answer\na,1\n\xff,1\n", "line 3: not UTF-8 (byte 0xff at offset 20)"),
        ("a.jsonl.gz", b"question", "not a whole gzip file"),
        (
            "a.jsonl.gz",
            gzip.compress(json.dumps(GSM).encode() * 9, mtime=0)[:-9],
            "not a whole gzip file",
        ),
        ("a.json.gz", gzip.compress(b"[", mtime=0), "line 1: not JSON"),
        (
            "a.json",
            b'[{"prompt": "a", "completion": "b"} {"a": 2}]',
            "line 1: not JSON (Expecting ',' delimiter at column 37",
        ),
        (
            "a.json",
            b'[{"prompt": "a", "completion": "b"}] x',
            "line 1: not JSON (Extra data at column 38)",
        ),
        ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0), "not a whole parquet file"),
        ("a.txt.gz", b"", "cannot read .txt; give one of .json, .jsonl, .parquet, .csv, also"),
    ],
)
def test_a_broken_file_is_an_error_that_names_the_place(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(name) + ".*" + re.escape(message)):
        load_problems(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ["4", 5]}, "column 'choices': expected a list of texts"),
        ({"label": 1.0}, "column 'label': expected an index or a letter, found float"),
        ({"label": None, "answer": True}, "column 'answer': expected an index or a letter"),
        ({"label": ...}, "no column says which choice is right. Add one of: label, answerKey"),
        ({"question": 3}, "column 'question': expected text"),
    ],
)
def test_choices_of_another_form_name_row_and_column(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    good = FORMATS["plain"][0]
    bad = {key: value for key, value in (good | change).items() if value is not ...}
    with pytest.raises(ValueError, match=r"a\.jsonl, row 2.*" + re.escape(message)):
        read_problems(jsonl(tmp_path / "a.jsonl", good, bad))


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"choices": ["6", "5"], "answer": "5"}, 1),  # beyond the choices as an index
        ({"choices": ["four", "five"], "answer": "five"}, 1),
        ({"choices": ["0", "1"], "answer": "1"}, 1),  # the same either way
        ({"choices": ["7", "8"], "answer": "1"}, 1),
        ({"choices": {"text": ["7", "8"], "label": ["1", "2"]}, "answerKey": 2}, 1),
    ],
)
def test_the_right_choice_may_be_its_text(tmp_path: Path, row: dict[str, Any], label: int) -> None:
    (found,) = read_problems(jsonl(tmp_path / "a.jsonl", {"question": "2 + 3?", **row}))[0]
    assert found["label"] == label


@pytest.mark.parametrize(
    ("choices", "answer", "named"), [(["1", "2", "3"], "2", "3"), (["B", "A", "C"], "A", "B")]
)
def test_a_text_that_may_be_two_choices_is_an_error(
    tmp_path: Path, choices: list[str], answer: str, named: str
) -> None:
    row = {"question": "1 + 1?", "choices": choices, "answer": answer}
    told = f"'{answer}' may be choice {choices.index(named)}, counted from 0, which is '{named}'"
    with pytest.raises(ValueError, match=told):
        read_problems(jsonl(tmp_path / "a.jsonl", row))


def test_what_an_alpaca_row_is_about_is_not_left_out(tmp_path: Path) -> None:
    row = {"instruction": "Sum it up.", "context": "A long story.", "response": "Short."}
    path = jsonl(tmp_path / "dolly.jsonl", row)
    with pytest.raises(ValueError, match=r"column 'context' holds 'A long story\.'"):
        load_problems(path, columns={"output": "response"})
    found = load_problems(path, columns={"output": "response", "input": "context"})
    assert "A long story." in found[0]["messages"][0]["content"]


def test_lists_in_numpys_form_are_refused(tmp_path: Path) -> None:
    rows = Dataset.from_list([{"question": "q", "choices": ["4", "5", "6"], "answer": 0}])
    rows.to_csv(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"found .*'4' '5' '6'.* \(NumPy's form has no commas"):
        load_problems(tmp_path / "a.csv")


def test_a_number_in_csv_stays_a_number_in_a_column_with_a_custom_name(tmp_path: Path) -> None:
    row = {"question": "2 + 3?", "solution": "", "answer": "5", "choices": ["4", "5"], "gold": 1}
    path = write(tmp_path / "a.csv", [row])
    assert load_problems(path, columns={"label": "gold"})[0]["label"] == 1


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("plain", {"label": 2}, "label beyond the choices"),
        ("mmlu", {"answer": "C"}, "label beyond the choices"),
        ("mmlu", {"answer": "five"}, "label is none of the choices' letters"),
        ("arc", {"answerKey": "C"}, "label is none of the choices' letters"),
        ("aqua", {"correct": "E"}, "label beyond the choices"),
        ("aqua", {"options": ["4", "5"]}, "options not in the form 'A)…', 'B)…'"),
        ("alpaca", {"output": " "}, "empty output"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_and_counted(
    tmp_path: Path, name: str, change: dict[str, Any], reason: str
) -> None:
    good = FORMATS[name][0]
    assert read_problems(jsonl(tmp_path / "a.jsonl", good, good | change))[1] == {reason: 1}
