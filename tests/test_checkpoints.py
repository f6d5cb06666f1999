"""Only whole checkpoints of the same run are gone on from, and copies are whole or not there."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import PROBLEMS, trainer, weights
from transformers.trainer_utils import get_last_checkpoint

from mathsft.training import checkpoints
from mathsft.training.checkpoints import (
    MANIFEST,
    checkpoint_problem,
    copy_checkpoint,
    newest_checkpoint,
    rotate,
    write_manifest,
)


@pytest.fixture(scope="module")
def written(small_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real training's folder with checkpoints 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("training")
    trainer(small_model_dir, folder).train()
    return folder


@pytest.fixture
def training(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "training"))


def same_run(run: dict[str, Any]) -> list[str]:
    return []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(bytes(data))


FILES = (
    "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth",
    "trainer_state.json", "run.json",
)  # fmt: skip


@pytest.mark.parametrize("manifest", [True, False], ids=["manifest", "no manifest"])
@pytest.mark.parametrize("damage", [cut, emptied, Path.unlink], ids=["cut", "empty", "absent"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_found_and_the_checkpoint_before_it_is_taken(
    training: Path, name: str, damage: Any, manifest: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = training / "checkpoint-6"
    assert checkpoint_problem(newest) is None
    damage(newest / name)
    if not manifest:
        (newest / MANIFEST).unlink()
    taken = newest_checkpoint([training], of_this_run=same_run)
    assert taken == training / "checkpoint-4"
    told = capsys.readouterr().out
    assert "checkpoint-6" in told
    assert name.removesuffix(".pth") in told or "holds no weights" in told


def test_a_single_changed_byte_is_found_by_the_manifest(training: Path) -> None:
    altered(training / "checkpoint-6" / "adapter_model.safetensors")
    problem = checkpoint_problem(training / "checkpoint-6")
    assert problem == "adapter_model.safetensors holds something else than what was written"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"other": 1}'])
def test_a_damaged_manifest_counts_as_damage(training: Path, content: str) -> None:
    (training / "checkpoint-6" / MANIFEST).write_text(content)
    assert checkpoint_problem(training / "checkpoint-6") == "its manifest.json is damaged"


def test_without_its_manifest_a_checkpoint_whose_files_all_open_is_whole(training: Path) -> None:
    (training / "checkpoint-6" / MANIFEST).unlink()
    assert checkpoint_problem(training / "checkpoint-6") is None


def test_weights_alone_can_be_evaluated_but_not_gone_on_from(training: Path) -> None:
    (training / "checkpoint-6" / "optimizer.pt").unlink()
    write_manifest(training / "checkpoint-6")
    assert checkpoint_problem(training / "checkpoint-6") == "it has no optimizer.pt"
    assert checkpoint_problem(training / "checkpoint-6", weights_only=True) is None


def test_the_finder_of_transformers_takes_what_ours_passes_over(training: Path) -> None:
    emptied(training / "checkpoint-6" / "adapter_model.safetensors")
    assert get_last_checkpoint(str(training)) == str(training / "checkpoint-6")
    found = newest_checkpoint([training], of_this_run=same_run)
    assert found == training / "checkpoint-4"


def test_other_folders_are_no_checkpoints(training: Path) -> None:
    for name in ("checkpoint-best", "checkpoint-", ".checkpoint-9.new-1", "adapter"):
        (training / name).mkdir()
    (training / "checkpoint-99").touch()
    assert newest_checkpoint([training], of_this_run=same_run) == training / "checkpoint-6"
    assert newest_checkpoint([training / "absent"], of_this_run=same_run) is None


def test_going_on_gives_the_weights_of_a_training_in_one_go(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = weights(training / "checkpoint-6")
    emptied(training / "checkpoint-6" / "optimizer.pt")
    again = trainer(small_model_dir, training)
    again.train(resume_from_checkpoint=True)
    told = capsys.readouterr().out
    assert f"training goes on after step 4 of 6, from {training / 'checkpoint-4'}" in told
    assert weights(training / "checkpoint-6") == wanted


def test_a_run_that_had_ended_gives_its_weights_and_its_log_back(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = trainer(small_model_dir, training)
    again.train(resume_from_checkpoint=True)
    assert "training had ended" in capsys.readouterr().out
    assert again.state.global_step == 6
    assert sum("loss" in row for row in again.state.log_history) == 6
    again.model.save_pretrained(training / "mine")
    assert weights(training / "mine") == weights(training / "checkpoint-6")


def test_without_a_checkpoint_training_begins_and_where_one_is_no_use_it_says_so(
    tmp_path: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = trainer(small_model_dir, tmp_path, max_steps=1, save_strategy="no")
    fresh.train(resume_from_checkpoint=True)
    assert "training" not in capsys.readouterr().out
    assert fresh.state.global_step == 1
    (tmp_path / "checkpoint-1").mkdir()
    trainer(small_model_dir, tmp_path, max_steps=1, save_strategy="no").train(True)
    told = capsys.readouterr().out
    assert "checkpoint-1 is passed over: it has no trainer_state.json" in told
    assert "training starts at the beginning" in told


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 2e-3}, "learning_rate 0.001, now 0.002"),
        ({"max_steps": 8}, "max_steps 6, now 8"),
        ({"temperature": 2.0}, "temperature 1.0, now 2.0"),
        ({"seed": 5}, "seed 0, now 5"),
        ({"problems": PROBLEMS.select(range(1, 40))}, "other training rows"),
        ({"problems": PROBLEMS.shuffle(seed=3)}, "other training rows"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_a_checkpoint_of_another_run_is_not_mixed_in(
    training: Path, small_model_dir: Path, change: Any, named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    other = trainer(small_model_dir, training, **{"save_strategy": "no", **change})
    other.train(resume_from_checkpoint=True)
    told = capsys.readouterr().out
    assert re.search(rf"checkpoint-6 \(and 2 more\) belongs to another run: {named}", told)
    assert "training starts at the beginning" in told
    assert (training / "checkpoint-6").is_dir()


def test_other_weights_at_the_start_are_another_run(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trainer(small_model_dir, training, save_strategy="no", max_steps=6)
    with torch.no_grad():
        next(p for n, p in other.model.named_parameters() if "lora_A" in n).mul_(1.5)
    other.train(resume_from_checkpoint=True)
    assert "other weights at the start" in capsys.readouterr().out
    other = trainer(small_model_dir, training, save_strategy="no", max_steps=6)
    with torch.no_grad():
        other.model.get_base_model().model.norm.weight.mul_(1.5)
    other.train(resume_from_checkpoint=True)
    assert "another base model" in capsys.readouterr().out


def test_the_same_trainer_goes_on_though_its_weights_have_moved(
    tmp_path: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell that was interrupted and is run again, in the same kernel."""
    calm = trainer(small_model_dir, tmp_path / "calm")
    calm.train()
    ours = trainer(small_model_dir, tmp_path / "ours")
    honest, calls = ours.summed_loss, iter(range(100))

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return honest(*args, **kwargs)

    ours.summed_loss = interrupted
    with pytest.raises(KeyboardInterrupt):
        ours.train(resume_from_checkpoint=True)
    ours.train(resume_from_checkpoint=True)
    assert "training goes on after step 2 of 6" in capsys.readouterr().out
    ends = [tmp_path / name / "checkpoint-6" for name in ("calm", "ours")]
    assert weights(ends[0]) == weights(ends[1])


