"""Our tasks for lm-evaluation-harness, one YAML file each, and how the harness finds them."""

from collections.abc import Sequence
from pathlib import Path

from lm_eval.tasks import TaskManager

from mathsft.checks import unknown_name

TASKS = Path(__file__).parent


def task_manager(
    tasks: Sequence[str], *, file: str | Path | None = None, examples: str | Path | None = None
) -> TaskManager:
    """The harness's task manager with ``tasks``: our tasks and, only if needed, its own.

    Its own are some 14,000 files, and reading them takes ten seconds. Raises ValueError for an
    unknown task.
    """
    files = {"file": file, "examples": examples}
    known = {
        "include_path": str(TASKS),
        "metadata": {key: str(value) for key, value in files.items() if value is not None},
    }
    manager = TaskManager(include_defaults=False, **known)
    if not set(tasks) <= set(manager.all_tasks):
        manager = TaskManager(**known)
    for task in tasks:
        if task not in manager.all_tasks and not task.endswith(".yaml"):
            raise ValueError(unknown_name("task", task, sorted(manager.all_tasks), shown=12))
    return manager
