"""Rejection sampling: best and worst as a pair, nothing lost, resumed to the byte."""

import json
from pathlib import Path
from typing import Any

import pytest
from children import child
from model_files import base, trained
from torchrun import torchrun
from transformers import AutoTokenizer

from mathsft.data.local_files import write_rows
from mathsft.data.problems import read_problems
from mathsft.data.prompts import sft_prompt
from mathsft.generation import judged, selection
from mathsft.generation.rewards import FinalAnswer
from mathsft.generation.rollouts import Completion
from mathsft.generation.selection import rejection_sampling
from mathsft.in_use import claimed_file
from mathsft.models.loading import load_model
from mathsft.objectives.preference import DPO
from mathsft.training.make import make_trainer

ROWS = [{"question": f"Tom has {n} pens.", "answer": str(n), "id": f"p{n}"} for n in range(5)]
HOW: Any = {"num_generations": 4, "max_new_tokens": 8, "batch_size": 8}


@pytest.fixture(scope="module")
def loaded(small_model_dir: Path) -> Any:
    """The small model, with a random adapter that lets it end most answers early."""
    model = base(small_model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(small_model_dir)
    ends = tokenizer.eos_token_id
    model.lm_head.weight.data[ends] = model.lm_head.weight.data.mean(0)
    model.generation_config.eos_token_id = [ends, *range(10, 60)]
    return model, tokenizer


def digits(completions: list[str], **columns: Any) -> list[float]:
    assert len(columns["answer"]) == len(columns["ended"]) == len(completions)
    return [float(len(text)) for text in completions]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("selection") / "pairs.jsonl"
    return path, rejection_sampling(*loaded, ROWS, digits, output=path, **HOW)


def test_each_row_is_a_line_with_its_best_and_worst_whole_answer(whole: Any) -> None:
    path, found = whole
    header, *rows = lines(path)
    assert header["settings"]["reward"] == "digits"
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    pairs = [row for row in rows if "skipped" not in row]
    assert pairs
    for row in rows:
        assert row["prompt"] == sft_prompt(f"Tom has {row['id'][1:]} pens.")
        assert len(row["rewards"]) == 4
    for row in pairs:
        assert row["score_chosen"] == len(row["chosen"]) > row["score_rejected"]
        assert row["score_chosen"] in row["rewards"]
        assert row["score_rejected"] == len(row["rejected"]) > 0
    assert [row["id"] for row in found.rows] == [row["id"] for row in pairs]
    assert found.counts["rows"] == 5
    assert found.counts["answers cut"] == sum(row["cut"] for row in rows) > 0


@pytest.mark.parametrize("left", [0, 20, 800, 1400, -3, None])
def test_a_killed_run_ends_with_the_same_file(
    loaded: Any, whole: Any, tmp_path: Path, left: int | None
) -> None:
    """The file is cut at a place as a kill leaves it, also inside a line or the first one."""
    path, found = whole
    again = tmp_path / "pairs.jsonl"
    data = path.read_bytes()[:left]
    again.write_bytes(data)
    resumed = rejection_sampling(*loaded, ROWS, digits, output=again, **HOW)
    assert again.read_bytes() == path.read_bytes()
    assert resumed.rows == found.rows
    half = bool(data) and not data.endswith(b"\n")
    assert resumed.counts == found.counts | ({"lines repaired": 1} if half else {})


def test_a_reward_that_raises_stops_and_keeps_the_rows_before(
    loaded: Any, whole: Any, tmp_path: Path
) -> None:
    path, _ = whole
    again = tmp_path / "pairs.jsonl"

    def fails(completions: list[str], **columns: Any) -> list[float]:
        if "3" in columns["answer"]:
            raise KeyError("no such judge")
        return digits(completions, **columns)

    fails.__name__ = "digits"
    with pytest.raises(Exception, match="no such judge"):
        rejection_sampling(*loaded, ROWS, fails, output=again, **HOW)
    assert [row["id"] for row in lines(again)[1:]] == ["p0", "p1"]
    rejection_sampling(*loaded, ROWS, digits, output=again, **HOW)
    assert again.read_bytes() == path.read_bytes()


def test_a_finished_file_is_read_without_sampling(
    loaded: Any, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, found = whole
    monkeypatch.delattr(judged, "sample_groups")
    assert rejection_sampling(*loaded, ROWS, digits, output=path, **HOW) == found
    part = rejection_sampling(*loaded, ROWS[:2], digits, output=path, **HOW)
    assert part.counts["rows"] == 2
    assert part.counts["other rows in the file"] == 3


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seed": 1}, "begun with seed=0, now it is 1"),
        ({"num_generations": 5}, "num_generations=4"),
        ({"temperature": 0.5}, "temperature=1.0"),
        ({"min_gap": 1.0}, "min_gap=0.0"),
        ({"reward": FinalAnswer()}, "reward='digits', now it is 'final_answer"),
    ],
)
def test_another_setting_than_in_the_file_is_named(
    loaded: Any, whole: Any, changed: dict[str, Any], told: str
) -> None:
    given = {"reward": digits, "output": whole[0], **HOW, **changed}
    with pytest.raises(ValueError, match=told):
        rejection_sampling(*loaded, ROWS, **given)


