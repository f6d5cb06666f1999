"""The harness's cache of answers, stored as JSON instead of pickles.

The harness keeps answers in an sqlite file, through `sqlitedict`, and each as a pickle. Reading a
pickle runs what is in it, so a cache from elsewhere could run anything. `sqlitedict` takes
functions that write and read a value; here they write and read JSON.
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlitedict

from mathsft.compat import replaced

_NOT_OURS = "Give another use_cache, or delete the file if you do not need it"

_TABLE = "unnamed"  # of sqlitedict
_OURS = {("table", _TABLE), ("index", f"sqlite_autoindex_{_TABLE}_1")}


@contextmanager
def json_answers() -> Iterator[None]:
    """Within this block the harness stores answers as JSON, and reads nothing else.

    An answer is a log-likelihood with its greedy flag, a log-likelihood alone, or a text. Raises
    ValueError, with the file's name, for a file that holds something else, that is damaged, or
    that belongs to another user.
    """
    with replaced(sqlitedict, SqliteDict=_JsonDict):
        yield


class _JsonDict(sqlitedict.SqliteDict):  # type: ignore[misc]
    """The harness's file of answers, whose values are JSON."""

    def __init__(self, filename: str, **arguments: Any) -> None:
        check_cache(Path(filename))
        read = partial(_answer, filename)
        super().__init__(filename, encode=json.dumps, decode=read, **arguments)


def check_cache(path: Path) -> None:
    """Make the file, readable for this user only, or check that it is this user's sqlite file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return
    except FileExistsError:
        pass
    if path.is_symlink() or not path.is_file():  # a link could name another program's database
        raise ValueError(f"use_cache: {path} is not a file. {_NOT_OURS}")
    if hasattr(os, "getuid") and path.stat().st_uid != os.getuid():
        raise ValueError(f"use_cache: {path} belongs to another user. {_NOT_OURS}")
    try:
        connection = sqlite3.connect(path)
        try:
            ((found,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
            tables = connection.execute("SELECT type, name FROM sqlite_master").fetchall()
            about = connection.execute(f"SELECT name FROM pragma_table_info('{_TABLE}')")
            columns = [name for (name,) in about]
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise ValueError(f"use_cache: {path} cannot be read ({found}). {_NOT_OURS}")
    others = [f"{kind} {name}" for kind, name in tables if (kind, name) not in _OURS]
    if others or columns not in ([], ["key", "value"]):
        what = ", ".join(others[:3]) or f"other columns of {_TABLE}"
        raise ValueError(f"use_cache: {path} is no cache of answers ({what}). {_NOT_OURS}")


def _answer(path: str, stored: Any) -> Any:
    """One stored answer."""
    try:
        found = json.loads(stored)
    except (ValueError, TypeError, RecursionError):
        found = None
    match found:
        case [float() as score, bool() as greedy]:
            return score, greedy
        case float() | str():
            return found
    raise ValueError(
        f"use_cache: {path} holds an answer that this package did not write (the harness itself "
        f"stores pickles, which are not read: they could run code). {_NOT_OURS}"
    )
