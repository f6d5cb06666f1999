"""Weights that are sharded over several processes (FSDP2): each holds a part of every tensor."""

from typing import cast

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


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


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or where it is sharded all of it, gathered: to be called in each process.

    Without a gradient where it is gathered.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    return cast(DTensor, tensor.detach()).full_tensor()


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state dict, gathered where it is sharded; tied weights stay one tensor."""
    state = model.state_dict(keep_vars=True)
    once = {id(tensor): whole(tensor.detach()) for tensor in state.values()}
    return {name: once[id(tensor)] for name, tensor in state.items()}


def local(tensor: Tensor) -> Tensor:
    """The tensor itself, or where it is sharded this process's part of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