def test_other_weights_than_in_the_file_are_refused(
    loaded: Any, whole: Any, small_model_dir: Path
) -> None:
    model = trained(base(small_model_dir)).eval()
    with pytest.raises(ValueError, match="begun with model="):
        rejection_sampling(model, loaded[1], ROWS, digits, output=whole[0], **HOW)


def test_another_prompt_for_an_id_is_refused(loaded: Any, whole: Any) -> None:
    rows = [{**ROWS[0], "question": "Ann has 2 cats."}]
    with pytest.raises(ValueError, match="id 'p0' has another prompt"):
        rejection_sampling(*loaded, rows, digits, output=whole[0], **HOW)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: b"my notes\n" + data, "holds something else than rejection sampling"),
        (lambda data: data.replace(b'"p1"', b'"p0"', 1), "line 3: no id, or one that is there"),
        (lambda data: data.replace(b'{"id": "p1"', b"{id", 1), "line 3: not valid JSON"),
        (lambda data: data + b"[1]\n", "is not an object"),
    ],
)
def test_a_file_that_is_broken_or_not_ours_is_left_as_it_is(
    loaded: Any, whole: Any, tmp_path: Path, change: Any, told: str
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(data := change(whole[0].read_bytes()))
    with pytest.raises(ValueError, match=told):
        rejection_sampling(*loaded, ROWS, digits, output=path, **HOW)
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([ROWS[0], ROWS[1], ROWS[0]], "rows 0 and 2 have the same id, 'p0'"),
        ([{"prompt": "a"}, {"prompt": "b", "id": 0}], "rows 0 and 1 have the same id, 0"),
        ([{"prompt": [{"role": "user", "content": "Hi"}]}], "row 0: expected a text"),
        ([{"answer": "4"}], "row 0: expected a text"),
        ([{"prompt": "a", "id": 1.5}], "row 0, column 'id'"),
        ([], "there are no rows"),
        ("pairs.jsonl", "rows are expected, found a text"),
    ],
)
def test_rows_that_cannot_be_used_are_named(
    loaded: Any, tmp_path: Path, rows: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        rejection_sampling(*loaded, rows, digits, output=tmp_path / "x.jsonl")
    assert not list(tmp_path.iterdir())


def given_answers(*answers: tuple[str, float, bool]) -> Any:
    group = [Completion([1], text, ended, [0.0]) for text, _, ended in answers]
    return group, [reward for _, reward, _ in answers]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([("a", 1.0, True), ("b", 0.0, True), ("c", 0.5, True)], ("a", "b", 1.0, 0.0)),
        ([("a", 1.0, True), ("b", 1.0, True), ("c", 0.0, True)], ("a", "c", 1.0, 0.0)),
        ([("a", 9.0, False), ("b", 1.0, True), ("c", 0.0, True)], ("b", "c", 1.0, 0.0)),
        ([("", 9.0, True), ("b", 1.0, True), ("c", 0.0, True)], ("b", "c", 1.0, 0.0)),
        ([("A.", 1.0, True), ("a", 1.0, True), ("b", 0.0, True)], ("A.", "b", 1.0, 0.0)),
        ([("a", 1.0, True), ("b", 1.0, True)], selection.TIE),
        ([("a", 1.0, True), ("b", 0.8, True)], selection.SMALL),
        ([("a", 1.0, True), ("A.", 0.0, True)], selection.DISPUTED),
        ([("a", 1.0, True), ("b", 0.0, False)], selection.FEW),
    ],
)
def test_the_pair_or_the_reason_why_there_is_none(answers: Any, expected: Any) -> None:
    made = selection._pair(*given_answers(*answers), min_gap=0.25)
    if isinstance(expected, str):
        assert made["skipped"] == expected
    else:
        names = ("chosen", "rejected", "score_chosen", "score_rejected")
        assert tuple(made[name] for name in names) == expected
    assert made["cut"] == sum(not ended for _, _, ended in answers)
    assert made["empty"] == sum(not text for text, _, _ in answers)


