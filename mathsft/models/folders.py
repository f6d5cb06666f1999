"""Folders that are replaced as a whole, and put right after a kill.

A folder is written under another name and then takes its own. Between the two renames that replace
a folder, none has the name: what a kill leaves there is put right by whatever reads or writes the
folder next.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

import psutil

from mathsft.files import on_disk, remove
from mathsft.processes import say

# The files of tokenizers, chat templates and generation configs, as patterns for a download.
TEXT_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
    "*.model", "chat_template*", "additional_chat_templates/*", "generation_config.json",
)  # fmt: skip
# What an adapter or a model consists of, in any form (one file or shards): it is replaced.
_REPLACED = (
    "adapter_config.json", "adapter_model*", "base_identity.json", "config.json",
    "model*.safetensors", "model*.index.json", "pytorch_model*", "*.spm", "bpe.codes",
    *(name.split("/")[0] for name in TEXT_FILES),
)  # fmt: skip
# What systems, editors, git and the hub put into folders, and what people write about a model: it
# stays.
_STAYS = (
    ".*", "Thumbs.db", "desktop.ini", "Icon\r", "__pycache__", "lost+found", "README*", "LICENSE*",
    "NOTICE*",
)  # fmt: skip


@contextmanager
def replaced_folder(folder: Path, *, keep_others: bool = True) -> Iterator[Path]:
    """Give a new folder to write to; it replaces ``folder`` if all goes well.

    After a failure or a kill, the old contents remain. A link stays, and the folder that it points
    to is replaced.

    Args:
        folder: an adapter's, a model's or a checkpoint's.
        keep_others: what systems, editors and the hub put into the old folder (``.DS_Store``,
            ``README.md``) is in the new one from the start, and files of another kind are an error
            (`check_replaceable`). False: all of the old folder is replaced, whatever it holds.
    """
    place = _place(folder)
    repair_folder(place)
    if keep_others:
        check_replaceable(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    for left in _left(place):
        with suppress(OSError):  # it only uses space
            remove(left)
    new = place.with_name(f".{place.name}.new-{os.getpid()}")
    old = place.with_name(f".{place.name}.old-{os.getpid()}")
    new.mkdir()
    try:
        for path in sorted(place.glob("*")) if keep_others else ():
            if _like(path.name, _STAYS):
                _copy(path, new / path.name)
        yield new
        on_disk(new)
        if os.path.lexists(place):
            if keep_others:  # it may have changed since
                check_replaceable(folder, written=[path.name for path in new.iterdir()])
            os.rename(place, old)
        os.rename(new, place)
    finally:
        if os.path.lexists(old) and not os.path.lexists(place):  # stopped between the two renames
            os.rename(old, place)
        remove(new)
        remove(old)


def check_replaceable(folder: str | Path, *, written: list[str] | None = None) -> None:
    """Raise ValueError if `replaced_folder` would have to refuse this folder, or cannot replace it.

    Args:
        folder: may be absent.
        written: names that the new folder has; they replace those of the old one.
    """
    place = _place(folder)
    if not os.path.lexists(place):
        return
    if not place.is_dir():
        raise ValueError(f"{folder} is a file: choose a folder")
    if os.path.ismount(place):
        raise ValueError(
            f"{folder} is a whole file system, which cannot be replaced: choose a folder in it"
        )
    with suppress(FileNotFoundError):  # it has been removed
        here = Path.cwd()
        if place == here or place in here.parents:
            raise ValueError(
                f"{folder} is the folder that this process works in, which would be gone: choose a "
                "folder in it"
            )
    known = (*_REPLACED, *_STAYS)
    others = sorted(
        path.name
        for path in place.iterdir()
        if not _like(path.name, known) and path.name not in (written or ())
    )
    if others:
        raise ValueError(
            f"{folder} holds other files ({', '.join(others[:5])}): choose an empty folder"
        )


def repair_folder(folder: str | Path) -> None:
    """Finish or undo what a killed process left between two renames; a printed line says which.

    If nothing has the folder's name, and its old contents are beside it, they get the name again;
    or the new ones, if these are complete. Nothing is done if the process that writes still runs.
    """
    place = _place(folder)
    if os.path.lexists(place):
        return
    left = _left(place)
    for old in (path for path in left if ".old" in path.name):
        new = old.with_name(old.name.replace(".old", ".new"))
        # Its old contents have been renamed, so the new ones are complete.
        kept, what = (new, "new") if new in left else (old, "old")
        try:
            os.rename(kept, place)
        except OSError as error:
            if os.path.lexists(place):
                return  # another process was faster
            say(f"{folder} is absent: a process was killed while it replaced it. Its {what} "
                f"contents are in {kept}, and cannot be moved back: {error}")  # fmt: skip
        else:
            say(f"{folder}: a process was killed while it replaced it; its {what} contents are "
                "there again")  # fmt: skip
        return


def _left(place: Path) -> list[Path]:
    """What dead processes have left beside a folder that they replaced, newest first."""
    form = re.compile(rf"\.{re.escape(place.name)}\.(?:new|old)-(\d+)")
    if not place.parent.is_dir():
        return []
    found = [
        path
        for path in place.parent.iterdir()
        if (name := form.fullmatch(path.name)) and not _writes(int(name[1]), path)
    ]
    return sorted(found, key=lambda path: path.lstat().st_mtime, reverse=True)


def _writes(number: int, left: Path) -> bool:
    """Whether another process with this number may have made the folder, and still works on it."""
    try:
        found = left.lstat()
        # Old contents are there for a moment only, new ones while they are written.
        limit = 60 if ".old-" in left.name else 24 * 3600
        if number == os.getpid() or time.time() - found.st_ctime > limit:
            return False
        process = psutil.Process(number)
        # A process's number is used again later: the writer is older than what it wrote.
        older = process.create_time() <= found.st_mtime + 2
        return older and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
    except psutil.AccessDenied:
        return True


def _place(folder: str | Path) -> Path:
    """The folder that a path means, links followed."""
    try:
        return Path(folder).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: Python 3.11 and 3.12
        raise ValueError(f"{folder} is a link that leads back to itself: {error}") from None


def _like(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _copy(path: Path, to: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, to, symlinks=True)
    else:
        shutil.copy2(path, to, follow_symlinks=False)
