"""Surviving a disconnect: finished checkpoints, copied to a place that outlives the machine."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from mathsft.settings import runs_folder
from mathsft.training.checkpoints import copy_checkpoint, rotate

_DRIVE = Path("/content/drive")


class Persistence(TrainerCallback):
    """Saves by the clock and mirrors each finished checkpoint; made by `persist`."""

    def __init__(self, folder: Path, root: Path | None, *, minutes: float, keep: int) -> None:
        self.folder = folder
        self.root = root
        self.minutes = minutes
        self.keep = keep
        self._saved_at = time.monotonic()
        self._missed: Path | None = None  # finished here, not yet copied

    @property
    def mirror(self) -> Path | None:
        """Where the copies lie: the run's place under the root, as it is under ``runs``."""
        if self.root is None:
            return None
        runs = runs_folder().resolve()
        here = self.folder.resolve()
        return self.root / (here.relative_to(runs) if here.is_relative_to(runs) else here.name)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if Path(args.output_dir).resolve() != self.folder.resolve():
            raise ValueError(
                f"persist({str(self.folder)!r}) would wait for checkpoints in vain: the trainer "
                f"writes to output_dir={str(args.output_dir)!r}. Give both the same folder"
            )
        self._saved_at = time.monotonic()
        if self.mirror is not None:  # what a killed process left half written
            for left in self.mirror.glob(".checkpoint-*"):
                shutil.rmtree(left, ignore_errors=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        due = time.monotonic() - self._saved_at >= 60 * self.minutes
        # Several processes have several clocks: there save_steps decides for all of them.
        if (due and args.world_size == 1) or state.global_step >= state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved_at = time.monotonic()
        if not state.is_world_process_zero:
            return
        checkpoint = self.folder / f"checkpoint-{state.global_step}"
        self._copy(checkpoint)
        rotate(self.folder, keep=self.keep, newest=checkpoint)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._missed is not None and self._missed.is_dir() and state.is_world_process_zero:
            self._copy(self._missed)  # once more: the Drive may be back

    def _copy(self, checkpoint: Path) -> None:
        if self.mirror is None or self.root is None:
            return
        try:
            if not self.root.is_dir():  # made anew it would be a folder of this machine
                raise OSError("it is not there any more")
            self.mirror.mkdir(parents=True, exist_ok=True)
            copied = copy_checkpoint(checkpoint, self.mirror)
            rotate(self.mirror, keep=self.keep, newest=copied)
            self._missed = None
        except (OSError, ValueError) as error:
            self._missed = checkpoint
            print(
                f"{checkpoint.name} was not copied to {self.root}: {error}. Training goes on; "
                f"what was copied before is still good, and {checkpoint} is here"
            )


def persist(
    run_dir: str | Path,
    to: str | Path | None = None,
    *,
    minutes: float = 5.0,
    keep: int = 2,
) -> Persistence:
    """A callback for our trainers: what is trained survives a killed process and a lost machine.

    ::

        folder = run_dir("mine")
        trainer = sft_trainer(…, output_dir=folder, callbacks=[persist(folder, "drive")])
        trainer.train(resume_from_checkpoint=True)

    Run again, the last line goes on from the newest checkpoint that is whole and of the
    same run, here or in the copies, and says so.

    Args:
        run_dir: the trainer's ``output_dir``.
        to: where finished checkpoints are copied: a folder that exists, or "drive" for the
            user's Google Drive in Colab, which is mounted if need be and asks for leave.
            None copies nothing; a disconnect that takes the machine takes the checkpoints.
        minutes: a checkpoint is saved when so many have passed since the last one, and at
            the end; also whenever ``save_strategy`` says so. In several processes only that.
        keep: so many of the newest of a run are kept in each place; older ones are removed
            once a newer one is there and verified.

    A copy is written under another name, compared with its manifest (bytes and SHA-256),
    and renamed; so it is there whole or not at all. Where it fails (full, gone) a line says
    so, training goes on, and the next checkpoint is tried again.

    Raises FileNotFoundError where ``to`` is no folder, ValueError for "drive" outside of
    Colab and for ``keep`` below 1.
    """
    if keep < 1:
        raise ValueError(f"keep={keep}: at least the newest checkpoint has to stay")
    root = None
    if to is not None and str(to) == "drive":
        root = _drive()
    elif to is not None:
        root = Path(to)
        if not root.is_dir():
            raise FileNotFoundError(
                f"{root} is no folder: make it, or mount what it is on, before the training begins"
            )
    return Persistence(Path(run_dir), root, minutes=minutes, keep=keep)


def _drive() -> Path:
    """The user's Drive, mounted; in a folder ``mathsft`` of its own."""
    if "google.colab" not in sys.modules:
        raise ValueError("to='drive' is Google Drive as Colab mounts it; elsewhere give a folder")
    from google.colab import drive

    drive.mount(str(_DRIVE))
    folder = _DRIVE / "MyDrive" / "mathsft"
    folder.mkdir(exist_ok=True)
    return folder
