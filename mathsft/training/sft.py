"""Supervised fine-tuning on worked solutions: TRL's SFTTrainer, fed with packed rows.

TRL keeps what it is good at (loop, accumulation, mixed precision, checkpoints,
trackers). Three things are ours: which documents share a row (`mathsft.training.documents`),
who sees whom in it (`mathsft.models.forest`), and the loss, which projects only trained
tokens onto the vocabulary (`mathsft.models.likelihood`).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from mathsft.models.attention import position_limit
from mathsft.models.encoding import pad_token
from mathsft.models.likelihood import option_logprobs
from mathsft.numbers import check_numbers
from mathsft.training.arguments import (
    refuse_unheeded,
    renaming_notices_off,
    training_arguments,
)
from mathsft.training.documents import collate, sft_rows, trained_tokens
from mathsft.training.trainer import ForestTrainer


@contextmanager
def _head_untold(model: Any) -> Iterator[None]:
    """Let ``model.get_output_embeddings()`` give the layer inside an adapted output head.

    TRL (1.16) refuses an adapter there, as its own loss would not read it. Ours does.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, BaseTunerLayer):
        yield
        return
    vars(model)["get_output_embeddings"] = head.get_base_layer
    try:
        yield
    finally:
        del vars(model)["get_output_embeddings"]


class PackedSFTTrainer(ForestTrainer, SFTTrainer):
    """SFTTrainer for the rows of `sft_rows`; made by `sft_trainer`."""

    def __init__(self, model: Any, **arguments: Any) -> None:
        trainable = {n: p.data for n, p in model.named_parameters() if p.requires_grad}
        with _head_untold(model):
            super().__init__(model, **arguments)
        # TRL casts the adapters of a 4-bit model to bfloat16, which a T4 cannot train and
        # which rounds away small updates: put the original values back, in float32.
        for name, parameter in model.named_parameters():
            adapter = name in trainable and isinstance(model, PeftModel)
            if adapter and parameter.dtype != torch.float32:
                parameter.data = trainable[name].to(parameter.device, torch.float32)

    def summed_loss(self, inputs: dict[str, Tensor], *, wrapped: Any) -> Tensor:
        """Cross-entropy over the trained tokens: the documents' negative log-likelihood."""
        return -option_logprobs(self.model, inputs, wrapped=wrapped).sum()

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
            loss = self.summed_loss(inputs, wrapped=model)
            # Fillers train nothing, and are cut off when the processes' losses are gathered.
            rows = (inputs["predictor"] // inputs["input_ids"].shape[1]).unique()
            loss = loss / (self._trained_per_row * max(1, len(rows)))
        return loss.float(), None, None

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        self._trained_per_row = trained_tokens(rows["labels"]) / len(rows)
        return super().get_eval_dataloader(eval_dataset)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            "packed rows give a loss and no predictions: evaluate(rows) gives the loss, "
            "choice_logprobs and worked_answers the rest"
        )


def sft_trainer(
    model: Any,
    tokenizer: Any,
    problems: Iterable[Mapping[str, Any]],
    *,
    output_dir: str | Path,
    eval_problems: Iterable[Mapping[str, Any]] | None = None,
    max_length: int = 512,
    packing: bool = True,
    train_on_prompt: bool = False,
    per_device_train_batch_size: int = 4,
    gradient_accumulation_steps: int = 1,
    learning_rate: float = 2e-4,
    num_train_epochs: float = 1.0,
    max_steps: int = -1,
    warmup_steps: float = 0.03,
    lr_scheduler_type: str = "cosine",
    max_grad_norm: float = 0.3,
    optim: str | None = None,
    gradient_checkpointing: bool = False,
    logging_steps: float = 10,
    save_strategy: str = "no",
    report_to: str = "none",
    seed: int = 0,
    callbacks: list[Any] | None = None,
    **more_arguments: Any,
) -> PackedSFTTrainer:
    """A trainer ready for ``.train()``; everything not named here goes to ``trl.SFTConfig``.

    Args:
        model: with its adapter (`load_model(..., lora=True)`), or with none: then all of it is
            trained, in float32, but for what `freeze` has frozen.
        problems: rows of `load_problems`: problems, conversations or prompts.
        output_dir: where checkpoints, logs and samples go.
        eval_problems: what ``.evaluate()`` takes, and ``eval_strategy="steps"`` every
            ``eval_steps``.
        max_length: tokens of a row; what is longer is dropped and counted, never cut. So is what
            is longer than the model has positions.
        packing: several documents share a row, apart from each other; False: one a row.
        train_on_prompt: put a loss on the question as well.
        per_device_train_batch_size: rows that pass through the model at a time.
        gradient_accumulation_steps: so many batches make one optimiser step.
        learning_rate: the highest; 2e-4 is QLoRA's (Dettmers et al. 2023, appendix B).
        num_train_epochs: passes over the rows.
        max_steps: optimiser steps; where it is given, above 0, it counts instead of epochs.
        warmup_steps: steps until the learning rate is reached; below 1 a share of all steps.
        lr_scheduler_type: how the learning rate falls afterwards.
        max_grad_norm: longer gradients are cut to this norm; 0.3 is QLoRA's.
        optim: default: that of the device the model is on (`mathsft.device.policy`).
        gradient_checkpointing: trades time for memory; the gradients are the same. What it costs
            on a T4 was not measured.
        logging_steps: steps between two lines of the log.
        save_strategy: "no", "steps" (with ``save_steps``) or "epoch"; `persist` saves by the clock.
        report_to: see `tracker`.
        seed: of the rows' order and of dropout.
        callbacks: such as `persist` and `show_samples`.

    The logged ``loss`` is per trained token, and ``nan`` where it is not finite;
    ``tokens_per_second`` leaves padding, evaluation and saving out.
    The same seed and data give the same adapters bit for bit on a CPU.

    Raises ValueError where the model has nothing to train, where no problem fits, where the
    attention implementation is not known to keep documents apart, or for an argument of the
    library that would change nothing (`mathsft.training.arguments.unheeded`), or for a number that
    cannot be meant, such as -1 epochs (`mathsft.numbers`).
    """
    refuse_unheeded(more_arguments, SFTConfig)
    check_numbers({"max_length": max_length})
    settings = training_arguments(
        model,
        optim=optim,
        output_dir=str(output_dir),
        per_device_train_batch_size=per_device_train_batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        learning_rate=learning_rate,
        num_train_epochs=num_train_epochs,
        max_steps=max_steps,
        warmup_steps=warmup_steps,
        lr_scheduler_type=lr_scheduler_type,
        max_grad_norm=max_grad_norm,
        gradient_checkpointing=gradient_checkpointing,
        logging_steps=logging_steps,
        save_strategy=save_strategy,
        report_to=report_to,
        seed=seed,
        # The rows are ready: TRL neither tokenizes, packs, cuts nor collates them.
        packing=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        **more_arguments,
    )
    prepare = partial(
        sft_rows,
        tokenizer=tokenizer,
        max_length=max_length,
        positions=position_limit(model.config),
        train_on_prompt=train_on_prompt,
    )
    train_dataset = prepare(problems, packing=packing)
    eval_dataset = None
    if eval_problems is not None:
        eval_dataset = prepare(eval_problems, packing=packing, name="eval")
    with renaming_notices_off():
        return PackedSFTTrainer(
            model,
            args=SFTConfig(**settings),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            data_collator=partial(collate, pad_token_id=pad_token(tokenizer)),
            callbacks=callbacks,
        )
