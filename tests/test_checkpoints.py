"""A run resumes only from whole checkpoints of its own; a copy is whole or does not exist."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_training import cut, emptied
from transformers.trainer_utils import get_last_checkpoint

from mathsft.training import checkpoints
from mathsft.training.checkpoints import (
    MANIFEST,
    checkpoint_problem,
    newest_checkpoint,
    rotate,
    run_of,
    write_manifest,
)
from mathsft.training.persist import copy_checkpoint
from mathsft.training.runs import run_differences
from mathsft.training.writing import repair_checkpoints, written


def same_run(run: dict[str, Any]) -> list[str]:
    return []


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
    assert problem == "adapter_model.safetensors differs from what was written"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"other": 1}'])
def test_a_damaged_manifest_counts_as_damage(training: Path, content: str) -> None:
    (training / "checkpoint-6" / MANIFEST).write_text(content)
    assert checkpoint_problem(training / "checkpoint-6") == "its manifest.json is damaged"


def test_without_its_manifest_a_checkpoint_whose_files_all_open_is_whole(training: Path) -> None:
    (training / "checkpoint-6" / MANIFEST).unlink()
    assert checkpoint_problem(training / "checkpoint-6") is None


def test_weights_alone_can_be_evaluated_but_not_resumed(training: Path) -> None:
    (training / "checkpoint-6" / "optimizer.pt").unlink()
    write_manifest(training / "checkpoint-6")
    assert checkpoint_problem(training / "checkpoint-6") == "it has no optimizer.pt"
    assert checkpoint_problem(training / "checkpoint-6", weights_only=True) is None


def test_transformers_finds_a_damaged_checkpoint_that_ours_skips(training: Path) -> None:
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


def test_a_shard_folder_alone_makes_no_checkpoint(training: Path) -> None:
    newest = training / "checkpoint-6"
    (newest / "pytorch_model_fsdp_0").mkdir()
    assert checkpoint_problem(newest) is None
    (newest / MANIFEST).unlink()
    assert checkpoint_problem(newest) == "it has no manifest.json"
    (newest / "trainer_state.json").unlink()
    assert "it has no trainer_state.json" in str(checkpoint_problem(newest))


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
    with pytest.raises(ValueError, match=r"copy differs from the original: optimizer\.pt differs"):
        copy_checkpoint(training / "checkpoint-6", mirror)
    assert [p.name for p in mirror.iterdir()] == ["checkpoint-4"]


@pytest.mark.parametrize("text", ["[" * 5000, "1" * 5000, "", "\xff"])
def test_a_json_file_that_cannot_be_read_is_damage_without_a_manifest_too(
    training: Path, text: str
) -> None:
    (training / "checkpoint-6" / "manifest.json").unlink()
    (training / "checkpoint-6" / "trainer_state.json").write_text(text)
    problem = checkpoint_problem(training / "checkpoint-6")
    assert problem == "trainer_state.json is empty or cut short"


@pytest.mark.parametrize(
    "changes", [{"settings": []}, {"base": None}, {"base": {}}, {"base": ["name", "samples"]}]
)
def test_a_record_of_a_run_in_another_form_is_damaged(
    training: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    path = training / "checkpoint-6" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    write_manifest(path.parent)
    assert run_of(path.parent) is None
    found = newest_checkpoint([training], of_this_run=lambda run: run_differences(run, run))
    assert found == training / "checkpoint-4"
    assert "its run.json is missing or damaged" in capsys.readouterr().out


def test_a_checkpoint_is_on_the_disk_before_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def fsync(number: int) -> None:
        order.append(os.readlink(f"/proc/self/fd/{number}"))

    def replace(old: Path, new: Path) -> None:
        order.append(str(new))
        os.rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    checkpoint = tmp_path / "checkpoint-1"
    with written(checkpoint, {}):
        (checkpoint / "weights").write_bytes(b"1" * 1000)
        (checkpoint / "link").symlink_to("/dev/zero")
    assert order.index(f"{checkpoint}/weights") < order.index(f"{checkpoint}/manifest.json")


def test_a_checkpoint_that_cannot_be_removed_is_named_and_training_goes_on(
    training: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoints.remove

    def remove(path: Path, **arguments: Any) -> None:
        if path.name == "checkpoint-2":
            raise PermissionError(1, "Operation not permitted")
        real(path, **arguments)

    monkeypatch.setattr(checkpoints, "remove", remove)
    removed = rotate(training, keep=1, newest=training / "checkpoint-6")
    assert [path.name for path in removed] == ["checkpoint-4"]
    assert "checkpoint-2, an older checkpoint, could not be removed" in capsys.readouterr().out


def test_what_somebody_else_named_like_a_left_over_stays(tmp_path: Path) -> None:
    names = {
        ".checkpoint-1.old-thesis",
        ".checkpoint-x.old",
        ".checkpoint-2.oldies",
        ".checkpoint-n",
    }
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / ".checkpoint-3.new-99999999").mkdir()
    repair_checkpoints(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == names
