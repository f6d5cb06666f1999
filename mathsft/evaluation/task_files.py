"""Task files of lm-evaluation-harness: what one would run, found without running it.

A task file is YAML, but it can hold code. The harness imports the Python file that ``!function``
names, a metric that it does not know is a script, and some settings of a data set unpickle. So a
config from somebody else whose ``tasks:`` names a file could run anything. A file that only
describes rows and prompts runs nothing: its templates are rendered in jinja's sandbox
(`mathsft.evaluation.requests.quiet_harness`).
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
# Keys that run code, or let a task run it, whatever their value.
_CODE = {
    "class": "a Python class",
    "unsafe_code": "says whether answers of the model are run as programs",
    "use_prompt": "reads another file of prompts",
    "trust_remote_code": "runs code of a repository",
    "custom_generate": "runs code of a repository",
}
_BUILDERS = {"pandas": "unpickles its files", "generator": "calls a function"}


class _Function(str):
    """What follows ``!function``: a module and a function in it."""


class _Loader(_LOADER):
    """Reads plain values; ``!function`` stays a text, and any other tag is an error."""


_Loader.add_constructor("!function", lambda loader, node: _Function(loader.construct_scalar(node)))


def is_file(task: str) -> bool:
    """Whether a task is given as a path and not by a name."""
    return Path(task).suffix in (".yaml", ".yml") or "/" in task or os.sep in task


def read_task_file(path: str | Path) -> dict[str, Any]:
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
            found = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a task file: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a task file: expected keys and values")
    return found


def described(path: str | Path) -> dict[str, Any]:
    """The keys of a task file and of the files that it includes; its own win, as in the harness.

    Raises what `read_task_file` raises, and ValueError if files include each other in a circle,
    or if there is no ``task`` and no ``group``, or its name cannot be part of a file's name.
    """
    merged: dict[str, Any] = {}
    for _, keys in reversed([*_included(Path(path))]):
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


def _included(path: Path, before: tuple[Path, ...] = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
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
            raise ValueError(f"{path}: include: a file's name is expected, found {one!r}")
        yield from _included(path.parent / one, (*before, path))


def task_name(task: str) -> str:
    """The name of a task, or of the group, that is given by its name or its file."""
    if not is_file(task):
        return task
    keys = described(task)
    return str(keys.get("group") or keys["task"])


def code_in(path: str | Path) -> list[str]:
    """What a task file would run: the file, the key and what it is, for each place.

    Files of this package run functions of this package, and count as harmless. Files of the
    harness do not, if another file includes them: their functions were written for other rows.
    """
    found = []
    for file, keys in _included(Path(path)):
        if TASKS.resolve() not in file.parents:
            found += [f"{file}: {place}" for place in _places(keys, [], set())]
    return found


def _places(value: Any, keys: list[str], seen: set[int]) -> Iterator[str]:
    """The keys that run code, and why."""
    at = ".".join(keys)
    if isinstance(value, _Function):
        yield f"{at}: !function {value}"
    if not isinstance(value, Mapping | list) or id(value) in seen:  # an anchor may be used often
        return
    seen.add(id(value))
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _places(inner, [*keys, str(number)], seen)
        return
    for key, inner in value.items():
        name = str(key)
        here = ".".join([*keys, name])
        if name in _CODE:
            yield f"{here}: {_CODE[name]}"
        elif name == "dataset_path" and (why := _data_code(inner)):
            yield f"{here}: {inner} {why}"
        elif name == "metric" and not _known_metric(inner):
            yield f"{here}: {inner}: a metric's script"
        elif name == "hf_evaluate" and inner:
            yield f"{here}: a metric's script"
        elif isinstance(key, _Function):
            yield f"{here}: !function"
        yield from _places(inner, [*keys, name], seen)
    if "task" in value and keys and (rows := sorted(_ROWS & value.keys())):
        yield f"{at}: {', '.join(rows)}: may give other rows to a task of the harness"


def _data_code(path: Any) -> str:
    """Why these rows are code; "" if they are not."""
    if path in _BUILDERS:
        return _BUILDERS[path]
    scripts = isinstance(path, str) and (path.endswith(".py") or any(Path(path).glob("*.py")))
    return "has a script" if scripts else ""


def _known_metric(name: Any) -> bool:
    import lm_eval.api.metrics  # noqa: F401 (they register themselves)
    from lm_eval.api.registry import metric_registry

    return isinstance(name, str) and name in metric_registry


def check_task_files(paths: Iterable[str | Path], *, trusted: bool = False) -> None:
    """Raise ValueError for a task file that would run code, unless files are ``trusted``.

    Also raises what `read_task_file` raises. Nothing in a file is run.
    """
    for path in paths:
        if (found := code_in(path)) and not trusted:
            more = f", and {len(found) - 3} more" if len(found) > 3 else ""
            raise ValueError(
                f"{path} would run code ({'; '.join(found[:3])}{more}). Nothing of it was run. If "
                "you wrote it, or have read it and the Python files that it names: "
                "trust_task_code=True, on a command line --trust_task_code true"
            )


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
