"""Files that are written whole or not at all, never through links; JSON read with clear errors."""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write a file aside, then rename it to ``path``: a reader finds the old file or the new one.

    A link at ``path`` is replaced; nothing is written through it. Missing folders are created. Text
    is written as UTF-8. The bytes are on the disk before the file has its name, so that a machine
    that goes down leaves no empty file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        new.unlink(missing_ok=True)  # of a killed process that had this number; or a link
        with new.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    return path


def on_disk(folder: str | Path) -> None:
    """Wait until a folder's files are on the disk: a machine that goes down leaves no empty ones.

    Links are not followed.
    """
    if os.name == "nt":  # it can wait only for files that are open for writing
        return
    for path in Path(folder).rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def own_file(path: str | Path) -> Path:
    """Make a file that is written in place one of its own: a copy replaces a link.

    A link is a symbolic one, or a second name of the same file, as ``cp -al`` makes it: what is
    added here would be added there as well. A symbolic link to nothing is removed. Call this before
    a file is opened for adding. Raises ValueError for a pipe or a device.
    """
    path = Path(path)
    check_regular(path)
    if not path.exists():
        path.unlink(missing_ok=True)
    elif path.is_symlink() or path.stat().st_nlink > 1:
        write_whole(path, path.read_bytes())
    return path


def remove(path: str | Path, *, first: Sequence[str] = (), empty: bool = False) -> None:
    """Remove a file, or a folder with all in it; of a link only the link, never where it points.

    Args:
        path: what to remove; nothing happens if it does not exist.
        first: names of files in the folder that go before all others: without them, what is left
            of a half-removed folder does not look finished.
        empty: make the files empty before they go. Google Drive keeps removed files in its bin,
            where they use space. A file with another name elsewhere (a hard link) is left whole.

    Raises OSError if something cannot be removed.
    """
    path = Path(path)
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for name in first:
        if empty:
            _make_empty(path / name)
        if (path / name).is_symlink() or (path / name).is_file():
            (path / name).unlink()
    for folder, _, names in os.walk(path) if empty else ():
        for name in names:
            _make_empty(Path(folder, name))
    shutil.rmtree(path)


def _make_empty(path: Path) -> None:
    """Cut a file to nothing, unless it is a link, has a second name, or is no file."""
    if not path.exists() or not _alone(path.lstat()):
        return
    # Between the look and the opening somebody may put a link there; Windows has no such flag.
    number = os.open(path, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        if _alone(os.fstat(number)):
            os.ftruncate(number, 0)
    finally:
        os.close(number)


def _alone(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def parse_json(text: str | bytes, where: Any, **arguments: Any) -> Any:
    """`json.loads`, whose every error is a ValueError that begins with ``where``: a file, a row.

    ``arguments`` are those of `json.loads`. Python refuses an integer of more than 4,300 digits and
    values that are nested about a thousand deep; no real file has either.
    """
    try:
        return json.loads(text, **arguments)
    except RecursionError:
        raise ValueError(f"{where}: not usable as JSON: lists or objects nested too deep") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{where}: not valid JSON ({error.msg}, {place})") from None
    except ValueError as error:
        raise ValueError(f"{where}: not usable as JSON ({error})") from None


def read_json(path: str | Path, **arguments: Any) -> Any:
    """Read a JSON file; an error names it (`parse_json`). Raises OSError if it cannot be read."""
    check_regular(path)
    return parse_json(Path(path).read_bytes(), path, **arguments)


def read_text(path: str | Path) -> str:
    """The text of a small file, such as a recipe or a template.

    Raises OSError if it cannot be read, and ValueError, which names it, if it is not UTF-8 or is
    no file (`check_regular`).
    """
    check_regular(path)
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start}): save the file as UTF-8"
        ) from None
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(f"{path}: cannot be read ({error.strerror})") from None


_DEEPEST = 100


def nested_too_deep(value: Any) -> bool:
    """Whether lists and objects are nested more than 100 deep: no real row is.

    Python's own limit is about a thousand, and is for all functions together.
    """
    level = [value]
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not inner:
            return False
        level = inner
    return any(isinstance(item, dict | list) for item in level)


def check_regular(path: str | Path) -> None:
    """Raise ValueError for what has no end or waits for a writer: a pipe, a device, a socket.

    Links are followed. A path that does not exist is left to the function that opens it.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() or stat.S_ISREG(path.stat().st_mode)):
        raise ValueError(f"{path} is a pipe, a socket or a device: give a file")


def check_writable(folder: str | Path) -> None:
    """Raise unless files can be written into the folder; call it before long work.

    A folder that does not exist is not made: its nearest parent must allow it. Raises ValueError
    if a file is in the way, and OSError if the folder is read-only.
    """
    place = Path(folder).absolute()
    while not place.exists():
        if place.is_symlink():
            raise ValueError(f"{place} is a link to something that does not exist: remove it")
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"{place} is a file, and {folder} must be a folder: give another")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written to ({error.strerror}): give another") from None


def inert(value: Any) -> Any:
    """A cell for a CSV file that no spreadsheet takes for a formula.

    A text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line end gets an apostrophe
    before it, also after spaces. Numbers, also as texts such as "-0.5", stay as they are.
    """
    if not isinstance(value, str) or value.strip(" ")[:1] not in tuple("=+-@\t\r\n＝＋－＠"):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
