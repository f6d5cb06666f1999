"""Our tasks for lm-evaluation-harness, one YAML file each, and how the harness finds them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from mathsft.checks import unknown_name
from mathsft.evaluation.requests import quiet_harness
from mathsft.evaluation.task_code import check_task_files
from mathsft.evaluation.task_files import TASKS, check_names, described, is_file, members


def task_manager(
    tasks: Sequence[str],
    *,
    file: str | Path | None = None,
    examples: str | Path | None = None,
    trust_task_code: bool = False,
) -> TaskManager:
    """The harness's task manager with ``tasks``: our tasks and, only if needed, its own.

    Its own are some 14,000 files, and reading them takes ten seconds.

    Args:
        tasks: names, or task files.
        file: as in `evaluate`.
        examples: as in `evaluate`.
        trust_task_code: allow task files that run code (`mathsft.evaluation.task_code`).

    Raises ValueError for an unknown task, and what `check_task_files` and `check_names` raise.
    """
    for task in tasks:
        if not isinstance(task, str):
            raise ValueError(f"tasks: {task!r:.80}: give a task's name or the path of its file")
    if not tasks:
        raise ValueError("tasks: the list is empty: give a task's name")
    check_task_files([task for task in tasks if is_file(task)], trusted=trust_task_code)
    keys = {task: described(task) for task in tasks if is_file(task)}
    inside = {name: path for path, found in keys.items() for name in members(found)}
    needed = [task for task in tasks if task not in keys]
    files = {"file": file, "examples": examples}
    known = {
        "include_path": str(TASKS),
        "metadata": {key: str(value) for key, value in files.items() if value is not None},
    }
    manager = TaskManager(include_defaults=False, **known)
    if keys:
        names = {path: found.get("group") or found["task"] for path, found in keys.items()}
        check_names(names, manager.all_tasks)
    if not {*needed, *inside} <= set(manager.all_tasks):
        with quiet_harness():  # it tells of tasks that two of its files have
            manager = TaskManager(**known)
    for task in needed:
        if task not in manager.all_tasks:
            raise ValueError(unknown_name("task", task, sorted(manager.all_tasks), shown=12))
    for name, path in inside.items():
        if name not in manager.all_tasks:
            raise ValueError(
                f"{path}: {name!r} is no task of the harness or of this package. A group can name "
                "only those; give your own task files in a list, without a group"
            )
    index = manager.task_index
    for path, found in keys.items():
        if "group" in found:  # for a group's file, the harness takes its tasks for its name
            some = next(iter(index.values()))
            index[path] = replace(
                some,
                name=found["group"],
                kind=type(some.kind).GROUP,
                yaml_path=Path(path),
                cfg=None,
                tags=set(),
            )
    return manager


def load_tasks(manager: TaskManager, tasks: Sequence[str]) -> Any:
    """The harness's tasks and groups by name, with their rows.

    Raises ConnectionError without a network, if rows are only on the hub; and ValueError, with its
    files, for a task that is given as a file and that the harness cannot make; and ImportError for
    one that needs a package which is not installed.
    """
    try:
        return manager.load(list(tasks))
    except ConnectionError as error:
        raise ConnectionError(
            f"the rows of {', '.join(tasks)} cannot be loaded: {error}. Without a network: "
            "mathqa_tiny, or mathqa_file with a file of MathQA's rows"
        ) from error
    except (AssertionError, ImportError) as error:  # a task's own check of the packages it needs
        raise ImportError(
            f"{', '.join(tasks)}: the harness cannot load the tasks: {error}. Install what it "
            "names, or leave that task out"
        ) from error
    except Exception as error:
        files = ", ".join(task for task in tasks if is_file(task))
        if not files:
            raise
        raise ValueError(
            f"{files}: the harness cannot make the task ({type(error).__name__}: {error}). Look at "
            "its keys, and at the columns that its templates name"
        ) from error
