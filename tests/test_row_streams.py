"""A stream gives the file's rows in every pass: counted, never held, never in another form."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chat_rows import chat
from datasets import Dataset
from hub import LocalHub, local_hub  # noqa: F401  (local_hub is a fixture)
from pair_rows import PAIR, TALK
from problem_rows import GSM, OWN, jsonl

from mathsft.data.contamination import without_test_rows
from mathsft.data.problems import load_problems, read_problems


def held(value: Any) -> Any:
    """Remove what is null: a stream has all columns and keys that its rows might have."""
    if isinstance(value, dict):
        return {key: held(item) for key, item in value.items() if item is not None}
    return [held(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("row", [GSM, OWN, PAIR, TALK, chat("a?", "b")], ids=str)
def test_a_stream_has_the_rows_of_the_file_in_every_pass(
    tmp_path: Path, row: dict[str, Any], suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {**row, "weight": 0}
    write = {".json": "", ".jsonl": "to_json", ".csv": "to_csv", ".parquet": "to_parquet"}[suffix]
    path = tmp_path / f"a{suffix}"
    rows = [{**row, "weight": 1}, bad, {**row, "weight": 1}]
    if suffix == ".csv":
        rows = [
            {k: json.dumps(v) if isinstance(v, list) else v for k, v in one.items()} for one in rows
        ]
    if suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        getattr(Dataset.from_list(rows), write)(path)
    wanted = held(load_problems(path).to_list())
    line = capsys.readouterr().out
    stream = load_problems(path, streaming=True)
    assert capsys.readouterr().out == ""
    for _ in range(2):
        assert held(list(stream)) == wanted
        assert capsys.readouterr().out == line
    assert list(stream.features) == list(next(iter(stream)))


def test_a_stream_is_shuffled_cut_and_says_if_it_was_not_read_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl(tmp_path / "a.jsonl", *[{**GSM, "question": f"{n}?"} for n in range(50)])
    every = read_problems(path)[0]["question"][:]
    questions = [row["question"] for row in load_problems(path, streaming=True, seed=1)]
    assert sorted(questions) == sorted(every) != questions
    capsys.readouterr()
    some = list(load_problems(path, streaming=True, limit=3))
    assert [row["question"] for row in some] == every[:3]
    assert re.search(
        r"a\.jsonl: \d rows read, \d kept; not read to its end\n", capsys.readouterr().out
    )


def test_test_questions_are_left_out_of_a_stream_in_every_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl(tmp_path / "a.jsonl", *[{**GSM, "question": f"{n} + 2?"} for n in range(9)])
    test = read_problems(path)[0].select([2, 5])
    stream = load_problems(path, streaming=True, seed=3)
    left = without_test_rows(stream, test)
    assert "2 of 9 rows left out" in capsys.readouterr().out
    for epoch in range(2):
        left.set_epoch(epoch)  # another order
        questions = {row["question"] for row in left}
        assert questions == {f"{n} + 2?" for n in range(9) if n not in (2, 5)}


def test_a_row_of_another_form_ends_a_stream_with_its_place(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", PAIR, TALK)
    with pytest.raises(ValueError, match=r"a\.jsonl, row 2: another kind of row, or text in place"):
        list(load_problems(path, streaming=True))
    with pytest.raises(ValueError, match="no usable row"):
        load_problems(jsonl(tmp_path / "b.jsonl", {**PAIR, "chosen": ""}), streaming=True)


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_streamed(
    local_hub: LocalHub,  # noqa: F811
    tmp_path: Path,
) -> None:
    folder = local_hub.folder("datasets", "someone/pairs") / "data"
    folder.mkdir()
    Dataset.from_list([PAIR] * 3).to_parquet(folder / "test-00000-of-00001.parquet")
    done = local_hub.python(
        "import os\nos.environ['USE_TORCH'] = '0'  # quick to import\n"
        "from mathsft.data.problems import load_problems\n"
        "rows = load_problems('someone/pairs', split='test', streaming=True)\n"
        "print([row['chosen'] for row in rows])\n",
        home=tmp_path / "home",
    )
    assert done.returncode == 0, done.stderr
    line = "someone/pairs/test: 3 rows read, 3 kept"
    assert done.stdout.splitlines() == [line, str([PAIR["chosen"]] * 3)]
