"""Checkpoints that can be trusted: complete, of this run, and copied without loss.

A process can be killed at any moment, even while it writes. `transformers` takes the checkpoint
with the highest number, finished or not. Here a checkpoint counts only if its files match its
manifest; if it has no manifest, every file must open.
"""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mathsft.files import read_json, remove, write_whole
from mathsft.models.model_files import ADAPTER_WEIGHTS, check_safetensors, model_files
from mathsft.processes import say
from mathsft.told import advice

MANIFEST = "manifest.json"  # written last: bytes and SHA-256 of every other file
RUN = "run.json"  # written first: which run this is (mathsft.training.runs)
STATE = "trainer_state.json"  # what transformers' Trainer writes last
_ASIDE = "run-"
_SHARDS = ("pytorch_model", "optimizer", "global_step")  # folders of FSDP and DeepSpeed
_TO_RESUME = (STATE, "optimizer.pt", "scheduler.pt", "rng_state*.pth")


def step_of(checkpoint: Path) -> int:
    """The optimiser step in the name ``checkpoint-N``; -1 for any other name."""
    found = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    return int(found[1]) if found else -1


def write_manifest(checkpoint: Path) -> None:
    """Record size and SHA-256 of every file; the manifest appears complete or not at all."""
    files = {
        path.relative_to(checkpoint).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": _sha256(path),
        }
        for path in files_of(checkpoint)
    }
    write_whole(checkpoint / MANIFEST, json.dumps({"files": files}, indent=1) + "\n")


