"""TRL's SFTTrainer with the packed loss: what of it is replaced, and what it must not change."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from trl import SFTTrainer

from mathsft.training.loss import summed_loss
from mathsft.training.packing import IGNORE, attention_inputs, useful_tokens


class PackedSFTTrainer(SFTTrainer):
    """SFTTrainer for rows of ``input_ids, position_ids, end, labels``; made by `sft_trainer`.

    Logs ``num_tokens`` since `train` began and ``tokens_per_second`` since the last log, both
    of this process, without padding, and without the time of evaluating and saving.
    """

    def __init__(self, model: Any, **arguments: Any) -> None:
        trainable = {n: p.data for n, p in model.named_parameters() if p.requires_grad}
        super().__init__(model, **arguments)
        # TRL casts the adapters of a 4-bit model to bfloat16, which a T4 cannot train and
        # which rounds away small updates: put the original values back, in float32.
        for name, parameter in model.named_parameters():
            adapter = name in trainable and isinstance(model, PeftModel)
            if adapter and parameter.dtype != torch.float32:
                parameter.data = trainable[name].to(parameter.device, torch.float32)
        # `compute_loss` divides by the trained tokens of the whole step, so Trainer has to
        # count them and must not divide by the accumulation steps again.
        self.model_accepts_loss_kwargs = True
        self._reset_counters()

    def _reset_counters(self) -> None:
        self._seen: Tensor | int = 0  # a tensor on the device: reading it would wait for the GPU
        self._seen_total = 0
        self._since: float | None = None

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Cross-entropy per trained token, of the whole optimiser step where Trainer counts it."""
        if return_outputs:
            raise NotImplementedError("the packed loss makes no logits; call the model for them")
        if model.training:
            self._seen = self._seen + useful_tokens(inputs).sum()
        labels = inputs["labels"]
        attention = attention_inputs(self.model, inputs)
        loss = summed_loss(self.model, attention, labels, wrapped=model)
        if num_items_in_batch is None:
            return loss / (labels[:, 1:] != IGNORE).sum().clamp(min=1)
        if self.args.average_tokens_across_devices:  # the count is global, DDP averages
            loss = loss * self.accelerator.num_processes
        return loss / num_items_in_batch

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, None, None]:
        """A batch's share of the loss per trained token of its data set.

        Trainer averages batch losses over rows, but rows differ in how many tokens they
        train. Dividing by the mean count per row makes that average the exact one.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.accelerator.autocast():  # as in training, before and after it
            rows = inputs["labels"].shape[0]
            loss = self.compute_loss(model, inputs, num_items_in_batch=1)
            loss = loss / (self._trained_per_row * rows)
            if self.args.average_tokens_across_devices:
                loss = loss / self.accelerator.num_processes
        return loss.float(), None, None

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        trained = sum(label != IGNORE for labels in rows["labels"] for label in labels)
        self._trained_per_row = trained / len(rows)
        return super().get_eval_dataloader(eval_dataset)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            "packed rows give a loss and no predictions: evaluate(rows) gives the loss, "
            "choice_logprobs and worked_answers the rest"
        )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._reset_counters()
        with renaming_notices_off(), _forward_restored(self.model):
            return super().train(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with self._clock_stopped(), _forward_restored(self.model):
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self._clock_stopped():
            super()._save_checkpoint(*args, **kwargs)

    @contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self._since is not None:
            self._since += time.perf_counter() - started

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        if self._since is None:
            self._since = time.perf_counter()
        return super().training_step(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds ``num_tokens`` and ``tokens_per_second`` to the logs of training."""
        if "loss" in logs and self._since is not None:
            seen, now = int(self._seen), time.perf_counter()
            self._seen_total += seen
            logs["num_tokens"] = self._seen_total
            logs["tokens_per_second"] = round(seen / (now - self._since), 1)
            self._seen, self._since = 0, now
        super().log(logs, start_time)


@contextmanager
def _forward_restored(model: Any) -> Iterator[None]:
    """accelerate wraps ``model.forward`` in autocast for good: give the model its own back.

    Otherwise scores after training come from another precision than those before it.
    (`accelerator.unwrap_model(keep_fp32_wrapper=False)` would strip the model's own
    decorators as well.) The mark goes too, or the next training would not be wrapped.
    """
    names = ("forward", "_original_forward", "_is_accelerate_prepared")
    before = {name: model.__dict__.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            model.__dict__.pop(name, None)
            if value is not None:
                model.__dict__[name] = value


@contextmanager
def renaming_notices_off() -> Iterator[None]:
    """TRL and PEFT still say `gradient_checkpointing`, which transformers 5.23 has renamed."""
    with warnings.catch_warnings():
        message = "`.*gradient_checkpointing.*` is deprecated"
        warnings.filterwarnings("ignore", message, FutureWarning)
        yield
