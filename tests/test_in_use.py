"""One training at a time writes into a folder; the lock ends with the process that holds it."""

import json
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from children import child
from small_training import trainer

from mathsft.in_use import LOCK, NOTE, claimed
from mathsft.settings import run_folder
from mathsft.training.by_recipe import train_by_recipe

RECIPE: dict[str, Any] = {
    "train": {"source": "tiny-gsm", "limit": 8}, "sft": {"max_steps": 1, "save_strategy": "no"},
}  # fmt: skip


def holder(folder: Path) -> Any:
    """A child that holds the folder until it is killed."""

    def hold(pipe: Any) -> None:
        with claimed(folder, device="cpu"):
            pipe.send("held")
            pipe.recv()

    return child(hold)


def test_a_folder_in_use_is_refused_with_who_holds_it_and_a_kill_frees_it(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as process:
        process.pipe.recv()
        told = (
            rf"in use: process {process.pid} on {socket.gethostname()}, since 20\d\d-.*output_dir"
        )
        with pytest.raises(ValueError, match=told), claimed(tmp_path / "run", device="cpu"):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert (tmp_path / "run" / NOTE).exists()  # nobody could remove it
        with claimed(tmp_path / "run", device="cpu"):
            assert json.loads((tmp_path / "run" / NOTE).read_text())["pid"] == os.getpid()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_link_to_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with holder(tmp_path / "run") as process:
        process.pipe.recv()
        with (
            pytest.raises(ValueError, match="link is in use"),
            claimed(tmp_path / "link", device="cpu"),
        ):
            pass


def test_a_thread_may_claim_again_what_it_holds_and_another_thread_may_not(tmp_path: Path) -> None:
    refused = []

    def other() -> None:
        try:
            with claimed(tmp_path, device="cpu"):
                pass
        except ValueError as error:
            refused.append(str(error))

    with claimed(tmp_path, device="cpu"):
        with claimed(tmp_path, device="cpu"):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert (tmp_path / LOCK).exists()
    assert len(refused) == 1
    assert list(tmp_path.iterdir()) == []
    with claimed(tmp_path, device="cpu"):
        pass


def test_a_note_of_another_machine_is_told_and_a_damaged_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Locks on a mounted drive may not reach other machines."""
    (tmp_path / NOTE).write_text('{"pid": 7, "host": "elsewhere", "since": "2026-01-01"}')
    with claimed(tmp_path, device="cpu"):
        pass
    assert "process 7 on elsewhere, since 2026-01-01, began" in capsys.readouterr().out
    for text in ("", "[]", '{"pid": "x"}', '{"pid": 1e99}'):
        (tmp_path / NOTE).write_text(text)
        with claimed(tmp_path, device="cpu"):
            pass


def test_every_trainer_refuses_a_folder_in_use_and_changes_nothing_there(
    tmp_path: Path, small_model_dir: Path
) -> None:
    ours = trainer(small_model_dir, tmp_path / "run", max_steps=1)
    (tmp_path / "run" / ".checkpoint-1.new-1").mkdir()
    with holder(tmp_path / "run") as process:
        process.pipe.recv()
        for resume in (None, True):
            with pytest.raises(ValueError, match="in use"):
                ours.train(resume_from_checkpoint=resume)
        assert {p.name for p in (tmp_path / "run").iterdir()} == {
            ".checkpoint-1.new-1", LOCK, NOTE,
        }  # fmt: skip
    ours.train(resume_from_checkpoint=True)  # the holder is gone
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"checkpoint-1"}


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("resume", [False, True])
def test_a_recipe_is_refused_before_anything_is_loaded(resume: bool, runs: Path) -> None:
    with holder(runs / "mine") as process:
        process.pipe.recv()
        with pytest.raises(ValueError, match="mine is in use"):
            train_by_recipe(RECIPE, output_dir=runs / "mine", resume=resume)


def test_starts_at_the_same_time_take_different_folders(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(**_: Any) -> None:
        pipes[0].send("loading")
        pipes[0].recv()

    pipes: list[Any] = []
    monkeypatch.setattr("mathsft.training.by_recipe.load_model", waits)

    def start(pipe: Any) -> None:
        pipes.append(pipe)
        train_by_recipe(RECIPE)

    with child(start) as one, child(start) as two:
        assert [one.pipe.recv(), two.pipe.recv()] == ["loading"] * 2
        assert {path.name for path in runs.iterdir()} == {"sft-1", "sft-2"}
        assert {json.loads((path / NOTE).read_text())["pid"] for path in runs.iterdir()} == {
            one.pid, two.pid,
        }  # fmt: skip


def test_many_threads_get_a_number_each_and_a_look_makes_none(runs: Path) -> None:
    assert run_folder(None, "dpo", make=False) == (runs / "dpo-1", [])
    assert not runs.exists()
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(run_folder(None, "dpo", make=True)[0]))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name for path in found} == {f"dpo-{number}" for number in range(1, 17)}


@pytest.mark.usefixtures("no_weights")
def test_a_start_that_fails_leaves_no_folder(runs: Path, tmp_path: Path) -> None:
    wrong = {**RECIPE, "train": {"source": str(tmp_path / "absent.jsonl")}}
    with pytest.raises(FileNotFoundError):
        train_by_recipe(wrong)
    assert not runs.exists()
    with pytest.raises(AssertionError, match="weights were loaded"):
        train_by_recipe(RECIPE, output_dir=tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssertionError, match="weights were loaded"):
        train_by_recipe(RECIPE, output_dir=tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file"):
        train_by_recipe(RECIPE, output_dir=tmp_path / "file")
