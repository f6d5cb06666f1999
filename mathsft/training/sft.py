"""Supervised fine-tuning on worked solutions: TRL's SFTTrainer, fed with packed rows.

TRL keeps what it is good at (loop, accumulation, mixed precision, checkpoints,
trackers). Three things are ours: which rows a batch holds (here), who sees whom in them
(`packing`), and the loss, which projects only trained tokens onto the vocabulary (`loss`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig

from mathsft.device import policy
from mathsft.training.packing import (
    IGNORE,
    attention_inputs,
    collate,
    fill,
    pack,
    packed_rows,
)
from mathsft.training.tokens import tokenize_problems
from mathsft.training.trainer import PackedSFTTrainer, renaming_notices_off


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

    The fill, the share of a row that is not padding, is shown for packed rows.

    Columns ``input_ids, position_ids, end, labels``, each a list of at most ``max_length``
    integers. Raises ValueError where no problem is left, saying why.
    """
    documents, dropped = tokenize_problems(
        problems, tokenizer, max_length=max_length, train_on_prompt=train_on_prompt
    )
    if not documents:
        raise ValueError(f"{name}: nothing to train on; dropped: {_reasons(dropped)}")
    rows = packed_rows(documents, max_length=max_length, packing=packing)
    lengths = [len(document["input_ids"]) for document in documents]
    trained = sum(label != IGNORE for row in rows for label in row["labels"])
    layout = f"one a row of at most {max_length}"  # padded to the longest of a batch only
    if packing:
        full = fill(pack(lengths, max_length=max_length), lengths, max_length=max_length)
        layout = f"in {len(rows):,} rows of {max_length} ({full:.1%} full)"
    print(
        f"{name}: {len(documents):,} documents of {sum(lengths):,} tokens {layout}, "
        f"{trained / sum(lengths):.1%} of tokens trained; dropped: {_reasons(dropped)}"
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
    follow the device that the model is on (`mathsft.device.policy`). Gradient checkpointing
    trades time for memory and is off; what it costs on a T4 was not measured. The gradients
    are the same.

    The logged ``loss`` is per trained token, and ``nan`` where it is not finite;
    ``tokens_per_second`` leaves padding, evaluation and saving out.
    The same seed and data give the same adapters bit for bit on a CPU.

    Raises ValueError where the model has nothing to train, where no problem fits, or where
    the attention implementation is not known to keep documents apart.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the model has no trainable parameter: load it with lora=True")
    home = next(model.parameters()).device
    capability = torch.cuda.get_device_capability(home) if home.type == "cuda" else None
    device = policy(capability).trainer_arguments()
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
        logging_nan_inf_filter=False,  # it shows the last finite loss in place of a nan
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
    with renaming_notices_off():
        return PackedSFTTrainer(
            model,
            args=SFTConfig(**{**settings, **training_arguments}),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            data_collator=partial(collate, pad_token_id=pad),
            callbacks=callbacks,
        )


def _reasons(dropped: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.items()) or "none"
