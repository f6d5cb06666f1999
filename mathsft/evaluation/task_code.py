"""Code in task files of lm-evaluation-harness: what one would run, found without running it.

A task file is YAML, but it can hold code. The harness imports the Python file that ``!function``
names, a metric that it does not know is a script, and some settings of a data set unpickle. So a
config from somebody else whose ``tasks:`` names a file could run anything. A file that only
describes rows and prompts runs nothing: its templates are rendered in jinja's sandbox
(`mathsft.evaluation.requests.quiet_harness`).
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mathsft.evaluation.task_files import TASKS, included

# What a group may change about tasks of the harness. Their own functions read all other settings:
# some load a tokenizer that `metadata` names with its code, or calculate what a row says.
_OF_GROUPS = {
    "group", "task", "group_alias", "task_alias", "aggregate_metric_list", "num_fewshot", "tag",
    "description", "task_list", "repeats",
}  # fmt: skip
# Keys that run code, or let a task run it, whatever their value.
_CODE = {
    "class": "a Python class",
    "unsafe_code": "says whether answers of the model are run as programs",
    "use_prompt": "reads another file of prompts",
    "trust_remote_code": "runs code of a repository",
    "custom_generate": "runs code of a repository",
}
_BUILDERS = {
    "pandas": "unpickles its files",
    "generator": "calls a function",
    "iceberg": "imports what its settings name",
}


def code_in(path: str | Path) -> list[str]:
    """What a task file would run: the file, the key and what it is, for each place.

    Files of this package run functions of this package, and count as harmless. Files of the
    harness do not, if another file includes them: their functions were written for other rows.
    """
    found = []
    merged: dict[str, Any] = {}
    for file, keys in included(Path(path)):
        merged = keys | merged
        if TASKS.resolve() not in file.parents:
            places = [*keys.functions, *_places(keys, [], set())]
            found += [f"{file}: {place}" for place in places]
    return found + [f"{path}: {place}" for place in _overrides(merged)]


def _places(value: Any, keys: list[str], seen: set[int]) -> Iterator[str]:
    """The keys that run code, and why."""
    lists = list | tuple | set  # YAML's !!omap, !!pairs and !!set make the last two
    if not isinstance(value, Mapping | lists) or id(value) in seen:  # an anchor may be used often
        return
    seen.add(id(value))
    if isinstance(value, lists):
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
        yield from _places(inner, [*keys, name], seen)


def _overrides(value: Any, at: str = "") -> Iterator[str]:
    """What a group changes about tasks that are defined elsewhere, other than `_OF_GROUPS`."""
    if not isinstance(value, Mapping) or not (at or "group" in value):
        return
    own = {"metadata"} if "group" in value and not at else set()  # it stays with the group
    if other := sorted({str(key) for key in value} - _OF_GROUPS - own):
        yield (
            f"{at}{', '.join(other)}: may give other rows to a task of the harness, or settings to "
            "its code"
        )
    for number, inner in enumerate(value["task"] if isinstance(value.get("task"), list) else ()):
        yield from _overrides(inner, f"{at}task.{number}: ")


def _data_code(path: Any) -> str:
    """Why these rows are code; "" if they are not."""
    if not isinstance(path, str) or "\0" in path:
        return ""  # the harness refuses it
    if path in _BUILDERS:
        return _BUILDERS[path]
    return "has a script" if path.endswith(".py") or any(Path(path).glob("*.py")) else ""


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
