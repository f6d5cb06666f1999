"""Input that has no end, or takes hours, is refused with the name of the file; or it is bounded."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problem_rows import GSM, jsonl

from mathsft.data import json_files, local_files, sources
from mathsft.data import text as text_files
from mathsft.data.local_files import iterate_rows
from mathsft.data.problems import load_problems
from mathsft.data.synthetic import rows_of_split
from mathsft.files import nested_too_deep, read_text
from mathsft.generation.journal import open_journal

# --- limit ---------------------------------------------------------------------------------


def write(path: Path, rows: int) -> Path:
    many = [GSM | {"question": f"What is {n}?"} for n in range(rows)]
    if path.name.endswith(".json"):
        path.write_text(json.dumps(many))
    elif path.name.endswith(".csv"):
        lines = [f'"{row["question"]}","{row["answer"]}"' for row in many]
        path.write_text("\n".join(["question,answer", *lines]))
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, many)).encode()))
    elif path.name.endswith(".parquet"):
        from datasets import Dataset

        Dataset.from_list(many).to_parquet(path)
    else:
        jsonl(path, *many)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.parquet"])
def test_a_limit_stops_reading(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def counting(path: Path) -> Iterator[Any]:
        for place, row in iterate_rows(path):
            counted[-1] += 1
            yield place, row

    monkeypatch.setattr(sources, "iterate_rows", counting)
    reads = []
    for rows in (50, 200):
        counted.append(0)
        assert len(load_problems(write(tmp_path / name, rows), limit=10)) == 10
        reads.append(counted[-1])
    assert reads[0] == reads[1] < 20


def test_the_line_says_that_reading_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl(tmp_path / "a.jsonl", GSM, GSM | {"question": ""}, *[GSM] * 5)
    load_problems(path, limit=2)
    said = "a.jsonl: 3 rows read, 2 kept; dropped 1: empty question (row 2); 2 taken, reading"
    assert said in capsys.readouterr().out
    load_problems(path, limit=2, seed=1)  # a shuffle needs all
    assert "7 rows read, 6 kept" in capsys.readouterr().out


def test_an_array_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = []

    def counting(path: Path) -> Iterator[str]:
        for piece in text_files.text_pieces(path):
            pieces.append(piece)
            yield piece

    monkeypatch.setattr(json_files, "text_pieces", counting)
    monkeypatch.setattr(text_files, "_PIECE", 100)
    rows = json_files.json_array(write(tmp_path / "a.json", 500))
    assert [next(rows)[0] for _ in range(3)] == [1, 2, 3]
    assert len(pieces) < 20


def test_generated_questions_end_with_their_number() -> None:
    def make_row(rng: Any) -> dict[str, str]:
        return {"q": f"question {rng.randrange(50)}"}

    with pytest.raises(ValueError, match=r"the split 'train' has about \d+ different questions"):
        rows_of_split(make_row, question_key="q", split="train", limit=100, seed="a")
    for split in ("test", "validation"):
        with pytest.raises(ValueError, match=f"the split '{split}' has about"):
            rows_of_split(make_row, question_key="q", split=split, limit=100, seed="a")


# --- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz"])
def test_a_pipe_or_a_device_is_no_data_file(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    link = tmp_path / "link" / name
    link.parent.mkdir()
    link.symlink_to("/dev/zero")
    for path in (tmp_path / name, link):
        with pytest.raises(ValueError, match="is a pipe, a socket or a device: give a file"):
            load_problems(path)
        with pytest.raises(ValueError, match="is a pipe"):
            open_journal(path, {}, kind="a")
        with pytest.raises(ValueError, match="is a pipe"):
            read_text(path)


def test_a_file_whose_disk_fails_is_named(tmp_path: Path) -> None:
    link = tmp_path / "a.jsonl"
    link.symlink_to("/proc/self/mem")  # its first byte cannot be read
    for read in (load_problems, read_text):
        with pytest.raises(OSError, match=r"a\.jsonl: cannot be read \(Input/output error\)"):
            read(link)


def test_a_small_file_with_an_endless_line_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "LONGEST_LINE", 10_000)
    monkeypatch.setattr(json_files, "LONGEST_LINE", 10_000)
    for name in ("a.jsonl.gz", "a.csv.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"0" * 100_000))
        with pytest.raises(ValueError, match=f"{name}, line 1: more than 10,000 bytes"):
            list(iterate_rows(tmp_path / name))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b'["' + b"0" * 100_000_0))
    with pytest.raises(ValueError, match="line 1: not JSON"):
        list(iterate_rows(tmp_path / "a.json.gz"))
    monkeypatch.setattr(local_files, "_SMALL", 10_000)
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(b"0" * 1_000_000))
    with pytest.raises(ValueError, match="more than 100 times larger when it is unpacked"):
        list(iterate_rows(tmp_path / "a.parquet.gz"))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz"])
def test_blank_lines_without_end_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "_MOST_BLANK", 100)
    monkeypatch.setattr(text_files, "_PIECE", 50)
    (tmp_path / name).write_bytes(gzip.compress(b"\n" * 10_000))
    with pytest.raises(ValueError, match=rf"{name}, line \d+: more than 100 blank lines in a row"):
        list(iterate_rows(tmp_path / name))
    rows = {"a.jsonl.gz": '{"a": 1}', "a.json.gz": '[{"a": 1}]', "a.csv.gz": "1\n"}
    begin = "a\n" if name == "a.csv.gz" else ""
    blank = "\n" * 30
    (tmp_path / name).write_bytes(gzip.compress(f"{begin}{blank}{rows[name]}{blank}".encode()))
    assert len(list(iterate_rows(tmp_path / name))) == 1


@pytest.mark.parametrize(
    "value", ["9" * 5000, "[" * 500 + "]" * 500, "[" * 100_000, '{"a":' * 200 + "1" + "}" * 200]
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_that_python_cannot_hold_names_file_and_row(
    name: str, value: str, tmp_path: Path
) -> None:
    row = f'{{"question": "q", "answer": "1\\n#### 1", "more": {value}}}'
    path = tmp_path / name
    path.write_text(f"{row}\n" if name == "a.jsonl" else f"[{row}]")
    with pytest.raises(ValueError, match=rf"{name}, row 1: not usable as JSON"):
        list(iterate_rows(path))
    for cell in ("messages", "tools", "label"):
        given = {"messages": [], cell: value}
        path.write_text(json.dumps(given) if name == "a.jsonl" else json.dumps([given]))
        with pytest.raises(ValueError, match=rf"{name}"):
            load_problems(path)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.parquet.gz"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    st.integers(0, 400),
)
def test_a_damaged_file_gives_rows_or_one_error_that_names_it(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    changes: list[tuple[int, int]],
    cut: int,
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    if name == "a.parquet.gz":
        data = bytearray(gzip.compress(write(folder / "a.parquet", 3).read_bytes()))
    else:
        data = bytearray(write(folder / name, 3).read_bytes())
    for place, byte in changes:
        data[place % len(data)] = byte
    path = folder / name
    path.write_bytes(data[: len(data) - cut])
    said = name
    try:
        assert all(isinstance(row, dict) for _, row in iterate_rows(path))
    except ValueError as error:
        said = str(error)
    assert name in said


def test_depth_is_of_lists_and_objects() -> None:
    assert not nested_too_deep([{"a": [1] * 1000}] * 1000)
    deep: Any = 1
    for _ in range(101):
        deep = [deep]
    assert nested_too_deep({"a": deep})
    assert not nested_too_deep(deep[0][0])
