"""Several processes of one training or evaluation, as torchrun starts them.

Every process runs the same script and calls the same functions; they share the rows out
among themselves. Process 0 speaks and writes for all.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TextIO, TypeVar

T = TypeVar("T")


def say(line: str, *, to: TextIO | None = None) -> None:
    """Print a line once: in process 0 (``RANK``), which a single process is as well."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=to, flush=True)  # a job that is cut off loses what is in the buffer


def processes(device: str, *, timeout: float | None = None, backend: str | None = None) -> Any:
    """accelerate's `PartialState`, with ``num_processes`` and ``process_index``.

    The first call makes the processes known to each other, and it alone heeds ``timeout`` (how
    many seconds they wait for one another; default: transformers' ``ddp_timeout``, half an hour)
    and ``backend``. ``device`` is the type of the device that the model is on: CPUs talk over
    gloo, also where there are GPUs besides.
    """
    from accelerate import PartialState

    # torch's own default is ten minutes for NCCL, and loading a large model may take longer.
    how: dict[str, Any] = {"timeout": timedelta(seconds=timeout or 1800)}
    if backend is not None:
        how["backend"] = backend
    return PartialState(cpu=device == "cpu", **how)


def in_first(work: Callable[[], T], *, device: str) -> T:
    """What the work gives in process 0, in every process; what it raises there is raised in all.

    The others wait. To be called in every process: those that wait for one that never comes
    wait half an hour (`processes`).
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


def first_before_others(work: Callable[[], T], *, device: str) -> T:
    """What the work gives in each process; process 0 does it first.

    The others then find what it keeps on disk, such as a download or tokenised rows. To be called
    in every process, as `in_first`, and what is raised in process 0 is raised in all.
    """
    found: list[T] = []
    in_first(lambda: found.append(work()), device=device)
    return found[0] if found else work()
