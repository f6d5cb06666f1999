"""LoRA in half precision with fewer bytes moved: the same sums, fewer copies of the activations.

peft keeps adapters in float32 and casts the input of every adapted layer to float32; autocast then
casts it back. It also multiplies the whole output by the scaling. On a GPU such copies take as long
as the matrix products of a small model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor, nn


@contextmanager
def lean_adapters(model: nn.Module) -> Iterator[None]:
    """Inside, LoRA layers of ``model`` compute ``W x + s B A dropout(x)`` with fewer bytes moved.

    Under autocast only; in float32, and for other adapters (DoRA, a bias, several at once), peft's
    own code runs, and not a bit changes. Two things differ:

    - the input stays in half precision, in which autocast multiplies anyway;
    - the scaling and the sum are part of the product with B, so they are rounded once instead of
      three times.

    The layers compute as before afterwards.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, LoraLayer) and "forward" not in vars(module)
    ]
    try:
        for layer in layers:
            vars(layer)["forward"] = MethodType(_forward, layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    name = _plain_adapter(layer)
    lean = name is not None and not args and not kwargs
    if not lean or not torch.is_autocast_enabled(x.device.type):
        return type(layer).forward(layer, x, *args, **kwargs)
    result = layer.base_layer(x)
    low = layer.lora_A[name](layer.lora_dropout[name](x))
    weight = layer.lora_B[name].weight
    if low.dtype != result.dtype:  # such as a base in float32 that autocast leaves alone
        return result + (nn.functional.linear(low, weight) * layer.scaling[name]).to(result.dtype)
    added = torch.addmm(
        result.flatten(0, -2),
        low.flatten(0, -2),
        weight.to(low.dtype).T,
        alpha=layer.scaling[name],
    )
    return added.view(result.shape)


def _plain_adapter(layer: Any) -> str | None:
    """The name of the layer's only active adapter if it is a plain LoRA on a matrix."""
    active = layer.active_adapters
    if layer.disable_adapters or layer.merged or len(active) != 1:
        return None
    (name,) = active
    if name not in layer.lora_A or name in layer.lora_variant:
        return None
    on_matrix = type(layer) is not ParamWrapper and isinstance(layer.get_base_layer(), nn.Linear)
    if not on_matrix or layer.lora_B[name].bias is not None:
        return None
    return str(name)
