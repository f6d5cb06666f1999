"""Our tasks for lm-evaluation-harness, one YAML file each, and how it finds them."""

from collections.abc import Sequence
from pathlib import Path

from lm_eval.tasks import TaskManager

from mathsft.checks import unknown_name

TASKS = Path(__file__).parent


def task_manager(
    tasks: Sequence[str], *, file: str | Path | None = None, examples: str | Path | None = None
) -> TaskManager:
    """The harness's task manager that knows ``tasks``, ours and, where needed, its own.

    Its own are some 14,000 files, which takes it ten seconds to read. Raises ValueError for a
    task that neither knows.
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