def checkpoint_problem(checkpoint: Path, *, weights_only: bool = False) -> str | None:
    """Say why a checkpoint cannot be used; None if it can.

    With a manifest, every file must exist with the recorded size and SHA-256. Without one
    (another trainer wrote it, or the process was killed too early), ``trainer_state.json``,
    which is written last, must parse and every file must open; nothing is unpickled for this.
    To resume training, optimiser and schedule must exist too; ``weights_only`` does not require
    them.
    """
    if not checkpoint.is_dir():
        return "there is no such folder"
    sharded = any(path.is_dir() and path.name.startswith(_SHARDS) for path in checkpoint.glob("*"))
    wanted = (STATE,) if weights_only else (STATE, MANIFEST) if sharded else _TO_RESUME
    try:
        missing = [name for name in wanted if not any(checkpoint.glob(name))]
        if missing:
            return f"it has no {', no '.join(missing)}"
        if (checkpoint / MANIFEST).is_file():
            return manifest_problem(checkpoint)
        if not _weights(checkpoint):
            return "it holds no weights"
        for path in files_of(checkpoint):
            _open(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        return str(error)
    return None


def checkpoints_in(folders: Iterable[Path]) -> list[Path]:
    """Every ``checkpoint-N`` of the folders, including those of other runs that were set aside."""
    return [
        path
        for folder in folders
        for pattern in ("checkpoint-*", f"{_ASIDE}*/checkpoint-*")
        for path in sorted(folder.glob(pattern))
        if path.is_dir() and step_of(path) >= 0
    ]


def set_aside(checkpoint: Path, run: dict[str, Any]) -> None:
    """Move a complete checkpoint of another run away if a new one needs its name.

    It goes into a folder named after its run, where `newest_checkpoint` looks too. So a learner
    who tries another setting and then returns to the former one finds its result again.
    """
    theirs = _run_key(checkpoint)
    if theirs is None or theirs == _key(run) or checkpoint_problem(checkpoint, weights_only=True):
        return
    name = hashlib.sha256(json.dumps(theirs).encode()).hexdigest()[:8]
    target = checkpoint.parent / f"{_ASIDE}{name}" / checkpoint.name
    target.parent.mkdir(exist_ok=True)
    remove(target)
    os.rename(checkpoint, target)
    print(f"{checkpoint} belongs to another run; it is kept as {target}")


def newest_checkpoint(
    folders: Iterable[Path], *, of_this_run: Callable[[dict[str, Any]], list[str]]
) -> Path | None:
    """The latest complete checkpoint of this run in any of ``folders``, or None.

    If two have the same step, the first folder's is taken. Printed lines name unusable
    checkpoints with the reason, and the latest of another run if none is found. ``of_this_run``
    gets the content of ``run.json`` and returns the differences, none for this run. A checkpoint
    without that file was written by something else and is skipped too.
    """
    others = []
    for checkpoint in sorted(checkpoints_in(folders), key=step_of, reverse=True):
        run = run_of(checkpoint)
        if run is not None and (differences := of_this_run(run)):
            others.append((checkpoint, differences))
        elif problem := checkpoint_problem(checkpoint):
            print(f"{checkpoint} is skipped: {problem}")
        elif run is None:
            anyway = f"train(resume_from_checkpoint={str(checkpoint)!r}) uses it anyway"
            print(
                f"{checkpoint} is skipped: its {RUN} is missing or damaged, so its run is unknown; "
                + advice(python=anyway, line=f"in Python, {anyway}")
            )
        else:
            return checkpoint
    for other, differences in others[:1]:
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        print(f"{other}{more} belongs to another run: {'; '.join(differences[:3])}")
    return None


def rotate(folder: Path, *, keep: int, newest: Path, protect: str | None = None) -> list[Path]:
    """Remove all but the ``keep`` newest checkpoints of ``newest``'s run; return the removed.

    Call it after ``newest`` has been verified. Checkpoints of other runs stay, and so does
    ``protect``, the best one by its evaluation. One that cannot be removed, such as a file of
    another user, is named in a line: training goes on.
    """
    run = _run_key(newest)
    ours = [
        path
        for path in folder.glob("checkpoint-*")
        if 0 <= step_of(path) <= step_of(newest)
        and run is not None
        and _run_key(path) == run
        and (protect is None or path.name != Path(protect).name)
    ]
    removed = []
    for old in sorted(ours, key=step_of)[: -max(1, keep)]:
        try:
            remove(old, first=(MANIFEST, STATE), empty=True)
            removed.append(old)
        except OSError as error:
            say(f"{old}, an older checkpoint, could not be removed: {error}")
    return removed


def run_of(checkpoint: Path) -> dict[str, Any] | None:
    """What `mathsft.training.runs` recorded; None if that is missing or damaged."""
    try:
        run = read_json(checkpoint / RUN)
        whole = {"settings", "data", "start", "base"} <= run.keys()
        whole = whole and isinstance(run["settings"], dict)
        return run if whole and {"name", "samples"} <= run["base"].keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _run_key(checkpoint: Path) -> list[Any] | None:
    """What identifies the checkpoint's run; None if it is not recorded."""
    run = run_of(checkpoint)
    return None if run is None else _key(run)


def _key(run: dict[str, Any]) -> list[Any]:
    # Not the base's values: another card may round them differently.
    return [run["settings"], run["data"], run["start"]]


def files_of(checkpoint: Path) -> list[Path]:
    """Every file except the manifest, sorted."""
    found = [path for path in checkpoint.rglob("*") if path.is_file()]
    return sorted(path for path in found if not path.name.startswith((MANIFEST, f".{MANIFEST}.")))


def _weights(checkpoint: Path) -> list[Path]:
    return [*model_files(checkpoint), *checkpoint.glob(ADAPTER_WEIGHTS)]


def manifest_problem(checkpoint: Path) -> str | None:
    """The first difference between the files and the manifest; None if they match."""
    try:
        recorded = read_json(checkpoint / MANIFEST)["files"]
        wanted = {name: (of["bytes"], of["sha256"]) for name, of in recorded.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its {MANIFEST} is damaged"
    for name, (size, digest) in wanted.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
        if _sha256(path) != digest:
            return f"{name} differs from what was written"
    return None


def _open(path: Path) -> None:
    """Raise ValueError, OSError or BadZipFile if the file is not complete."""
    if path.suffix == ".safetensors":
        check_safetensors(path)
    elif path.suffix == ".json":
        try:
            read_json(path)
        except ValueError:
            raise ValueError(f"{path.name} is empty or cut short") from None
    elif path.suffix in (".pt", ".pth", ".bin"):  # torch.save writes zip files with checksums
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except zipfile.BadZipFile:
            raise ValueError(f"{path.name} is empty or cut short") from None
        if damaged:
            raise ValueError(f"{path.name} is damaged")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
