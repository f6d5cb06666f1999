"""Kept over the steps of a run: means of losses and metrics, and whether all are finite."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from mathsft.models.sharding import whole
from mathsft.objectives.base import Loss
from mathsft.told import advice


class Means:
    """Sums of losses and metrics over batches, and how many items each sum has."""

    def __init__(self) -> None:
        self._sums: dict[str, Any] = defaultdict(int)
        self._items: dict[str, int] = defaultdict(int)

    def add(self, loss: Loss, *, items: int) -> None:
        """Add a batch's loss. Nothing is read from the device."""
        for name, values in {"loss": loss.total, **loss.metrics}.items():
            self._sums[name] = self._sums[name] + values.detach().double().sum()
            self._items[name] += items if name == "loss" else len(values)

    def taken(self, summed: Callable[..., Tensor]) -> dict[str, float]:
        """Return the means over all processes (`ForestTrainer.summed`), and reset the sums."""
        totals = {
            name: (float(summed(self._sums[name])), int(summed(self._items[name])))
            for name in self._sums
        }
        self.__init__()  # type: ignore[misc]
        return {name: total / items for name, (total, items) in totals.items() if items}


class FiniteCheck(TrainerCallback):
    """Checks each optimiser step's losses and gradients just before the step is taken.

    Several processes share what they find, so that all stop or none: one small sum per step.
    One number is read from the device for it. In float16 the loss is scaled up, and gradients
    often overflow until the scale has come down: GradScaler skips such steps and halves the
    scale. At a scale of 1 that no longer helps.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._loss: Tensor | None = None

    def add(self, loss: Tensor) -> None:
        """Add a batch's loss. It is not read before the step, which would wait for the GPU."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        loss, self._loss = self._loss, None
        if loss is None:
            return
        parameters = self._trainer.model.parameters()
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        norm = whole(norm)
        finite = torch.stack([loss.to(norm.device).isfinite(), norm.isfinite()])
        if args.world_size > 1:
            finite = self._trainer.summed((~finite).int()) == 0
        if finite.all():
            return
        scaler = self._trainer.accelerator.scaler
        if finite[0] and scaler is not None and scaler.get_scale() > 1:
            return
        what = "gradient" if finite[0] else "loss"
        raise FloatingPointError(_advice(what, state.global_step, args))


def _full() -> str:
    return advice(
        python="dtype='float32', or 'bfloat16' if the card has it",
        line="--model.dtype float32, or bfloat16 if the card has it",
    )


def _advice(what: str, step: int, args: Any) -> str:
    if step == 0:
        causes = (
            "Nothing is trained yet, so the learning rate is not the cause. Either weights of the "
            "model are not finite, or its activations overflow in half precision: load it with "
            + _full()
        )
    else:
        half = "; in float16 activations may overflow: use " + _full()
        causes = (
            f"Usual causes: learning_rate={args.learning_rate:g} is too high (try a tenth, or more "
            f"warmup_steps){half if args.fp16 else ''}. The weights are still those of "
            f"step {step}, but the same settings will fail again: change them, load the model "
            "again, and train again"
        )
    return f"optimiser step {step + 1}: the {what} is not finite, training stops. {causes}"
