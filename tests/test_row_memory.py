"""Rows are stored on disk: few are in memory, they are converted once, a stream holds none."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from chat_rows import chat
from hub import LocalHub, local_hub  # noqa: F401  (local_hub is a fixture)
from problem_rows import GSM, jsonl

from mathsft.data import conversion
from mathsft.data.problems import read_problems

ROWS = 50_000
# A second start finds the converted rows; converting a row again is an error.
SECOND = """
import mathsft.data.readers as readers
def refuse(*_, **__):
    raise AssertionError("converted again")
readers.Format.read = refuse
"""
MEASURE = """
import json, sys
from mathsft.data.problems import load_problems
def peak():  # not getrusage's peak, which a child process inherits
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
load_problems("tiny-gsm", limit=2)  # imports
{patch}
before = peak()
rows = load_problems(sys.argv[1])
print(json.dumps([(peak() - before) / 1e6, len(rows), rows[len(rows) - 1], str(rows.features)]))
"""
# Loads, tokenises and packs rows; a model is in memory before and after.
TOKENISE = """
import json, sys
from mathsft import SFT, load_model, load_problems
from mathsft.training.rows import training_rows
sys.path.insert(0, sys.argv[2])
from chat_rows import chat, with_template
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
model, tokenizer = load_model("tiny", lora=True, device="cpu")
with_template(tokenizer)
training_rows([chat("Hi", "Hello.")] * 600, tokenizer, SFT())  # imports
if sys.argv[3:]:
    def refuse(*_, **__):
        raise AssertionError("tokenised again")
    SFT.groups = refuse
before = peak()
rows = training_rows(load_problems(sys.argv[1]), tokenizer, SFT())
print(json.dumps([(peak() - before) / 1e6, len(rows)]))
"""
STREAM = """
import resource, sys
from mathsft.data.problems import load_problems
load_problems("tiny-gsm", limit=2, streaming=True)  # imports and caches
held = int(open("/proc/self/status").read().split("VmData:")[1].split()[0]) * 1024
limit = held + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
rows = load_problems(sys.argv[1], streaming=True)
count = sum(1 for _ in rows)
print(count)
try:
    held = open(sys.argv[1], "rb").read()
except MemoryError:
    print("the file does not fit")
"""


TRAIN = """
import resource, sys
from mathsft import SFT, load_model, load_problems, make_trainer
sys.path.insert(0, sys.argv[3])
from chat_rows import chat, with_template
model, tokenizer = load_model("tiny", lora=True, device="cpu")
with_template(tokenizer)
def train(rows):
    how = {"max_steps": 2, "max_length": 128, "disable_tqdm": True, "output_dir": sys.argv[4]}
    make_trainer(model, tokenizer, rows, SFT(), **how).train()
train([chat("Hi", "Hello.")] * 40)  # imports, and what a step allocates
held = int(open("/proc/self/status").read().split("VmData:")[1].split()[0]) * 1024
limit = held + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    whole = open(sys.argv[1], "rb").read()
except MemoryError:
    print("the file does not fit")
for streaming in (False, True):
    train(load_problems(sys.argv[1], streaming=streaming))
