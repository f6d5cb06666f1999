"""A task's questions, shared out among several processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from lm_eval.api.task import Task


@contextmanager
def shared_out() -> Iterator[None]:
    """The harness gives each process every so-manyth question, with the prompt it always has.

    By itself the harness has each process draw few-shot examples for its own questions only,
    so that the prompts depend on the number of processes. Here each process makes all prompts,
    which takes little, and keeps its own.

    Raises ValueError where there are fewer questions than processes: one without a question
    would leave the others waiting; for ``cache_requests``, whose file all would write at once.
    """
    build = Task.build_all_requests

    def build_own(task: Any, *, rank: int = 0, world_size: int = 1, **arguments: Any) -> None:
        if world_size > 1 and arguments.get("cache_requests"):
            raise ValueError(
                f"cache_requests in {world_size} processes: all would write one file at once. "
                "Leave it out: the requests take little to make"
            )
        build(task, rank=0, world_size=1, **arguments)
        asked = {instance.doc_id for instance in task.instances}
        if len(asked) < world_size:
            raise ValueError(
                f"{task.config.task}: {len(asked)} questions for {world_size} processes: start "
                "fewer, or give a higher limit"
            )
        task._instances = [i for i in task.instances if i.doc_id % world_size == rank]

    with patch.object(Task, "build_all_requests", build_own):
        yield
