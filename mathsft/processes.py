"""Several processes of one training run or evaluation, as torchrun starts them.

Every process runs the same script and calls the same functions; they share the rows out
among themselves. Process 0 prints and writes for all. Under FSDP2 each process holds a part of
every weight.
"""

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TextIO, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

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


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds only a part of the tensor."""
    return isinstance(tensor, DTensor)


def check_not_sharded(model: nn.Module) -> None:
    """Raise ValueError where the model is sharded: every pass then needs all processes at once."""
    if any(map(is_sharded, model.parameters())):
        raise ValueError(
            "the model is sharded (FSDP), so the processes cannot share questions out: "
            "save_adapter, then load it in each process and evaluate that"
        )


def check_not_emptied(model: nn.Module) -> None:
    """Raise ValueError where DeepSpeed's ZeRO-3 has taken the weights out of the model."""
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise ValueError(
            "DeepSpeed's ZeRO-3 has the weights, and the model's own are empty outside of a pass: "
            "nothing was written. Call trainer.save_model (with stage3_gather_16bit_weights_on_"
            "model_save in DeepSpeed's configuration), or run DeepSpeed's zero_to_fp32.py on a "
            "checkpoint, or train with FSDP2, whose shards are gathered here"
        )


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or where it is sharded all of it, gathered: to be called in each process.

    Without a gradient where it is gathered.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    return cast(DTensor, tensor.detach()).full_tensor()


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state dict; tied weights stay one tensor. To be called in each process.

    What is sharded is gathered tensor by tensor, since a device may not hold it all, and kept in
    the main memory of process 0; in the others it is left out.
    """
    state = model.state_dict(keep_vars=True)
    kept: dict[int, Tensor] = {}
    for key, tensor in {id(tensor): tensor for tensor in state.values()}.items():
        found = whole(tensor.detach())
        if not is_sharded(tensor):
            kept[key] = found
        elif torch.distributed.get_rank() == 0:
            kept[key] = found.cpu()
    return {name: kept[id(tensor)] for name, tensor in state.items() if id(tensor) in kept}


def places(tensors: Iterable[Tensor]) -> set[int]:
    """Where the tensors lie in memory, to tell them again behind other objects.

    A part of a sharded tensor that is empty lies nowhere, and is left out.
    """
    return {local(tensor).data_ptr() for tensor in tensors} - {0}


def local(tensor: Tensor) -> Tensor:
    """The tensor itself, or where it is sharded this process's part of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