"""


def python(code: str, *arguments: Any, cache: Path, torch: str = "0") -> list[str]:
    """Return the lines that a new process prints, with its own cache; without torch it is quick."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={
            **os.environ,
            "HF_DATASETS_CACHE": str(cache),
            "USE_TORCH": torch,
        },  # 0: quick to import
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def many_chats(path: Path, rows: int, *, characters: int) -> Path:
    text = "and one more, " * (characters // 28)
    with path.open("w", encoding="utf-8") as file:
        for n in range(rows):
            row = chat(f"What is {n} + 2, {text}?", f"It is {n + 2}, {text}.")
            if n == rows - 1:
                row["messages"][1]["train"] = True  # all earlier rows need the key too
            file.write(json.dumps(row if n else {"messages": []}) + "\n")
    return path


@pytest.mark.slow
def test_fifty_thousand_chats_take_no_memory_and_are_converted_once(tmp_path: Path) -> None:
    path = many_chats(tmp_path / "chats.jsonl", ROWS, characters=1000)
    first = python(MEASURE.format(patch=""), path, cache=tmp_path / "cache")
    second = python(MEASURE.format(patch=SECOND), path, cache=tmp_path / "cache")
    del first[0], second[0]  # the line about tiny-gsm
    line = "chats.jsonl: 50,000 rows read, 49,999 kept; dropped 1: without an assistant turn"
    assert first[0] == second[0] == f"{line} (row 1)"
    (more, *found), (again, *same) = json.loads(first[1]), json.loads(second[1])
    assert found == same
    assert found[0] == ROWS - 1
    assert found[1]["messages"][1]["train"] is True
    assert more < 0.1  # GB; measured: 0.06, and the rows as Python objects take 0.11
    assert again < 0.03


@pytest.mark.slow
def test_fifty_thousand_chats_are_tokenised_once_in_little_memory(tmp_path: Path) -> None:
    path = many_chats(tmp_path / "chats.jsonl", ROWS, characters=400)
    given = (TOKENISE, path, Path(__file__).parent)
    *_, line, first = python(*given, cache=tmp_path / "cache", torch="1")
    *_, same, second = python(*given, "again", cache=tmp_path / "cache", torch="1")
    assert line == same
    assert line.startswith("train: 49,999 documents of ")
    (more, packed), (again, found) = json.loads(first), json.loads(second)
    assert packed == found
    assert more < 0.3  # GB beside the model
    assert again < 0.1


def test_a_stream_reads_a_file_that_memory_cannot_hold(tmp_path: Path) -> None:
    path = many_chats(tmp_path / "chats.jsonl", 5_000, characters=6_000)
    assert path.stat().st_size > 25e6
    line, count, refused = python(STREAM, path, 15_000_000, cache=tmp_path / "cache")
    assert line.startswith("chats.jsonl: 5,000 rows read, 4,999 kept; dropped 1: ")
    assert (count, refused) == ("4999", "the file does not fit")


@pytest.mark.slow
def test_a_training_over_a_file_that_memory_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for n in range(5000):
            row = {"id": "x" * 27_000, **chat(f"What is {n} + 2?", f"It is {n + 2}.")}
            file.write(json.dumps(row) + "\n")
    room = 80_000_000  # two runs take 45 MB of it, and briefly more
    assert path.stat().st_size > room * 1.6
    printed = python(
        TRAIN, path, room, Path(__file__).parent, tmp_path / "run", cache=tmp_path / "c", torch="1"
    )
    assert "the file does not fit" in printed
    trained = [line for line in printed if line.startswith("train: 5,000 documents of ")]
    assert len(trained) == 2
    assert trained[0] == trained[1]
    assert sum(line.startswith("{'train_runtime'") for line in printed) == 3


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache folder; small sources are kept in it too."""
    monkeypatch.setattr(conversion, "_SMALL", 0)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "mathsft"


def test_a_file_is_converted_again_only_if_its_rows_would_change(
    kept: Path, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "a.jsonl", GSM, GSM)
    every, dropped = read_problems(path)
    assert read_problems(path, limit=1)[0].to_list() == every.to_list()[:1]
    assert read_problems(path, seed=1)[1] == dropped
    assert len(list(kept.iterdir())) == 2  # all rows, and those up to the limit
    jsonl(path, GSM, {**GSM, "question": ""}, {**GSM, "question": "New?"})
    found, dropped = read_problems(path)
    assert found["question"][:] == [GSM["question"], "New?"]
    assert read_problems(path)[1] == dropped == {"empty question": 1}
    named, _ = read_problems(path, columns={"question": "question"})
    assert named.to_list() == found.to_list()
    assert len(list(kept.iterdir())) == 4


def test_nothing_is_kept_of_a_file_that_is_broken_in_the_middle(kept: Path, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *[GSM] * 2500, {"question": 5})
    for _ in range(2):
        with pytest.raises(ValueError, match="row 2501"):
            read_problems(path)
    assert not list(kept.iterdir())


def test_without_the_cache_rows_lie_in_a_temporary_folder(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "is_caching_enabled", lambda: False)
    found = read_problems(jsonl(tmp_path / "a.jsonl", GSM))[0]
    assert found.cache_files
    assert len(found) == 1
    assert not kept.exists()


@pytest.mark.parametrize("small", [True, False])
def test_a_key_that_only_a_late_row_has_is_null_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    monkeypatch.setattr(conversion, "_SMALL", 10**9 if small else 0)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    talks: list[dict[str, Any]] = [chat(f"{n}?", "Yes.") for n in range(2500)]
    talks[2100]["messages"][1]["weight"] = 0
    talks[2100]["messages"] += chat("Sure?", "No.")["messages"]
    talks[2499]["tools"] = [{"type": "function"}]
    found = read_problems(jsonl(tmp_path / "a.jsonl", *talks))[0]
    assert bool(found.cache_files) is not small
    turns = [turn for row in found for turn in row["messages"]]
    assert [n for n, turn in enumerate(turns) if turn["train"] is not None] == [4201]
    assert [n for n, tools in enumerate(found["tools"]) if tools] == [2499]
    assert found["messages"][2499] == [{**t, "train": None} for t in talks[2499]["messages"]]