def test_the_pairs_are_read_from_a_file_and_trained_on(
    loaded: Any, whole: Any, tmp_path: Path, small_model_dir: Path
) -> None:
    from datasets import Dataset

    rows = whole[1].rows
    path = write_rows(Dataset.from_list(rows), tmp_path / "rows.jsonl")
    read, _ = read_problems(path)
    assert [row["chosen"] for row in read] == [row["chosen"] for row in rows]
    model, tokenizer = load_model(small_model_dir, lora={"r": 2}, device="cpu")
    trainer = make_trainer(
        model, tokenizer, rows, DPO(), output_dir=tmp_path, max_steps=1, disable_tqdm=True
    )
    trainer.train()


def test_the_tiny_model_makes_pairs_of_right_and_wrong_answers(tmp_path: Path) -> None:
    """Before any training, it rarely solves a problem: most rows are ties, and are counted."""
    model, tokenizer = load_model("tiny", device="cpu")
    rows = read_problems("tiny-gsm", split="validation", limit=4)[0]
    found = rejection_sampling(
        model.eval(),
        tokenizer,
        rows,
        FinalAnswer(),
        output=tmp_path / "deep" / "pairs.jsonl",
        num_generations=4,
        max_new_tokens=48,
    )
    skipped = {selection.TIE, selection.SMALL, selection.DISPUTED, selection.FEW}
    assert sum(n for name, n in found.counts.items() if name in {*skipped, "pairs"}) == 4


SCRIPT = """
import sys
from mathsft.generation.selection import rejection_sampling
from mathsft.models.loading import load_model

def length(completions, **columns):
    return [float(len(text)) for text in completions]

model, tokenizer = load_model("tiny", device="cpu")
rows = [{"prompt": f"{n} + 2 ="} for n in range(7)]
how = {"num_generations": 4, "max_new_tokens": 8, "batch_size": 8}
rejection_sampling(model, tokenizer, rows, length, output=sys.argv[1], **how)
"""


@pytest.mark.slow
def test_two_processes_write_the_file_of_one(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    for count in (1, 2):
        torchrun(script, tmp_path / f"{count}.jsonl", processes=count)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()
    assert len(lines(tmp_path / "1.jsonl")) == 8


def test_two_at_once_do_not_write_one_file(loaded: Any, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    (tmp_path / "link.jsonl").symlink_to(path)

    def hold(pipe: Any) -> None:
        with claimed_file(path, device="cpu"):
            pipe.send("held")
            pipe.recv()

    with child(hold) as process:
        process.pipe.recv()
        for name in ("pairs.jsonl", "link.jsonl"):
            with pytest.raises(ValueError, match=f"{name} is in use: another process adds to it"):
                rejection_sampling(*loaded, ROWS, digits, output=tmp_path / name, **HOW)
        assert not path.exists()
    rejection_sampling(*loaded, ROWS[:1], digits, output=path, **HOW)  # the process was killed
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.jsonl", "pairs.jsonl"]
