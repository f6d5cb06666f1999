"""Several processes of one training or evaluation, as torchrun starts them.

Every process runs the same script and calls the same functions; they share the rows out
among themselves. Process 0 speaks and writes for all.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def say(line: str) -> None:
    """Print a line once: in process 0 (``RANK``), which a single process is as well."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)  # a job that is cut off loses what is in the buffer


def processes(device: str) -> Any:
    """accelerate's `PartialState`, with ``num_processes`` and ``process_index``.

    The first call makes the processes known to each other. ``device`` is the type of the
    device that the model is on: CPUs talk over gloo, also where there are GPUs besides.
    """
    from accelerate import PartialState

    return PartialState(cpu=device == "cpu")


def in_first(work: Callable[[], T], *, device: str) -> T:
    """What the work gives in process 0, in every process; what it raises there is raised in all.

    The others wait. To be called in every process: those that wait for one that never comes
    wait half an hour.
    """
    from accelerate.utils import broadcast_object_list

    state = processes(device)
    if state.num_processes == 1:
        return work()
    outcome: list[Any] = [None, None]
    if state.is_main_process:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    given: T = outcome[0]
    return given
