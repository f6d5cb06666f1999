"""Count what one training step launches: operations, and the bytes that they move.

What a CPU dispatches under the dtypes and the autocast of a GPU's policy, a GPU launches too (its
fused dropout and attention are fewer). The model's weights are fake: they have shapes and dtypes
but no numbers, so a step of the real size is counted in seconds.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from mathsft.models import projection

PRODUCTS = {
    "mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
}  # fmt: skip
# They launch nothing: they make tensors without values, or read properties.
IDLE = {
    "detach", "_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "lift_fresh",
    "_local_scalar_dense", "device", "dim", "size", "stride", "is_contiguous",
}  # fmt: skip


class Launches(TorchDispatchMode):
    """Counts the operations inside, and the bytes that those outside matrix products move."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if function.is_view or name in IDLE:
            return found
        self.operations[name] += 1
        tensors = [t for t in tree_leaves((args, kwargs, found)) if isinstance(t, torch.Tensor)]
        moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if name not in PRODUCTS:
            self.bytes[name] += moved
        elif name == "addmm" and args[0].dim() == 2:  # the sum is copied before the product
            self.bytes["addmm, its copy"] += 2 * found.numel() * found.element_size()
        return found


def launches_of(step: Any, trainer: Any, batch: dict[str, Any]) -> Launches:
    """Count ``step(model, batch)`` of a trainer whose model becomes fake: it is of no use then."""
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    model = trainer.accelerator.prepare(trainer.model)
    model.train()
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    swapped: dict[int, tuple[Any, Any]] = {}  # also the original, so that no id is used twice
    for module in model.modules():
        for kept in (module._parameters, module._buffers):
            for name, tensor in kept.items():
                if tensor is not None:
                    if id(tensor) not in swapped:
                        swapped[id(tensor)] = (
                            tensor,
                            fakes.from_tensor(tensor),
                        )
                    kept[name] = swapped[id(tensor)][1]
    with fakes:
        inputs = {
            name: fakes.from_tensor(value) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        with blocks_known(batch), Launches() as counted:
            step(model, inputs)
    return counted


@contextmanager
def blocks_known(batch: dict[str, Any]) -> Iterator[None]:
    """Blocks of logits are found from the real batch: fake tensors have no numbers to look up."""
    find = projection._blocks

    def found(hidden: Any, weight: Any, branch: Any) -> Any:
        with _disable_current_modes():
            return find(hidden, weight, batch["branch"])

    projection._blocks = found
    try:
        yield
    finally:
        projection._blocks = find


def profiled_launches(step: Any) -> int:
    """Operations and generated kernels that a real step runs: the profiler's innermost events."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    count = 0
    for event in seen.events():
        name = event.name
        if name.startswith("graph_") or ("_fused_" in name and name.startswith("cpp")):
            count += 1
        elif name.startswith(("aten::", "bitsandbytes::")) and not event.cpu_children:
            count += not _launches_nothing(name.split("::")[1])
    return count


def _launches_nothing(name: str) -> bool:
    views = {
        "view", "as_strided", "expand", "t", "transpose", "permute", "reshape", "slice", "select",
        "unsqueeze", "squeeze", "alias", "unbind", "split", "result_type", "resolve_conj",
        "resolve_neg", "item", "is_nonzero", "_reshape_alias", "set_", "resize_", "broadcast_to",
        "flatten", "narrow", "unflatten", "to", "contiguous", "expand_as", "view_as", "conj",
    }  # fmt: skip
    return name in views or name in IDLE
