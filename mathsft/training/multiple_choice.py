"""Training what a multiple-choice test measures.

The test scores each choice by its log-probability after the question and takes the
likeliest. So the scores go through a softmax over the choices, and the loss is the
cross-entropy with the right one. Nothing is asked of the text of a choice as such: wrong
choices may stay likely, as long as the right one is likelier.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import TrainingArguments

from mathsft.models.attention import position_limit
from mathsft.models.encoding import pad_token
from mathsft.models.forest import IGNORE
from mathsft.models.likelihood import option_logprobs
from mathsft.numbers import check_numbers
from mathsft.training.arguments import (
    refuse_unheeded,
    renaming_notices_off,
    training_arguments,
)
from mathsft.training.questions import collate, multiple_choice_rows
from mathsft.training.trainer import ForestTrainer

Normalization = Literal["none", "tokens", "characters"]


def choice_scores(
    logprobs: Tensor,
    batch: Mapping[str, Tensor],
    *,
    normalization: Normalization = "none",
    temperature: float = 1.0,
) -> Tensor:
    """The scores that the softmax compares: (Q, C), -inf where a question has fewer choices.

    ``logprobs`` (S,) are those of `option_logprobs`, ``batch`` is what `collate` gives.
    A score is the summed log-probability, as in the harness's ``acc``; divided by the
    choice's number of characters ("characters": the harness's ``acc_norm``) or of tokens
    if asked for; and divided by ``temperature``: above 1 the softmax is softer, and
    questions that are right by a wide margin go on being trained.
    """
    if normalization != "none":
        logprobs = logprobs / batch[normalization]
    scores = logprobs[batch["choice"]] / temperature
    return scores.masked_fill(batch["choice"] < 0, -torch.inf)


class MultipleChoiceTrainer(ForestTrainer):
    """transformers' Trainer with the multiple-choice loss; made by `multiple_choice_trainer`.

    Logs the training ``accuracy`` since the last log, of all processes, beside the loss.
    `evaluate` gives ``eval_loss`` and ``eval_accuracy`` of all questions.
    """

    def __init__(
        self,
        model: Any,
        *,
        normalization: Normalization = "none",
        temperature: float = 1.0,
        **arguments: Any,
    ) -> None:
        super().__init__(model, compute_metrics=_accuracy, **arguments)
        self._score = partial(choice_scores, normalization=normalization, temperature=temperature)

    def _reset_counters(self) -> None:
        super()._reset_counters()
        self._right: Tensor | int = 0
        self._asked: Tensor | int = 0

    def _scores(self, inputs: dict[str, Tensor], wrapped: Any) -> Tensor:
        return self._score(option_logprobs(self.model, inputs, wrapped=wrapped), inputs)

    def summed_loss(self, inputs: dict[str, Tensor], *, wrapped: Any) -> Tensor:
        """Cross-entropy summed over the questions."""
        scores = self._scores(inputs, wrapped)
        self._right = self._right + (scores.argmax(-1) == inputs["labels"]).sum()
        self._asked = self._asked + (inputs["labels"] != IGNORE).sum()
        return functional.cross_entropy(scores, inputs["labels"], reduction="sum")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the training ``accuracy`` to the logs of training."""
        if "loss" in logs and (asked := int(self.summed(self._asked))):
            logs["accuracy"] = round(int(self.summed(self._right)) / asked, 4)
            self._right, self._asked = 0, 0
        super().log(logs, start_time)

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The mean loss of a batch, the choices that the model takes, and the right ones."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.accelerator.autocast():
            scores = self._scores(inputs, model)
        # Of fillers alone it is nan, and Trainer cuts what it gathers to the questions there are.
        loss = functional.cross_entropy(scores, inputs["labels"])
        return loss, scores.argmax(-1), inputs["labels"]


def _accuracy(taken: Any) -> dict[str, float]:
    return {"accuracy": float((taken.predictions == taken.label_ids).mean())}


