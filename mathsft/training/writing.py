"""A checkpoint is written as a whole, and what a kill or a full disk leaves is put right."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mathsft.files import on_disk, remove, write_whole
from mathsft.processes import say
from mathsft.told import advice
from mathsft.training.checkpoints import RUN, checkpoint_problem, set_aside, write_manifest

# What `written` and `replaced_folder` leave when they are killed.
_LEFT = re.compile(r"\.(?P<name>checkpoint-\d+)\.(?P<kind>old|(?:old|new)-\d+)")


@contextmanager
def written(checkpoint: Path, run: dict[str, Any]) -> Iterator[None]:
    """Mark the new folder as this run's, then as complete; a failed write restores the old one.

    Args:
        checkpoint: the folder ``checkpoint-N``, which the block fills. It is always a new one, so
            that nothing is written through a link.
        run: what `mathsft.training.runs.run_identity` says of the run.

    Raises OSError if it cannot be written, such as on a full disk.
    """
    former = checkpoint.with_name(f".{checkpoint.name}.old")
    try:
        set_aside(checkpoint, run)
        remove(former)
        if os.path.lexists(checkpoint):
            checkpoint.rename(former)
        checkpoint.mkdir(parents=True)
        write_whole(checkpoint / RUN, json.dumps(run, indent=1))
        yield
        on_disk(checkpoint)  # older ones are removed next
        write_manifest(checkpoint)
        remove(former)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch.save reports a full disk as a RuntimeError of its zip writer.
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        shutil.rmtree(checkpoint, ignore_errors=True)  # half a checkpoint only uses space
        if os.path.lexists(former):
            former.rename(checkpoint)
        free = shutil.disk_usage(checkpoint.parent).free / 1e6
        raise OSError(
            f"{checkpoint} could not be written: {error} ({free:,.0f} MB are free). The "
            "checkpoints before it are untouched: make room, then "
            + advice(python="train(resume_from_checkpoint=True)", line="--resume true")
            + " resumes from the newest"
        ) from error


def repair_checkpoints(folder: Path) -> None:
    """Put right what a killed process left here while it wrote or copied a checkpoint.

    A checkpoint that was being replaced gets its name back, unless the new one is complete; copies
    that never got a name are removed. Lines say what is done.

    Args:
        folder: a run's, or that of its copies. No other process may write there now.
    """
    for left in sorted(folder.glob(".checkpoint-*")):
        if not (form := _LEFT.fullmatch(left.name)):
            continue  # somebody else's
        whole, kind = folder / form["name"], form["kind"]
        try:
            if kind.startswith("old") and checkpoint_problem(whole, weights_only=True):
                remove(whole)
                os.rename(left, whole)
                say(f"{whole}: a process was killed while it replaced it; the former one is back")
            else:
                remove(left)
        except OSError as error:
            say(f"{left} is left by a killed process, and cannot be moved or removed: {error}")
