"""A file of JSON lines that long work writes while it runs, so that it can be resumed.

The first line holds the format and the settings, each later line one result with its ``id``. A
line counts once its line break is there. So a process that is killed while it writes leaves at
most one half line, which is removed when the file is opened again. Lines that hold a failure can be
removed too, so that the work is done again.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mathsft.files import check_regular, own_file, parse_json, write_whole


class Journal(NamedTuple):
    """What a file holds: the results by id, and how many half lines (0 or 1) and failures."""

    results: dict[Any, dict[str, Any]]
    half_lines: int
    failures: int


def open_journal(
    path: Path,
    settings: Mapping[str, Any],
    *,
    kind: str,
    key: Sequence[str] = ("id",),
    failed: Callable[[Mapping[str, Any]], bool] = lambda line: False,
) -> Journal:
    """Return the file's results; remove half a line at its end, and the lines that failed.

    A file that does not exist, or is empty, gets its first line now.

    Args:
        path: the file; missing folders are created.
        settings: what the results depend on, as JSON values.
        kind: which work the file belongs to.
        key: the keys that identify a line. Results are found by its value, or by a tuple of all.
        failed: whether a line holds a failure.

    Raises ValueError as `read_journal`; for a file with other settings, with the first one that
    differs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    theirs, found = read_journal(path, kind=kind, key=key)
    check_settings(path, theirs, settings)
    kept = {name: line for name, line in found.results.items() if not failed(line)}
    failures = len(found.results) - len(kept)
    if theirs is None:
        theirs = dict(settings)
    elif not found.half_lines + failures:
        return found
    lines = [{"kind": kind, "settings": theirs}, *kept.values()]
    write_whole(path.resolve(), "".join(map(_line, lines)))
    return Journal(kept, found.half_lines, failures)


def check_settings(
    path: Path, theirs: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> None:
    """Raise ValueError, with the first one that differs, if a file has other settings."""
    if theirs is None:
        return
    for name in {**settings, **theirs}:
        if theirs.get(name) != settings.get(name):
            raise ValueError(
                f"{path} was begun with {name}={theirs.get(name)!r}, now it is "
                f"{settings.get(name)!r}: use the same value, or give another file"
            )


def read_journal(
    path: Path, *, kind: str, key: Sequence[str] = ("id",)
) -> tuple[dict[str, Any] | None, Journal]:
    """Return the settings and the results of a file, and leave it as it is.

    The settings are None if the file does not exist, or has no whole line. The arguments are those
    of `open_journal`.

    Raises ValueError, with the line, for a file of other work, a broken line, and an id that is
    there twice.
    """
    check_regular(path)
    data = path.read_bytes() if path.exists() else b""
    begin = json.dumps({"kind": kind})[:-1].encode()
    if data[: len(begin)] != begin[: len(data)]:
        raise ValueError(f"{path} holds something else than {kind}: give another file")
    whole = data[: data.rfind(b"\n") + 1]
    lines = [_read(line, f"{path}, line {n}") for n, line in enumerate(whole.split(b"\n")[:-1], 1)]
    found: dict[Any, dict[str, Any]] = {}
    for number, line in enumerate(lines[1:], 2):
        there = all(isinstance(line.get(name), str | int) for name in key)
        name = (line[key[0]] if len(key) == 1 else tuple(map(line.get, key))) if there else None
        if not there or name in found:
            raise ValueError(
                f"{path}, line {number}: no {' and '.join(key)}, or one that is there twice: "
                "remove it"
            )
        found[name] = line
    return lines[0].get("settings", {}) if lines else None, Journal(
        found, int(len(whole) < len(data)), 0
    )


def unique_id(
    given: Any, number: int, places: dict[Any, int], *, place: int | None = None
) -> str | int:
    """Return the id of a row; default: its ``number``. Add it to ``places``.

    ``place`` is what errors call the row if a file counts it otherwise, as lines from 1.

    Raises ValueError if it is neither a text nor a whole number, or another row has it.
    """
    found, place = number if given is None else given, number if place is None else place
    if not isinstance(found, str | int) or isinstance(found, bool):
        raise ValueError(
            f"row {place}, column 'id': expected text or a whole number, found {found!r:.40}"
        )
    if found in places:
        raise ValueError(
            f"rows {places[found]} and {place} have the same id, {found!r}: each row needs its own"
        )
    places[found] = place
    return found


def add_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write lines at the end of the file, and wait until they are on the disk.

    A symbolic link is followed, because the user named it. A file with a second name (a backup by
    ``cp -al``) becomes one of its own.
    """
    with own_file(path.resolve()).open("a", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(_line(line))
        file.flush()
        os.fsync(file.fileno())


def _line(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _read(line: bytes, where: str) -> dict[str, Any]:
    try:
        found = parse_json(line, where)
    except ValueError as error:
        raise ValueError(f"{error}: remove the line") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where} is not an object: remove it")
    return found
