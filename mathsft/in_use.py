"""A folder that one training uses: no second one writes there until it has ended.

The operating system holds the lock (`filelock`), so it ends with the process, even if that is
killed. Who only reads a folder, such as ``mathsft watch``, does not look at the lock.

On one machine the lock holds for every file system that has locks. Over NFS it holds between
machines if the server does locking (the default of NFSv4). A FUSE mount, such as Google Drive in
Colab, knows only the processes of its own machine: there, a line names a training run that another
machine has begun and not ended.
"""

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from mathsft.files import read_json, remove, write_whole
from mathsft.processes import in_first, say

LOCK = ".in-use.lock"
NOTE = ".in-use"  # who holds the lock: the lock's own file is emptied by each process that asks
_WAIT = 10.0  # seconds for the helpers of a killed process to end, such as data loaders


@contextmanager
def claimed(
    folder: str | Path, *, device: str, remove_empty: Sequence[Path] = ()
) -> Iterator[None]:
    """Hold a folder for the block; it is made if absent, and removed again if it stays empty.

    A thread that holds a folder may claim it again. Several processes of one run (torchrun) hold it
    together: process 0 does it for all, so each must enter the block.

    Args:
        folder: the run's folder.
        device: the type of the model's device, for `in_first`.
        remove_empty: further folders that are removed if nothing is in them at the end: those
            that were made for this run.

    Raises ValueError, with the process, the machine and the time, if another training holds it. A
    folder that cannot be written to is not held: a training run that writes nothing may use it.
    """
    with ExitStack() as held:
        in_first(partial(_hold, Path(folder), held, remove_empty=remove_empty), device=device)
        yield


@contextmanager
def claimed_file(path: str | Path, *, device: str | None) -> Iterator[None]:
    """Hold a file that long work adds to, for the block: no second process adds to it.

    Args:
        path: the file; its folder is made if absent.
        device: as for `claimed`; process 0 holds it for all. None: this process works alone.

    Raises ValueError if it is held already.
    """
    with ExitStack() as held:
        hold = partial(_hold_file, Path(path), held)
        hold() if device is None else in_first(hold, device=device)
        yield


def _hold_file(path: Path, held: ExitStack) -> None:
    place = path.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.with_name(f".{place.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{path} is in use: another process adds to it. Wait until it has ended, stop it, or "
            "give another file"
        ) from None
    except (OSError, NotImplementedError) as error:
        say(f"{path} cannot be locked ({error}): a second process there would not be noticed")
        return
    held.callback(_release, lock, place.parent, last=True, names=[Path(lock.lock_file).name])


def _hold(folder: Path, held: ExitStack, *, remove_empty: Sequence[Path]) -> None:
    absent = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"{folder} is a file, or lies below one: give a folder as output_dir"
        ) from None
    held.callback(_remove_empty, [*absent, *remove_empty])
    place = folder.resolve()
    lock = FileLock(place / LOCK, timeout=0, is_singleton=True)
    again = lock.is_locked
    note = _read(place)
    alone = not note or _lives(note)
    try:
        lock.acquire(timeout=0 if alone else _WAIT, poll_interval=0.1)
    except Timeout:
        raise ValueError(_refusal(folder, _read(place))) from None
    except (OSError, NotImplementedError) as error:
        say(f"{folder} cannot be locked ({error}): a second training there would not be noticed")
        return
    held.callback(_release, lock, place, last=not again)
    if again:
        return
    here = socket.gethostname()
    if note and note.get("host") != here:
        say(
            f"{folder}: {_whose(note)} began a training there, and its end was not noted. If it "
            "still runs, stop one of the two: locks do not always reach other machines"
        )
    since = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"pid": os.getpid(), "host": here, "since": since}
    about["began"] = psutil.Process().create_time()
    with suppress(OSError):  # the lock counts, not the note
        write_whole(place / NOTE, json.dumps(about) + "\n")


def _release(lock: Any, place: Path, *, last: bool, names: Sequence[str] = (NOTE, LOCK)) -> None:
    if last:  # they go while the lock is held, so that nobody else's is removed
        # Who opened the file before and locks it next tries again (filelock 3.21.2 or newer).
        for name in names:
            with suppress(OSError):  # Windows removes no open file
                remove(place / name)
    lock.release()


def _remove_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):  # it is in use, or not empty
        for folder in folders:
            folder.rmdir()


def _read(place: Path) -> dict[str, Any]:
    try:
        found = read_json(place / NOTE)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lives(note: dict[str, Any]) -> bool:
    """Whether the process of a note runs, as far as can be known from here."""
    if note.get("host") != socket.gethostname():
        return True
    try:
        process = psutil.Process(note.get("pid"))
        same = abs(process.create_time() - float(note.get("began", 0))) < 2
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, TypeError, ValueError):
        return False


def _whose(note: dict[str, Any]) -> str:
    if not note:
        return "another process"
    return f"process {note.get('pid')} on {note.get('host')}, since {note.get('since')},"


def _refusal(folder: Path, note: dict[str, Any]) -> str:
    return (
        f"{folder} is in use: {_whose(note)} trains there. Wait until it has ended, stop it, or "
        "give another output_dir"
    )
