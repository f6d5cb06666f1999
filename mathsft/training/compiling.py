"""Regional compilation of a training step: decoder layers as few fused kernels.

A small model keeps a GPU waiting, because the host launches its many kernels one by one.
`torch.compile` fuses the small ones. Only the decoder layers are compiled: they share their code,
so it is compiled for all of them at once. The embedding, the head and the loss stay as they are.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mathsft.checks import unknown_name
from mathsft.compat import compile_errors, sizes_apart
from mathsft.models.sharding import is_sharded
from mathsft.processes import say
from mathsft.training.batches import PaddedTrainer

Compile = Literal["auto"] | bool
# Passes (batches, counting accumulated ones) from which "auto" compiles. It is an estimate:
# compiling takes about a minute, and of the 0.12 to 0.18 s that a pass of the 0.5B model took on an
# H100, about 0.1 s were launches.
PAYS_FROM = 500
# Rows are padded to a multiple of this in a compiled step, since kernels may need aligned rows.
ROW_MULTIPLE = 64
BACKEND = "inductor"


def check_compile(asked: Any) -> None:
    """Raise ValueError if the setting ``compile`` is not "auto", True or False."""
    if asked not in ("auto", True, False):
        raise ValueError(unknown_name("compile", str(asked), ("auto", "true", "false")))


def by_itself(device: torch.device) -> bool:
    """Whether "auto" compiles for such a device: a CPU computes longer than it launches."""
    return device.type == "cuda"


@contextmanager
def compiled(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, these layers run compiled. Layers of one class share their code.

    Shapes are dynamic, so rows of any number and length use the same code (a single row has its
    own). Results then do not depend on which shapes came first.
    """
    try:
        for layer in layers:
            kind: Any = type(layer)
            vars(layer)["forward"] = MethodType(_compiled(kind, BACKEND), layer)
        with sizes_apart() if layers else nullcontext():
            yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


@cache
def _compiled(kind: Any, backend: Any) -> Any:
    return torch.compile(kind.forward, dynamic=True, backend=backend)


def padded(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch with rows of a multiple of `ROW_MULTIPLE` tokens; padding sees only itself."""
    rows, length = batch["input_ids"].shape
    more = -length % ROW_MULTIPLE
    if not more:
        return {**batch}
    ends = torch.arange(length + 1, length + more + 1, device=batch["end"].device)
    added = {
        "input_ids": batch["input_ids"].new_zeros(rows, more),
        "position_ids": batch["position_ids"].new_zeros(rows, more),
        "end": ends.to(batch["end"].dtype).expand(rows, more),
    }
    wider = {name: torch.cat([batch[name], tail], dim=1) for name, tail in added.items()}
    # Places in the flattened rows: each row before adds its padding.
    places = {name: batch[name] + batch[name] // length * more for name in ("predictor", "last")}
    return {**batch, **wider, **places}


class CompiledTrainer(PaddedTrainer):
    """Compiles the decoder layers for training steps, and for nothing else.

    ``compile``: True, False, or "auto", which compiles on a CUDA device if the run has at least
    `PAYS_FROM` passes and nothing shards the layers. If they cannot be compiled, such as without
    Triton or a C++ compiler, a line says why, and the run continues without. The setting is no part
    of a run's identity: a run that is resumed with another one differs by rounding.
    """

    def __init__(self, model: Any, *, compile: Compile = "auto", **arguments: Any) -> None:
        check_compile(compile)
        self._compile = compile
        self._layers: list[nn.Module] | None = None  # decided at the first step
        super().__init__(model, **arguments)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._layers = None
        return super().train(*args, **kwargs)

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        if self._layers is None:
            self._layers = self._worth_compiling(inputs)
        with self.as_in_steps():
            return super().training_step(model, self.shaped(inputs), *args, **kwargs)

    def as_in_steps(self) -> Any:
        """A context in which the model computes as in the steps of this run."""
        return compiled(self._layers or [])

    def shaped(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch in the shape that it has in the steps of this run."""
        return padded(batch) if self._layers else {**batch}

    def loss_of(self, batch: Any, *, wrapped: Any) -> Any:
        """Defined by `mathsft.training.trainer.ForestTrainer`."""
        raise NotImplementedError

    def _worth_compiling(self, inputs: Any) -> list[nn.Module]:
        """The layers to compile in this run, after a rehearsal with its first batch; or none."""
        model: Any = self.model
        if not self._compile or (self._compile == "auto" and not by_itself(self.args.device)):
            return []
        passes = self.state.max_steps * self.args.gradient_accumulation_steps
        layers = [module for module in model.modules() if _is_layer(module)]
        why = None
        if self._compile == "auto" and passes < PAYS_FROM:
            why = f"it pays from about {PAYS_FROM} passes on and this run has {passes:,}"
        elif any(map(is_sharded, model.parameters())):
            why = "the layers are sharded over several processes"
        elif not layers:
            why = f"no decoder layers were found in {type(model).__name__}"
        if why is None:
            say(f"compile: compiling {len(layers)} decoder layers; this takes about a minute")
            started = time.perf_counter()
            try:
                self._rehearse(layers, inputs)
            except compile_errors() as error:
                reason = " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
                why = f"the layers could not be compiled: {reason:.300}"
        if why is not None:
            say(f"compile: off, because {why}")
            return []
        say(f"compile: ready after {time.perf_counter() - started:.0f} s")
        return layers

    def _rehearse(self, layers: Sequence[nn.Module], inputs: Any) -> None:
        """Compile by a pass forward and backward that changes no weight and no random state."""
        model: Any = self.model
        model.train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        device = self.args.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), compiled(layers):
            batch = padded(self._prepare_inputs(inputs))
            loss = self.loss_of(batch, wrapped=model).total
            torch.autograd.grad(loss, trained, allow_unused=True)


def _is_layer(module: nn.Module) -> bool:
    """Whether it is a decoder layer, as transformers marks them for gradient checkpointing."""
    return isinstance(module, GradientCheckpointingLayer) and "forward" not in vars(module)
