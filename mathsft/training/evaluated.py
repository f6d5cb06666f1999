"""Evaluation: the loss and the metrics as means over all items, in one or several processes."""

from typing import Any

import torch
from torch import Tensor

from mathsft.models.modes import evaluating
from mathsft.training.compiling import CompiledTrainer
from mathsft.training.step_sums import Means


class EvaluatedTrainer(CompiledTrainer):
    """Computes the objective's loss of rows without training on them."""

    collate: Any
    _evaluated: Means

    def summed(self, count: Tensor | int) -> Tensor:
        """Sum a count of this process over all processes; each must call it."""
        accelerator: Any = self.accelerator
        return accelerator.reduce(torch.as_tensor(count, device=self.args.device), reduction="sum")

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, None, None]:
        """Adds a batch to the sums of `evaluation_loop`: Trainer would average over batches."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            self._evaluated.add(self.loss_of(inputs, wrapped=model), items=len(inputs["labels"]))
        return None, None, None

    def compared(self, rows: Any) -> dict[str, float]:
        """The loss and the metrics over rows that all processes have; each computes its share."""
        model: Any = self.model
        size, self._evaluated = self.args.per_device_eval_batch_size, Means()
        own = rows[self.args.process_index :: self.args.world_size] or [{}]  # a filler
        with evaluating(model):
            for start in range(0, len(own), size):
                self.prediction_step(model, self.collate(own[start : start + size]), True)
        return self._evaluated.taken(self.summed)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' loop; the loss and the metrics are means over all items."""
        self._evaluated = Means()
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        means = self._evaluated.taken(self.summed)
        found = {f"{prefix}_{name}": mean for name, mean in means.items()}
        return output._replace(metrics={**found, **(output.metrics or {})})

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("it makes no predictions: use choice_logprobs or worked_answers")
