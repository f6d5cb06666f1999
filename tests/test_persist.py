"""What `persist` copies outlives the machine; if it cannot copy, it only says so."""

import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from small_training import trainer, weights

from mathsft.training import persist
from mathsft.training.by_recipe import train_by_recipe
from mathsft.training.checkpoints import checkpoint_problem


def test_a_run_resumes_from_the_mirror_after_the_machine_was_lost(
    tmp_path: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MATHSFT_RUNS", str(tmp_path / "runs"))
    folder, mirror = tmp_path / "runs" / "02" / "a", tmp_path / "mirror"
    mirror.mkdir()

    def ours(**more: Any) -> Any:
        keeping = persist.persist(folder, mirror)
        return trainer(small_model_dir, folder, callbacks=[keeping], **more)

    ours().train(resume_from_checkpoint=True)
    wanted = weights(folder / "checkpoint-6")
    # The mirror is laid out like the folder of runs, so that two runs of one name do not collide.
    assert sorted(p.name for p in (mirror / "02" / "a").iterdir()) == [
        "checkpoint-4",
        "checkpoint-6",
    ]
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(mirror / "02" / "a" / "checkpoint-6")
    capsys.readouterr()
    ours().train(resume_from_checkpoint=True)
    assert "training resumes after step 4 of 6" in capsys.readouterr().out
    assert weights(folder / "checkpoint-6") == weights(mirror / "02" / "a" / "checkpoint-6")
    assert weights(folder / "checkpoint-6") == wanted


@pytest.mark.parametrize(("minutes", "saved"), [(0.0, [1, 2, 3]), (60.0, [3])])
def test_the_clock_and_the_end_decide_when_to_save(
    minutes: float, saved: list[int], tmp_path: Path, small_model_dir: Path
) -> None:
    keeping = persist.persist(tmp_path, minutes=minutes, keep=9)
    ours = trainer(small_model_dir, tmp_path, save_strategy="no", max_steps=3, callbacks=[keeping])
    ours.train()
    assert sorted(tmp_path.glob("checkpoint-*")) == [tmp_path / f"checkpoint-{n}" for n in saved]


def test_a_drive_that_vanishes_amid_a_copy_neither_stops_nor_spoils_anything(
    tmp_path: Path, small_model_dir: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, drive, away = tmp_path / "run", tmp_path / "drive", tmp_path / "away"
    drive.mkdir()
    real = shutil.copyfile

    def unmounted(source: Path, target: Path) -> None:
        if "checkpoint-4.new" in str(target) and target.name == "optimizer.pt":
            drive.rename(away)
        real(source, target)

    monkeypatch.setattr(shutil, "copyfile", unmounted)
    ours = trainer(small_model_dir, folder, callbacks=[persist.persist(folder, drive)])
    ours.train()
    told = capsys.readouterr().out
    assert re.search(r"checkpoint-4 was not copied to .*drive: .*No such file", told)
    assert "checkpoint-6 was not copied" in told  # and no new folder in its place
    assert not drive.exists()
    assert ours.state.global_step == 6
    assert checkpoint_problem(away / "run" / "checkpoint-2") is None
    assert checkpoint_problem(folder / "checkpoint-6") is None

    # The drive comes back: the next copy adds what is missing, and left-overs are removed.
    away.rename(drive)
    old = drive / "run" / ".checkpoint-2.old-1"  # killed between two renames
    (drive / "run" / "checkpoint-2").rename(old)
    left = drive / "run" / ".checkpoint-4.new-1"
    left.mkdir(exist_ok=True)
    shutil.rmtree(folder / "checkpoint-6")
    again = trainer(small_model_dir, folder, callbacks=[persist.persist(folder, drive)])
    again.train(resume_from_checkpoint=True)
    assert {p.name for p in (drive / "run").iterdir()} == {"checkpoint-2", "checkpoint-6"}


def test_what_was_missed_is_tried_again_at_the_end(
    tmp_path: Path, small_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, drive = tmp_path / "run", tmp_path / "drive"
    drive.mkdir()
    failures = iter([OSError("Transport endpoint is not connected")])
    real = persist.copy_checkpoint

    def once_gone(*arguments: Any) -> Path:
        if error := next(failures, None):
            raise error
        return real(*arguments)

    monkeypatch.setattr(persist, "copy_checkpoint", once_gone)
    keeping = persist.persist(folder, drive)
    trainer(small_model_dir, folder, callbacks=[keeping], save_strategy="no").train()
    assert checkpoint_problem(drive / "run" / "checkpoint-6") is None


def test_persist_refuses_what_would_save_nothing(tmp_path: Path, small_model_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mount its drive"):
        persist.persist(tmp_path, tmp_path / "drive")
    with pytest.raises(ValueError, match="elsewhere give a folder"):
        persist.persist(tmp_path, "drive")
    with pytest.raises(ValueError, match="keep=0"):
        persist.persist(tmp_path, keep=0)
    keeping = persist.persist(tmp_path / "a")
    ours = trainer(small_model_dir, tmp_path / "a", callbacks=[keeping], save_only_model=True)
    with pytest.raises(ValueError, match="leaves nothing to resume from"):
        ours.train()
    ours = trainer(small_model_dir, tmp_path / "a", callbacks=[persist.persist(tmp_path / "b")])
    with pytest.raises(ValueError, match="Give both the same folder"):
        ours.train()


def test_a_copy_that_would_be_lost_with_the_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    monkeypatch.setenv("MATHSFT_RUNS", str(runs))
    run = runs / "02" / "a"
    (run / "inside").mkdir(parents=True)
    (runs / "backup").mkdir()
    (tmp_path / "link").symlink_to(runs)
    inside = (runs, runs / "backup", run, run / "inside", run.parent, tmp_path / "link")
    for to in inside:
        with pytest.raises(ValueError, match="no second copy, because it is lost with the run"):
            persist.persist(run, to)
    elsewhere = tmp_path / "scratch" / "b"  # a run outside of the folder of runs
    elsewhere.mkdir(parents=True)
    for to in (elsewhere, elsewhere.parent):
        with pytest.raises(ValueError, match="no second copy"):
            persist.persist(elsewhere, to)
    monkeypatch.chdir(runs)
    with pytest.raises(ValueError, match="no second copy"):
        persist.persist("02/a", ".")
    # These are second copies, though on the same disk.
    assert persist.persist(run, tmp_path).mirror == tmp_path / "02" / "a"
    assert persist.persist(elsewhere, runs).mirror == runs / "b"


def test_a_second_mount_of_the_runs_folder_is_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, again = tmp_path / "runs", tmp_path / "again"
    (runs / "a").mkdir(parents=True)
    again.mkdir()
    if subprocess.run(["mount", "--bind", runs, again], capture_output=True).returncode:
        pytest.skip("mount --bind is not allowed here")
    try:
        monkeypatch.setenv("MATHSFT_RUNS", str(runs))
        with pytest.raises(ValueError, match="no second copy"):
            persist.persist(runs / "a", again)
    finally:
        subprocess.run(["umount", again], check=True)


@pytest.mark.usefixtures("no_weights")
def test_a_recipe_with_such_a_copy_is_refused_before_anything_is_loaded(runs: Path) -> None:
    runs.mkdir()
    recipe = {"train": {"source": "tiny-gsm"}, "persist": {"to": str(runs)}}
    with pytest.raises(ValueError, match="no second copy"):
        train_by_recipe(recipe)
    assert list(runs.iterdir()) == []


def test_drive_is_mounted_in_colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colab = types.ModuleType("google.colab")
    colab.drive = types.SimpleNamespace(  # type: ignore[attr-defined]
        mount=lambda where: (Path(where) / "MyDrive").mkdir(parents=True)
    )
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setattr(persist, "_DRIVE", tmp_path / "drive")
    keeping = persist.persist(tmp_path / "run", "drive")
    assert keeping.mirror == tmp_path / "drive" / "MyDrive" / "mathsft" / "run"


FULL_DISK = """
import shutil, subprocess, sys
from pathlib import Path

def disk(folder, kb):
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kb}k", "none", folder], check=True)

from small_training import trainer
from mathsft.training.checkpoints import checkpoint_problem
from mathsft.training.persist import persist

model, here = Path(sys.argv[1]), Path(sys.argv[2])
trainer(model, here / "plain").train()
size = sum(p.stat().st_size for p in (here / "plain/checkpoint-6").iterdir()) // 1024
for name, times in (("drive", 2.5), ("small", 2.5)):
    disk(here / name, int(times * size))

print("== the copies' disk is full")
ours = trainer(model, here / "run", callbacks=[persist(here / "run", here / "drive")])
ours.train()
print("ended at", ours.state.global_step)
print("good:", [p.name for p in sorted((here / "drive/run").iterdir())
                if checkpoint_problem(p) is None])

print("== the machine's own disk is full")
ours = trainer(model, here / "small" / "run")
try:
    ours.train()
except OSError as error:
    print("OSError:", error)
print("good:", [p.name for p in sorted((here / "small/run").iterdir())
                if checkpoint_problem(p) is None])
shutil.rmtree(here / "small/run/checkpoint-2")
trainer(model, here / "small" / "run").train(resume_from_checkpoint=True)
print("same:", *((here / name / "checkpoint-6/adapter_model.safetensors").read_bytes()
                == (here / "plain/checkpoint-6/adapter_model.safetensors").read_bytes()
                for name in ("run", "small/run")))
"""


@pytest.mark.slow
def test_a_full_disk_keeps_the_good_checkpoints_and_is_reported(
    tmp_path: Path, small_model_dir: Path
) -> None:
    """Two file systems of two and a half checkpoints each, in a mount namespace."""
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no mount namespaces here: unshare --user --mount fails")
    done = subprocess.run(
        [*alone, sys.executable, "-c", FULL_DISK, str(small_model_dir), str(tmp_path)],
        cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    copies, own = done.stdout.split("== the machine's own disk is full")
    assert re.search(r"checkpoint-6 was not copied to .* MB are needed, .* MB are free", copies)
    assert "ended at 6" in copies
    assert "good: ['checkpoint-2', 'checkpoint-4']" in copies
    assert re.search(r"OSError: .*checkpoint-6 could not be written: .*make room", own)
    assert "good: ['checkpoint-2', 'checkpoint-4']" in own
    assert "training resumes after step 4 of 6" in own
    assert "same: True True" in own