def test_a_path_is_taken_as_given_unless_it_is_not_whole(
    training: Path, small_model_dir: Path
) -> None:
    cut(training / "checkpoint-4" / "optimizer.pt")
    ours = trainer(small_model_dir, training)
    with pytest.raises(ValueError, match=r"checkpoint-4 is not a whole checkpoint: optimizer\.pt"):
        ours.train(resume_from_checkpoint=training / "checkpoint-4")
    ours.train(resume_from_checkpoint=str(training / "checkpoint-2"))
    assert ours.state.global_step == 6


def test_an_adapter_that_would_load_in_part_only_stops(
    training: Path, small_model_dir: Path
) -> None:
    from safetensors.torch import load_file, save_file

    path = training / "checkpoint-4" / "adapter_model.safetensors"
    state = load_file(path)
    state.pop(next(iter(state)))
    save_file(state, path, metadata={"format": "pt"})
    write_manifest(training / "checkpoint-4")
    with pytest.raises(ValueError, match="1 tensors are on one side only"):
        trainer(small_model_dir, training).train(training / "checkpoint-4")


def test_older_checkpoints_go_only_when_the_new_one_is_whole(
    tmp_path: Path, small_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = trainer(small_model_dir, tmp_path, save_total_limit=1)
    real = checkpoints.write_manifest
    there: list[list[str]] = []

    def looked_at(checkpoint: Path) -> None:
        there.append(sorted(p.name for p in tmp_path.glob("checkpoint-*")))
        real(checkpoint)

    monkeypatch.setattr("mathsft.training.trainer.write_manifest", looked_at)
    ours.train()
    assert there == [
        ["checkpoint-2"],
        ["checkpoint-2", "checkpoint-4"],
        ["checkpoint-4", "checkpoint-6"],
    ]
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]
    assert ours.args.save_total_limit == 1


def test_rotation_leaves_other_runs_the_best_and_what_is_newer_alone(training: Path) -> None:
    other = training / "checkpoint-3"
    shutil.copytree(training / "checkpoint-2", other)
    run = json.loads((other / "run.json").read_text())
    run["settings"]["learning_rate"] = 1.0
    (other / "run.json").write_text(json.dumps(run))
    best = str(training / "checkpoint-2")
    kept = training / "checkpoint-4"
    assert rotate(training, keep=1, newest=kept, protect=best) == []
    assert rotate(training, keep=1, newest=kept) == [training / "checkpoint-2"]
    assert sorted(p.name for p in training.glob("c*")) == [f"checkpoint-{n}" for n in (3, 4, 6)]


def test_a_copy_replaces_one_of_the_same_name_and_is_compared(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    stale = mirror / "checkpoint-4"
    stale.mkdir()
    (stale / "left").touch()
    copied = copy_checkpoint(training / "checkpoint-4", mirror)
    assert checkpoint_problem(copied) is None
    assert {p.name for p in copied.iterdir()} == {
        p.name for p in (training / "checkpoint-4").iterdir()
    }
    real = shutil.copyfile

    def garbled(source: Path, target: Path) -> None:
        real(source, target)
        if target.name == "optimizer.pt":
            altered(target)

    monkeypatch.setattr(shutil, "copyfile", garbled)
    with pytest.raises(ValueError, match=r"the copy is not what was sent: optimizer\.pt holds"):
        copy_checkpoint(training / "checkpoint-6", mirror)
    assert [p.name for p in mirror.iterdir()] == ["checkpoint-4"]
