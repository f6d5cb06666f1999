"""Task files of lm-evaluation-harness: read as the harness reads them, but nothing in them is run.

Whether a file would run code says `mathsft.evaluation.task_code`.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval
import yaml

from mathsft.checks import check_keys, usable_yaml
from mathsft.files import check_regular

HARNESS = Path(lm_eval.__file__).parent / "tasks"
TASKS = Path(__file__).parent / "tasks"

# The reader that the harness uses; with another, a file could mean something else here.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NAME = re.compile(r"^(?:task|group):[ \t]*[\"']?([^\s\"'#\[]+)", re.MULTILINE)
_ROWS = {"dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset"}


class _Loader(_LOADER):
    """Reads plain values; ``!function`` stays a text, and any other tag is an error.

    ``functions``: each ``!function`` that the harness would import, with its line. It imports also
    those that leave no trace in the values, such as one that a later key overrides.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.functions: dict[int, str] = {}  # by node: an anchor may be used often

    def function(self, node: Any) -> str:
        name = str(self.construct_scalar(node))
        self.functions[id(node)] = f"line {node.start_mark.line + 1}: !function {name}"
        return name


_Loader.add_constructor("!function", _Loader.function)


def is_file(task: str) -> bool:
    """Whether a task is given as a path and not by a name."""
    return Path(task).suffix in (".yaml", ".yml") or "/" in task or os.sep in task


class _Keys(dict[str, Any]):
    """The keys of a task file; ``functions`` are those that it names."""

    functions: tuple[str, ...] = ()


def read_task_file(path: str | Path) -> _Keys:
    """The keys of a task file, without those that it includes; nothing in it is run.

    Raises:
        FileNotFoundError, OSError: it is not there, or cannot be read.
        ValueError: a folder, a pipe, not YAML, a key twice, or keys that are not a task's.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        inside = ", ".join(sorted(file.name for file in path.glob("*.yaml"))[:12])
        raise ValueError(f"{path} is a folder: give its task files ({inside or 'it has none'})")
    check_regular(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such task file")
    try:
        text = path.read_bytes().decode()
        with usable_yaml(path):
            check_keys(text, path)
            loader = _Loader(text)
            try:
                found = loader.get_single_data()
            finally:
                loader.dispose()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a task file: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a task file: expected keys and values")
    keys = _Keys(found)
    keys.functions = tuple(loader.functions.values())
    return keys


def described(path: str | Path) -> dict[str, Any]:
    """The keys of a task file and of the files that it includes; its own win, as in the harness.

    Raises what `read_task_file` raises, and ValueError if files include each other in a circle,
    or if there is no ``task`` and no ``group``, or its name cannot be part of a file's name.
    """
    merged: dict[str, Any] = {}
    for _, keys in reversed([*included(Path(path))]):
        merged |= keys
    name = merged.get("group") or merged.get("task")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{path}: not a task file: it has neither a task nor a group with a name")
    if not re.fullmatch(r"[\w.+:-]{1,150}", name):
        raise ValueError(
            f"{path}: the name {name[:160]!r} would be part of a file's name: use letters, digits "
            "and . + : - _ (at most 150)"
        )
    return merged


def included(path: Path, before: tuple[Path, ...] = ()) -> Iterator[tuple[Path, _Keys]]:
    """A task file and those that it includes, each before what it includes."""
    path = path.expanduser().resolve()
    if path in before:
        raise ValueError(f"{path}: it includes itself")
    if before and not path.exists():
        raise FileNotFoundError(f"{path}: there is no such task file (included by {before[-1]})")
    keys = read_task_file(path)
    includes = keys.pop("include", [])
    yield path, keys
    for one in reversed(includes if isinstance(includes, list) else [includes]):
        if not isinstance(one, str):
            raise ValueError(f"{path}: include: a file's name is expected, found {one!r:.80}")
        yield from included(path.parent / one, (*before, path))


def task_name(task: str) -> str:
    """The name of a task, or of the group, that is given by its name or its file."""
    if not is_file(task):
        return task
    keys = described(task)
    return str(keys.get("group") or keys["task"])


def members(keys: Mapping[str, Any]) -> list[str]:
    """The names of the tasks and groups in a group that are defined elsewhere."""
    inside = keys["task"] if "group" in keys and isinstance(keys.get("task"), list) else []
    found = []
    for one in inside:
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, Mapping) and "group" in one:
            found += members(one)
        elif isinstance(one, Mapping) and isinstance(one.get("task"), str) and not _ROWS & {*one}:
            found.append(one["task"])
    return found


def check_names(files: Mapping[str, str], known: Sequence[str]) -> None:
    """Raise ValueError if two task files have one name, or one has the name of a known task.

    ``files``: the name in each file. ``known``: the names of our tasks. The harness would
    evaluate only one of the two, and results of both would be called the same.
    """
    for path, name in files.items():
        if name in known or name in _harness_names():
            raise ValueError(
                f"{path} calls its task {name!r}, which is a task of the harness or of this "
                "package: results of the two would be confused. Give it another name"
            )
        for other, its in files.items():
            if its == name and Path(other).resolve() != Path(path).resolve():
                raise ValueError(f"{path} and {other} both call their task {name!r}: rename one")


@cache  # reading them takes a second
def _harness_names() -> frozenset[str]:
    """The names of the harness's own tasks and groups, read faster than the harness does."""
    return frozenset(
        name
        for path in HARNESS.rglob("*.yaml")
        for name in _NAME.findall(path.read_text(encoding="utf-8", errors="replace"))
    )
