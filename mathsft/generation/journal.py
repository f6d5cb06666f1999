"""A file of JSON lines that long work writes while it runs, so that it can be resumed.

The first line holds the format and the settings, each later line one result with its ``id``. A
line counts once its line break is there. So a process that is killed while it writes leaves at
most one half line, which is removed when the file is opened again.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mathsft.files import check_regular, own_file, parse_json, write_whole


def open_journal(
    path: Path, settings: Mapping[str, Any], *, kind: str
) -> tuple[dict[Any, dict[str, Any]], int]:
    """Return the results in the file by ``id``, and how many half lines were removed: 0 or 1.

    A file that does not exist, or is empty, gets its first line now.

    Args:
        path: the file; missing folders are created.
        settings: what the results depend on, as JSON values.
        kind: which work the file belongs to.

    Raises ValueError, with the line, for a file of other work, a broken line, and an id that is
    there twice; for a file with other settings, with the first one that differs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    check_regular(path)
    data = path.read_bytes() if path.exists() else b""
    begin = json.dumps({"kind": kind})[:-1].encode()
    if data[: len(begin)] != begin[: len(data)]:
        raise ValueError(f"{path} holds something else than {kind}: give another file")
    whole = data[: data.rfind(b"\n") + 1]
    lines = [_read(line, f"{path}, line {n}") for n, line in enumerate(whole.split(b"\n")[:-1], 1)]
    if lines:
        theirs = lines[0].get("settings", {})
        for name in {**settings, **theirs}:
            if theirs.get(name) != settings.get(name):
                raise ValueError(
                    f"{path} was begun with {name}={theirs.get(name)!r}, now it is "
                    f"{settings.get(name)!r}: use the same value, or give another file"
                )
    found: dict[Any, dict[str, Any]] = {}
    for number, line in enumerate(lines[1:], 2):
        if "id" not in line or line["id"] in found:
            raise ValueError(f"{path}, line {number}: no id, or one that is there twice: remove it")
        found[line["id"]] = line
    if len(whole) < len(data):
        write_whole(path.resolve(), whole)
    if not lines:
        add_lines(path, [{"kind": kind, "settings": dict(settings)}])
    return found, int(len(whole) < len(data))


def add_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write lines at the end of the file, and wait until they are on the disk.

    A symbolic link is followed, because the user named it. A file with a second name (a backup by
    ``cp -al``) becomes one of its own.
    """
    with own_file(path.resolve()).open("a", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read(line: bytes, where: str) -> dict[str, Any]:
    try:
        found = parse_json(line, where)
    except ValueError as error:
        raise ValueError(f"{error}: remove the line") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where} is not an object: remove it")
    return found
