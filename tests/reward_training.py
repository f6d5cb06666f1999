"""Pairs, reward models and their trainers: ours, and TRL's."""

import copy
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from pair_training import gradients
from torch import Tensor
from trl import RewardConfig, RewardTrainer

from mathsft.models.reward_head import load_reward_model
from mathsft.objectives.reward import RewardModel
from mathsft.training.make import make_trainer

# Two pairs to each prompt. The answers differ in length, within a pair and between pairs.
PAIRS = [
    {
        "prompt": f"Tom has {n // 2} pens and eats {n // 2 - 1}.\n\n",
        "chosen": "He has 1 pen left." + " That is all." * (n % 3),
        "rejected": f"He has {n} pens left, or {n + 1}." * (1 + n % 2),
    }
    for n in range(4, 12)
]
MARGINS = [{**row, "margin": n / 4 - 1} for n, row in enumerate(PAIRS)]
METRICS = ("accuracy", "margin", "mean_reward", "min_reward", "max_reward")


def loaded_model() -> Any:
    """The packaged model in float32 with an adapter and a head that are both in use."""
    model, tokenizer = load_reward_model("tiny", lora={"r": 4, "lora_dropout": 0.0}, device="cpu")
    return moved(model), tokenizer


def moved(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "score" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def ours_of(loaded: Any, folder: Path, rows: Any = PAIRS, **arguments: Any) -> Any:
    model, tokenizer = loaded
    objective = arguments.pop("objective", RewardModel())
    settings = {"per_device_train_batch_size": 8, "disable_tqdm": True, **arguments}
    return make_trainer(
        model, tokenizer, rows, objective, output_dir=folder, eval_rows=rows, **settings
    )


def theirs_of(
    loaded: Any, folder: Path, rows: Any, coefficient: float, *, max_length: int | None = 512
) -> Any:
    """TRL's trainer. With the stop token as padding it would read the token before the stop."""
    model, tokenizer = loaded
    args = RewardConfig(
        str(folder), bf16=False, gradient_checkpointing=False, report_to="none", use_cpu=True,
        per_device_train_batch_size=8, per_device_eval_batch_size=8, max_length=max_length,
        center_rewards_coefficient=coefficient or None,
        pad_token=tokenizer.convert_ids_to_tokens(1),
    )  # fmt: skip
    data = Dataset.from_list(rows)
    return RewardTrainer(
        model, args=args, train_dataset=data, eval_dataset=data,
        processing_class=copy.deepcopy(tokenizer),
    )  # fmt: skip


def step(trainer: Any) -> tuple[float, dict[str, Tensor]]:
    """Return the loss of all rows and its gradients."""
    trainer.model.train()
    rows = [trainer.train_dataset[n] for n in range(len(trainer.train_dataset))]
    if isinstance(trainer, RewardTrainer):
        rows = [
            {key: row[key] for key in ("chosen_ids", "rejected_ids", "margin") if key in row}
            for row in rows
        ]
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    return float(loss.detach()), gradients(loss, trainer.model)
