"""Regional compilation of a training step: decoder layers as few fused kernels.

A small model keeps a GPU waiting, because the host launches its many kernels one by one.
`torch.compile` fuses the small ones. Only the decoder layers are compiled: they share their code,
so it is compiled for all of them at once. The embedding, the head and the loss stay as they are.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mathsft.checks import unknown_name
from mathsft.compat import compile_errors
from mathsft.models.sharding import is_sharded
from mathsft.processes import say
from mathsft.training.batches import Collator, PaddedTrainer

Compile = Literal["auto"] | bool
# Passes (batches, counting accumulated ones) from which "auto" compiles. It is an estimate:
# compiling takes about a minute, and of the 0.12 to 0.18 s that a pass of the 0.5B model took on an
# H100, about 0.1 s were launches.
PAYS_FROM = 500
# Rows are padded to a multiple of this, since kernels may need aligned rows.
ROW_MULTIPLE = 64
BACKEND = "inductor"


def check_compile(asked: Any) -> None:
    """Raise ValueError if the setting ``compile`` is not "auto", True or False."""
    if asked not in ("auto", True, False):
        raise ValueError(unknown_name("compile", str(asked), ("auto", "true", "false")))


def may_compile(model: nn.Module, asked: Compile) -> bool:
    """Whether steps of ``model`` may be compiled: as asked; "auto": on a CUDA device, unsharded."""
    if asked != "auto":
        return asked
    parameters = [*model.parameters()]
    return parameters[0].device.type == "cuda" and not any(map(is_sharded, parameters))


@contextmanager
def compiled(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, these layers run compiled. Layers of one class share their code.

    Shapes are dynamic, so rows of any number and length use the same code (a single row has its
    own). Results then do not depend on which shapes came first.
    """
    made = {
        kind: torch.compile(kind.forward, dynamic=True, backend=BACKEND)
        for kind in {type(layer) for layer in layers}
    }
    try:
        for layer in layers:
            vars(layer)["forward"] = MethodType(made[type(layer)], layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


class CompiledTrainer(PaddedTrainer):
    """Compiles the decoder layers for training steps, and for nothing else.

    ``compile``: True, False, or "auto", which compiles on a CUDA device if the run has at least
    `PAYS_FROM` passes. If the layers cannot be compiled, such as without Triton or a C++ compiler,
    a line says why, and the run continues without.
    """

    def __init__(
        self, model: Any, *, collate: Collator, compile: Compile = "auto", **arguments: Any
    ) -> None:
        check_compile(compile)
        if may_compile(model, compile):
            collate = replace(collate, pad_to_multiple_of=ROW_MULTIPLE)
        self.collate: Collator = collate
        self._compile = compile
        self._layers: list[nn.Module] | None = None  # decided at the first step
        super().__init__(model, data_collator=collate, **arguments)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._layers = None
        return super().train(*args, **kwargs)

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        if self._layers is None:
            self._layers = self._worth_compiling(inputs)
        with compiled(self._layers) if self._layers else nullcontext():
            return super().training_step(model, inputs, *args, **kwargs)

    def loss_of(self, batch: Any, *, wrapped: Any) -> Any:
        """Defined by `mathsft.training.trainer.ForestTrainer`."""
        raise NotImplementedError

    def _worth_compiling(self, inputs: Any) -> list[nn.Module]:
        """The layers to compile in this run, after a rehearsal with its first batch; or none."""
        model: Any = self.model
        if not may_compile(model, self._compile):
            return []
        left = self.state.max_steps - self.state.global_step
        passes = left * self.args.gradient_accumulation_steps
        if self._compile == "auto" and passes < PAYS_FROM:
            say(
                f"compile: off, because it pays from about {PAYS_FROM} passes on and this run has "
                f"{passes:,}"
            )
            return []
        layers = [module for module in model.modules() if _is_layer(module)]
        if not layers:
            say(f"compile: off, because no decoder layers were found in {type(model).__name__}")
            return []
        say(f"compile: compiling {len(layers)} decoder layers; the first time takes about a minute")
        started = time.perf_counter()
        try:
            self._rehearse(layers, inputs)
        except compile_errors() as error:
            reason = " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
            say(f"compile: off, because the layers could not be compiled: {reason:.300}")
            return []
        say(f"compile: ready after {time.perf_counter() - started:.0f} s")
        return layers

    def _rehearse(self, layers: Sequence[nn.Module], inputs: Any) -> None:
        """Compile by a pass forward and backward that changes no weight and no random state."""
        model: Any = self.model
        model.train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with torch.random.fork_rng(), compiled(layers):
            loss = self.loss_of(self._prepare_inputs(inputs), wrapped=model).total
            torch.autograd.grad(loss, trained, allow_unused=True)


def _is_layer(module: nn.Module) -> bool:
    """Whether it is a decoder layer, as transformers marks them for gradient checkpointing."""
    return isinstance(module, GradientCheckpointingLayer) and "forward" not in vars(module)
