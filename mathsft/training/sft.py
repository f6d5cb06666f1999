"""Supervised fine-tuning on worked solutions: TRL's SFTTrainer, fed with packed rows.

TRL keeps what it is good at (loop, accumulation, mixed precision, checkpoints,
trackers). Three things are ours: which rows a batch holds, who sees whom in them, and
the loss, which projects only trained tokens onto the vocabulary.
"""

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from mathsft.device import policy
from mathsft.training.loss import summed_loss
from mathsft.training.packing import IGNORE, attention_inputs, collate, packed_rows, useful_tokens
from mathsft.training.tokens import tokenize_problems


class PackedSFTTrainer(SFTTrainer):
    """SFTTrainer for rows of ``input_ids, position_ids, end, labels``; made by `sft_trainer`."""

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
        self._seen, self._seen_total, self._since = 0, 0, 0.0

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
            self._seen += int(useful_tokens(inputs).sum())
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
        with torch.no_grad():
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

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with _renaming_notices_off():
            return super().train(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self._since = self._since or time.perf_counter()
        return super().training_step(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds ``num_tokens`` and ``tokens_per_second`` of this process, padding left out."""
        if "loss" in logs and self._since:
            now = time.perf_counter()
            self._seen_total += self._seen
            logs["num_tokens"] = self._seen_total
            logs["tokens_per_second"] = round(self._seen / (now - self._since), 1)
            self._seen, self._since = 0, now
        super().log(logs, start_time)


def sft_rows(
    problems: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    max_length: int = 512,
    packing: bool = True,
    train_on_prompt: bool = False,
    name: str = "train",
) -> Dataset:
    """Rows to train on, with one printed line: rows, fill, trained share, drops by reason.

    Columns ``input_ids, position_ids, end, labels``, each a list of at most ``max_length``
    integers. Raises ValueError where no problem is left, saying why.
    """
    documents, dropped = tokenize_problems(
        problems, tokenizer, max_length=max_length, train_on_prompt=train_on_prompt
    )
    if not documents:
        raise ValueError(f"{name}: nothing to train on; dropped: {_reasons(dropped)}")
    rows = packed_rows(documents, max_length=max_length, packing=packing)
    tokens = sum(len(document["input_ids"]) for document in documents)
    trained = sum(label != IGNORE for row in rows for label in row["labels"])
    print(
        f"{name}: {len(documents):,} documents of {tokens:,} tokens in {len(rows):,} rows of "
        f"{max_length} ({tokens / (len(rows) * max_length):.1%} full), "
        f"{trained / tokens:.1%} of tokens trained; dropped: {_reasons(dropped)}"
    )
    return Dataset.from_list(rows)


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
    **training_arguments: Any,
) -> PackedSFTTrainer:
    """A trainer ready for ``.train()``; everything not named here goes to ``trl.SFTConfig``.

    ``model`` has its adapter already (`load_model(..., lora=True)`); ``problems`` are rows
    of the one schema. A batch is ``per_device_train_batch_size`` rows of at most
    ``max_length`` tokens, each row holding several documents (``packing=False``: one).
    ``train_on_prompt`` puts a loss on the question as well.

    Defaults: learning rate 2e-4 and gradient norm 0.3 are QLoRA's (Dettmers et al., 2023,
    appendix B); ``warmup_steps`` below 1 is a share of all steps; ``optim`` and precision
    follow the device (`mathsft.device.policy`). Checkpointing is off because 0.5B fits a
    T4 without it and it costs a third of the speed; the gradients are the same.

    The logged ``loss`` is per trained token; ``tokens_per_second`` leaves padding out.
    The same seed and data give the same adapters bit for bit on a CPU.

    Raises ValueError where the model has nothing to train, where no problem fits, or where
    the attention implementation is not known to keep documents apart.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the model has no trainable parameter: load it with lora=True")
    device = policy().trainer_arguments()
    if optim is not None:
        device["optim"] = optim
    settings = dict(
        output_dir=str(output_dir),
        per_device_train_batch_size=per_device_train_batch_size,
        per_device_eval_batch_size=per_device_train_batch_size,
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
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=not device["use_cpu"],
        **device,
    )
    prepare = partial(
        sft_rows, tokenizer=tokenizer, max_length=max_length, train_on_prompt=train_on_prompt
    )
    train_dataset = prepare(problems, packing=packing)
    eval_dataset = None
    if eval_problems is not None:
        eval_dataset = prepare(eval_problems, packing=packing, name="eval")
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    probe = collate(train_dataset.select([0]).to_list(), pad_token_id=pad)
    attention_inputs(model, probe)  # refuses an unknown attention implementation now, not later
    with _renaming_notices_off():
        return PackedSFTTrainer(
            model,
            args=SFTConfig(**{**settings, **training_arguments}),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            data_collator=partial(collate, pad_token_id=pad),
            callbacks=callbacks,
        )


@contextmanager
def _renaming_notices_off() -> Iterator[None]:
    """TRL and PEFT still say `gradient_checkpointing`, which transformers 5.23 has renamed."""
    with warnings.catch_warnings():
        message = "`.*gradient_checkpointing.*` is deprecated"
        warnings.filterwarnings("ignore", message, FutureWarning)
        yield


def _reasons(dropped: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.items()) or "none"
