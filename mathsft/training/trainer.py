"""The one trainer for all objectives: transformers' Trainer with token forests as batches.

Loop, accumulation, mixed precision and several devices are Trainer's; its checkpoints are from
`mathsft.training.resumable`. The objective says what is trained (`mathsft.objectives`).
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from mathsft.models.lean_adapters import lean_adapters
from mathsft.models.logprobs import SequenceLogprobs, hidden_states, sequence_logprobs
from mathsft.models.modes import (
    checkpointing_restored,
    checkpoints_activations,
    forward_restored,
    random_state_kept,
    restored,
    without_dropout,
)
from mathsft.objectives.base import Loss, Objective
from mathsft.processes import say
from mathsft.training import reference as references
from mathsft.training.arguments import renaming_notices_off
from mathsft.training.batches import Collator
from mathsft.training.evaluated import EvaluatedTrainer
from mathsft.training.progress import use_training_line
from mathsft.training.reference import Reference
from mathsft.training.step_sums import FiniteCheck, Means


class ForestTrainer(EvaluatedTrainer):
    """Trains any objective; made by `mathsft.training.make.make_trainer`.

    The ``loss`` is per item of the objective: a trained token, a question, a pair. It is logged
    with the objective's metrics: in training as means since the last log, by `evaluate` as means
    over all rows (``eval_loss``, …). Also logged are ``num_tokens``, the tokens that passed
    through the model since training started, and ``tokens_per_second`` since the last log. Both
    count all processes and no padding; the rate leaves out the time for evaluating and saving.

    Several processes (torchrun) train like one process with all their batches combined: no row
    is trained twice in an epoch, and each counts once (`mathsft.training.batches`). Each
    process draws its own dropout. A filler counts as one token in ``num_tokens``.

    Training stops with FloatingPointError before a loss or a gradient that is not finite reaches
    the weights.
    """

    run_settings: Mapping[str, Any] = {}  # further ones that identify a run: JSON

    def __init__(
        self,
        model: Any,
        objective: Objective,
        *,
        collate: Collator,
        reference: Reference | None = None,
        teacher: Any = None,
        **arguments: Any,
    ) -> None:
        self.objective: Objective = objective
        self.teacher: Any = teacher  # of `mathsft.training.teachers`; None: there is none
        self.collate: Collator = collate
        self._checkpointed = checkpoints_activations(model)  # as the caller set it
        with restored(model):
            super().__init__(model, data_collator=collate, **arguments)
        if self.args.n_gpu > 1:  # DataParallel would split rows from the indices into them
            raise ValueError(
                f"{self.args.n_gpu} devices in one process: start one process for each with "
                "torchrun --nproc_per_node, or choose one by CUDA_VISIBLE_DEVICES=0"
            )
        use_training_line(self)
        # `compute_loss` divides by the items of the whole step: Trainer must count all labels.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = False
        self._finite = FiniteCheck(self)
        self.add_callback(self._finite)
        self._reset_counters()
        asked: Any = reference or (self._former_reference() if objective.needs_reference else None)
        self.reference = references.choose_reference(model, objective, asked_for=asked)
        if self.reference == "adapter_off":
            say("reference: the model with its adapter switched off")
        self.reference_start: str | None = None
        self._keep_logprobs()

    def _keep_logprobs(self) -> None:
        """Compute what the rows need of the model before training."""
        model: Any = self.model
        with lean_adapters(model):  # as in training, so that the first ratio is one
            if self.reference == "before_training":
                references.keep_logprobs(self, column="reference")
            elif self.objective.ratios:  # stored answers: this model counts as their author
                references.keep_logprobs(self, column="old")

    def _reset_counters(self) -> None:
        self._means = Means()  # on the device: reading one would wait for the GPU
        self._seen: Tensor | int = 0
        self._seen_total = 0
        self._since: float | None = None

    def _logprobs(self, batch: Mapping[str, Tensor], *, wrapped: Any) -> SequenceLogprobs:
        """What the objective's loss reads: log-probabilities, or hidden states."""
        if self.objective.needs_hidden:
            return hidden_states(self.model, batch, wrapped=wrapped)
        if self.teacher is not None:
            asked = self.teacher.logprobs(batch, trainer=self, wrapped=wrapped)
            found = sequence_logprobs(self.model, batch, wrapped=wrapped, values=False)
            return replace(found, reference=asked)
        temperature = self.objective.logits_temperature
        reference = self._reference_logprobs(batch, wrapped=wrapped)
        logprobs = sequence_logprobs(self.model, batch, wrapped=wrapped, temperature=temperature)
        if self.reference and reference is None:
            reference = references.kept_logprobs(batch, logprobs, column="reference")
        old = None
        if self.objective.ratios:
            old = reference if self.reference == "before_training" else None
            if old is None or "old" in batch:
                old = references.kept_logprobs(batch, logprobs, column="old")
        return replace(logprobs, reference=reference, old=old)

    def _reference_logprobs(
        self, batch: Mapping[str, Tensor], *, wrapped: Any
    ) -> SequenceLogprobs | None:
        """The reference's log-probabilities if they are computed in each step."""
        if self.reference != "adapter_off":
            return None
        model: Any = self.model
        temperature = self.objective.logits_temperature
        with references.reference_model(model):
            return sequence_logprobs(model, batch, wrapped=wrapped, temperature=temperature)

    def loss_of(self, batch: Mapping[str, Tensor], *, wrapped: Any) -> Loss:
        """The objective's loss of a batch on the device; ``wrapped`` is the model or its DDP."""
        done = self.state.global_step / max(1, self.state.max_steps)
        batch = {**batch, "progress": torch.tensor(done, device=self.args.device)}
        with self.accelerator.autocast():  # for the projection too, and as in evaluation
            return self.objective.loss(self._logprobs(batch, wrapped=wrapped), batch)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The loss per item; of the whole optimiser step if Trainer counts its items.

        So every item has the same weight under accumulation and on several devices.
        """
        if return_outputs:
            raise NotImplementedError("the loss makes no logits; call the model for them")
        found = self.loss_of(inputs, wrapped=model)
        if model.training:
            self._seen = self._seen + inputs["row_tokens"].sum()
            self._means.add(found, items=len(inputs["labels"]))
        if num_items_in_batch is None:
            return found.total / max(1, len(inputs["labels"]))
        # With `average_tokens_across_devices` the count is global, and DDP averages.
        count = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return found.total * count / num_items_in_batch

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._reset_counters()
        with renaming_notices_off(), self._lent():
            return super().train(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        model: Any = self.model
        with (
            self._clock_stopped(),
            random_state_kept(),  # the loader draws from it
            forward_restored(model),
            restored(model),
            lean_adapters(model),
        ):
            return super().evaluate(*args, **kwargs)

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """Give the model back as it was, except for the weights that were trained."""
        model: Any = self.model
        with (
            forward_restored(model),
            restored(model),
            lean_adapters(model),
            checkpointing_restored(model, before=self._checkpointed),
            nullcontext() if self.objective.dropout else without_dropout(model),
        ):
            if self.args.gradient_checkpointing and isinstance(model, PeftModel):
                # Only reentrant checkpointing needs inputs with a gradient; peft always asks for
                # them. (A hook that is added twice is never removed.)
                model.disable_input_require_grads()
                how: Any = self.args.gradient_checkpointing_kwargs or {}
                if how.get("use_reentrant"):
                    model.enable_input_require_grads()
            yield

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.state.num_input_tokens_seen = self._seen_total + int(self.summed(self._seen))
        with self._clock_stopped():
            super()._save_checkpoint(*args, **kwargs)

    @contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        started, since = time.perf_counter(), self._since
        yield
        if since is not None:  # of two, the outer one counts
            self._since = since + time.perf_counter() - started

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        if self._since is None:
            self._since = time.perf_counter()
            self._seen_total = self.state.num_input_tokens_seen  # before the checkpoint, if any
        loss = super().training_step(*args, **kwargs)
        self._finite.add(loss)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the metrics, ``num_tokens`` and ``tokens_per_second`` to the logs of training."""
        if "loss" in logs and self._since is not None:
            means = self._means.taken(self.summed).items()
            logs |= {name: round(mean, 4) for name, mean in means if name != "loss"}
            seen, now = int(self.summed(self._seen)), time.perf_counter()
            self._seen_total += seen
            logs["num_tokens"] = self._seen_total
            logs["tokens_per_second"] = round(seen / (now - self._since), 1)
            self._seen, self._since = 0, now
        super().log(logs, start_time)
