"""Several processes of one training or evaluation, as torchrun starts them.

Every process runs the same script and calls the same functions; they share the rows out
among themselves. Process 0 speaks and writes for all.
"""

import os
from collections.abc import Callable
from typing import Any


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


def in_first(work: Callable[[], Any], *, device: str) -> None:
    """Let process 0 do the work while the others wait; what it raises is raised in all.

    To be called in every process: those that wait for one that never comes wait half an hour.
    """
    from accelerate.utils import broadcast_object_list

    state = processes(device)
    failed: list[Exception | None] = [None]
    if state.is_main_process:
        try:
            work()
        except Exception as error:
            if state.num_processes == 1:
                raise
            failed = [error]
    if state.num_processes > 1:
        broadcast_object_list(failed)
    if failed[0] is not None:
        raise failed[0]
