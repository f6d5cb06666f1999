"""Several processes of one training run or evaluation, as torchrun starts them.

Every process runs the same script and calls the same functions; they divide the rows
among themselves. Process 0 prints and writes for all.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


def say(line: str, *, to: TextIO | None = None) -> None:
    """Print a line once: in process 0 (``RANK``); a single process is process 0."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=to, flush=True)  # a job that is cut off loses what is in the buffer


def processes(device: str, *, timeout: float | None = None, backend: str | None = None) -> Any:
    """accelerate's `PartialState`, with ``num_processes`` and ``process_index``.

    The first call connects the processes, and only this call uses ``timeout`` (how many seconds
    they wait for each other; default: transformers' ``ddp_timeout``, half an hour) and
    ``backend``. ``device`` is the type of the device that the model is on: CPUs communicate over
    gloo, even if the machine has GPUs.
    """
    from accelerate import PartialState

    # torch's own default is ten minutes for NCCL, and loading a large model may take longer.
    how: dict[str, Any] = {"timeout": timedelta(seconds=timeout or 1800)}
    if backend is not None:
        how["backend"] = backend
    return PartialState(cpu=device == "cpu", **how)


def in_first(work: Callable[[], T], *, device: str) -> T:
    """Do the work in process 0; every process returns its result, or raises its error.

    The others wait. Call this in every process: if one does not, the others wait half an hour
    (`processes`).
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
    """Do the work in each process, first in process 0, and return each one's result.

    The others then find what process 0 stored on disk, such as a download or tokenised rows. Call
    this in every process, like `in_first`; an error in process 0 is raised in all.
    """
    found: list[T] = []
    in_first(lambda: found.append(work()), device=device)
    return found[0] if found else work()


def gathered(values: "Tensor") -> "Tensor":
    """The values (n,) of all processes, one after the other; every process must call this."""
    import torch
    from accelerate.utils import gather_object

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return values
    parts = gather_object([values.detach().cpu()])
    return torch.cat(parts).to(values.device)
