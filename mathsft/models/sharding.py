"""Weights that are sharded over several processes (FSDP2): each holds a part of every tensor."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether this process holds only a part of the tensor."""
    return isinstance(tensor, DTensor)


def check_not_sharded(model: nn.Module) -> None:
    """Raise ValueError if the model is sharded: every pass then needs all processes at once."""
    if any(map(is_sharded, model.parameters())):
        raise ValueError(
            "the model is sharded (FSDP), so the processes cannot divide the questions: "
            "call save_adapter, then load the adapter in each process and evaluate that"
        )


def check_not_emptied(model: nn.Module) -> None:
    """Raise ValueError if DeepSpeed's ZeRO-3 has taken the weights out of the model."""
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise ValueError(
            "DeepSpeed's ZeRO-3 has the weights, and the model's own are empty outside of a pass: "
            "nothing was written. Call trainer.save_model (with stage3_gather_16bit_weights_on_"
            "model_save in DeepSpeed's configuration), or run DeepSpeed's zero_to_fp32.py on a "
            "checkpoint, or train with FSDP2, whose shards are gathered here"
        )


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor, gathered if it is sharded. Call this in every process.

    A gathered tensor has no gradient.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    return cast(DTensor, tensor.detach()).full_tensor()


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's state dict; tied weights stay one tensor. Call this in every process.

    Sharded weights are gathered tensor by tensor, because a device may not have room for all of
    them. Process 0 keeps them in main memory; the other processes leave them out.
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
    """Return the tensors' memory addresses, to recognise them when other objects hold them.

    An empty part of a sharded tensor has no address, and is left out.
    """
    return {local(tensor).data_ptr() for tensor in tensors} - {0}


def local(tensor: Tensor) -> Tensor:
    """Return the tensor, or this process's part of it if it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