def multiple_choice_trainer(
    model: Any,
    tokenizer: Any,
    problems: Iterable[Mapping[str, Any]],
    *,
    output_dir: str | Path,
    eval_problems: Iterable[Mapping[str, Any]] | None = None,
    max_length: int = 512,
    normalization: Normalization = "none",
    temperature: float = 1.0,
    per_device_train_batch_size: int = 16,
    gradient_accumulation_steps: int = 1,
    learning_rate: float = 2e-4,
    num_train_epochs: float = 1.0,
    max_steps: int = -1,
    max_grad_norm: float = 1.0,
    warmup_steps: float = 0.03,
    lr_scheduler_type: str = "linear",
    optim: str | None = None,
    gradient_checkpointing: bool = False,
    logging_steps: float = 10,
    save_strategy: str = "no",
    report_to: str = "none",
    seed: int = 0,
    callbacks: list[Any] | None = None,
    **more_arguments: Any,
) -> MultipleChoiceTrainer:
    """A trainer ready for ``.train()``; what is not named here goes to ``TrainingArguments``.

    Args:
        model: with its adapter (`load_model(..., lora=True)`), or with none: then all of it is
            trained, in float32, but for what `freeze` has frozen.
        problems: rows of `load_problems` with ``choices``, 2 or more, and a ``label``.
        output_dir: where checkpoints and logs go.
        eval_problems: what ``.evaluate()`` takes, and ``eval_strategy="steps"`` every
            ``eval_steps``.
        max_length: tokens of a row, which several questions share; a longer question is dropped
            and counted.
        normalization: divide a choice's log-probability by its number of "tokens", or of
            "characters" as the harness's ``acc_norm`` does. "none", because its ``acc`` compares
            sums (`choice_scores`).
        temperature: of the softmax over choices; above 1 a question that is right by a wide
            margin goes on being trained.
        per_device_train_batch_size: questions that pass through the model at a time.
        gradient_accumulation_steps: so many batches make one optimiser step.
        learning_rate: the highest; 2e-4 is QLoRA's (Dettmers et al. 2023, appendix B).
        num_train_epochs: passes over the questions.
        max_steps: optimiser steps; where it is given, above 0, it counts instead of epochs.
        max_grad_norm: longer gradients are cut to this norm.
        warmup_steps: steps until the learning rate is reached; below 1 a share of all steps.
        lr_scheduler_type: how the learning rate falls afterwards.
        optim: default: that of the device the model is on (`mathsft.device.policy`).
        gradient_checkpointing: trades time for memory; the gradients are the same.
        logging_steps: steps between two lines of the log.
        save_strategy: "no", "steps" (with ``save_steps``) or "epoch"; `persist` saves by the clock.
        report_to: see `tracker`.
        seed: of the questions' order and of dropout.
        callbacks: such as `persist`.

    The loss is per question: ln 5 = 1.61 is chance for five choices.
    The same seed and data give the same adapters bit for bit on a CPU.

    Raises ValueError where the model has nothing to train, where no question is left, for
    a number that cannot be meant, such as -1 epochs (`mathsft.numbers`), or an unknown
    normalization, where the attention implementation cannot be told the mask, or for an argument
    of the library that would change nothing (`mathsft.training.arguments.unheeded`).
    """
    if normalization not in ("none", "tokens", "characters"):
        raise ValueError(f"normalization={normalization!r}: give 'none', 'tokens' or 'characters'")
    check_numbers({"max_length": max_length, "temperature": temperature})
    refuse_unheeded(more_arguments, TrainingArguments)
    settings = training_arguments(
        model,
        optim=optim,
        output_dir=str(output_dir),
        per_device_train_batch_size=per_device_train_batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        learning_rate=learning_rate,
        num_train_epochs=num_train_epochs,
        max_steps=max_steps,
        max_grad_norm=max_grad_norm,
        warmup_steps=warmup_steps,
        lr_scheduler_type=lr_scheduler_type,
        gradient_checkpointing=gradient_checkpointing,
        logging_steps=logging_steps,
        save_strategy=save_strategy,
        report_to=report_to,
        seed=seed,
        **more_arguments,
    )
    rows = partial(
        multiple_choice_rows,
        tokenizer=tokenizer,
        max_length=max_length,
        positions=position_limit(model.config),
    )
    train_dataset = rows(problems)
    eval_dataset = None if eval_problems is None else rows(eval_problems, name="eval")
    with renaming_notices_off():
        return MultipleChoiceTrainer(
            model,
            normalization=normalization,
            temperature=temperature,
            args=TrainingArguments(**settings),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            data_collator=partial(
                collate, pad_token_id=pad_token(tokenizer), max_length=max_length
            ),
            callbacks=callbacks,
        )
