"""Survive a disconnect: copy finished checkpoints to a place that outlives the machine."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from mathsft.checks import check_numbers
from mathsft.files import read_json
from mathsft.models.folders import replaced_folder
from mathsft.processes import in_first, say
from mathsft.settings import runs_folder
from mathsft.training.checkpoints import (
    MANIFEST,
    RUN,
    files_of,
    manifest_problem,
    rotate,
    set_aside,
)

_DRIVE = Path("/content/drive")


class Persistence(TrainerCallback):
    """Saves by the clock and copies each finished checkpoint; made by `persist`."""

    def __init__(self, folder: Path, root: Path | None, *, minutes: float, keep: int) -> None:
        self.folder = folder
        self.root = root
        self.minutes = minutes
        self.keep = keep
        self.mirror = None if root is None else _mirror(folder, root)
        self._saved_at = time.monotonic()
        self._missed: Path | None = None  # finished here, not yet copied

    def check(self, args: Any) -> None:
        """Raise ValueError if a training run with these arguments would save nothing useful."""
        if Path(args.output_dir).resolve() != self.folder.resolve():
            raise ValueError(
                f"persist({str(self.folder)!r}) would never find a checkpoint: the trainer "
                f"writes to output_dir={str(args.output_dir)!r}. Give both the same folder"
            )
        if args.save_only_model:
            raise ValueError("save_only_model=True leaves nothing to resume from: leave it out")

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.check(args)
        self._saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        due = time.monotonic() - self._saved_at >= 60 * self.minutes
        # Each process has its own clock, but all must save together: process 0 decides.
        due = in_first(lambda: due, device=args.device.type)
        if due or state.global_step >= state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved_at = time.monotonic()
        if not state.is_world_process_zero:
            return
        checkpoint = self.folder / f"checkpoint-{state.global_step}"
        self._copy(checkpoint, state)
        self._rotate(checkpoint, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._missed is not None and self._missed.is_dir() and state.is_world_process_zero:
            self._copy(self._missed, state)  # try again: the Drive may be back

    def _copy(self, checkpoint: Path, state: Any) -> None:
        if self.mirror is None or self.root is None:
            return
        try:
            if not self.root.is_dir():  # a new one would be on this machine
                raise OSError("this folder no longer exists")
            self.mirror.mkdir(parents=True, exist_ok=True)
            run = read_json(checkpoint / RUN)
            set_aside(self.mirror / checkpoint.name, run)
            copied = copy_checkpoint(checkpoint, self.mirror)
            self._missed = None
        except (OSError, ValueError) as error:
            self._missed = checkpoint
            say(
                f"{checkpoint.name} was not copied to {self.root}: {error}. Training continues; "
                f"earlier copies are still good, and {checkpoint} is still here"
            )
            return
        self._rotate(copied, state)

    def _rotate(self, newest: Path, state: Any) -> None:
        rotate(newest.parent, keep=self.keep, newest=newest, protect=state.best_model_checkpoint)


def _mirror(folder: Path, root: Path) -> Path:
    """Where a run's copies are stored: under the root, at the run's path below ``runs``.

    Raises ValueError if that is no second place: it would be lost with the run.
    """
    runs, here = runs_folder().resolve(), folder.resolve()
    mirror = root / (here.relative_to(runs) if here.is_relative_to(runs) else here.name)
    inside_runs = here.is_relative_to(runs) and _inside(root, runs)
    if inside_runs or _inside(mirror, folder) or _inside(folder, mirror):
        raise ValueError(
            f"persist: a copy of {folder} in {root} would be no second copy, because it is lost "
            "with the run: give a folder outside of it, or leave `to` out if the runs' own folder "
            "outlives the machine"
        )
    return mirror


def _inside(folder: Path, outer: Path) -> bool:
    """Whether a folder is another one or in it, also by a link or by a second mount of the same."""
    if not outer.exists():
        return folder.resolve().is_relative_to(outer.resolve())
    here = folder.resolve()
    return any(one.exists() and one.samefile(outer) for one in (here, *here.parents))


def persist(
    run_dir: str | Path,
    to: str | Path | None = None,
    *,
    minutes: float = 5.0,
    keep: int = 2,
) -> Persistence:
    """A callback for our trainers: a run survives a killed process or a lost machine.

    ::

        folder = run_dir("mine")
        trainer = sft_trainer(…, output_dir=folder, callbacks=[persist(folder, "drive")])
        trainer.train(resume_from_checkpoint=True)

    If you run the last line again, it resumes from the newest complete checkpoint of the
    same run, here or in the copies, and says so.

    Args:
        run_dir: the trainer's ``output_dir``.
        to: where finished checkpoints are copied: a folder that exists, or "drive" for the
            user's Google Drive in Colab, which is mounted if necessary and asks for permission.
            None copies nothing: if the machine is lost, the checkpoints are lost too.
        minutes: a checkpoint is saved when this many minutes have passed since the last one,
            and at the end; also whenever ``save_strategy`` says so. If there are several
            processes, the clock of the first one counts.
        keep: how many of a run's newest checkpoints each place keeps; older ones are removed
            once a newer one is stored and verified.

    A copy is written under another name, compared with its manifest (bytes and SHA-256),
    and renamed, so it exists complete or not at all. If copying fails (full, gone), a line
    says so, training continues, and the next checkpoint is tried again. (Tested with folders
    and file systems. Drive uploads in the background: the last minutes before a machine is
    lost may be missing there.)

    Raises FileNotFoundError if ``to`` is not a folder, ValueError for "drive" outside of
    Colab, for ``keep`` below 1, for ``minutes`` below 0, and if a copy there would be lost with the
    run: ``to`` is the folder of runs, or in it, or the run's own folder.
    """
    check_numbers({"minutes": minutes, "keep": keep})  # at least the newest must stay
    return Persistence(Path(run_dir), keep_folder(to), minutes=minutes, keep=keep)


def keep_folder(to: str | Path | None) -> Path | None:
    """Prepare the folder that `persist` copies to: call it at the start of a notebook.

    ``to``: "drive" mounts Google Drive in Colab, which asks for permission, and gives the folder
    ``mathsft`` there. None stays None. Any other folder must exist. Call it early:
    otherwise the question may appear after an hour, when you are away.

    Raises what `persist` raises.
    """
    if to is None or not str(to):
        return None
    if str(to) == "drive":
        return _drive()
    folder = Path(to)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder: make it, or mount its drive, before training starts"
        )
    return folder


def _drive() -> Path:
    if "google.colab" not in sys.modules:
        raise ValueError("'drive' is Google Drive and needs Colab; elsewhere give a folder")
    from google.colab import drive

    drive.mount(str(_DRIVE))
    folder = _DRIVE / "MyDrive" / "mathsft"
    folder.mkdir(exist_ok=True)
    return folder


def copy_checkpoint(checkpoint: Path, into: Path) -> Path:
    """Copy a checkpoint so that it appears under its name complete, or not at all.

    It is written under another name, read back, compared with the manifest, then renamed. A
    checkpoint that already has this name is replaced at the very end.

    Raises OSError if it cannot be written (full, gone, not allowed), and ValueError if the copy
    differs from the original.
    """
    target = into / checkpoint.name
    files = files_of(checkpoint)
    needed = sum(path.stat().st_size for path in files)
    free = shutil.disk_usage(into).free
    if needed > free:
        raise OSError(f"{needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free")
    with replaced_folder(target, keep_others=False) as new:
        for path in [*files, checkpoint / MANIFEST]:
            copy = new / path.relative_to(checkpoint)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        if problem := manifest_problem(new):
            raise ValueError(f"the copy differs from the original: {problem}")
    return target
