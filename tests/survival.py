"""A training run in its own process, which test_survival.py kills.

A fork server imports this module, so that each process has torch within milliseconds.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from mathsft.data.problems import read_problems
from mathsft.models.loading import load_model
from mathsft.training.make import multiple_choice_trainer, sft_trainer
from mathsft.training.persist import persist

STEPS = 40
COMMON: dict[str, Any] = {
    "max_steps": STEPS, "gradient_accumulation_steps": 2, "max_length": 256, "logging_steps": 1,
    "save_strategy": "steps", "save_steps": 1, "disable_tqdm": True, "learning_rate": 1e-3,
}  # fmt: skip


def train(objective: str, folder: Path, mirror: Path | None, log: Path) -> None:
    """Train a 4-bit base with dropout, accumulation, several epochs; save and copy every step."""
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    torch.set_num_threads(1)
    settings = {**COMMON, "output_dir": folder, "callbacks": [persist(folder, mirror)]}
    lora = {"r": 4, "lora_dropout": 0.1}
    model, tokenizer = load_model("tiny", quantize=True, lora=lora, device="cpu")
    if objective == "sft":
        problems = read_problems("tiny-gsm", limit=60)[0]
        trainer: Any = sft_trainer(
            model, tokenizer, problems, per_device_train_batch_size=1, **settings
        )
    else:
        problems = read_problems("tiny-mathqa", limit=60)[0]
        trainer = multiple_choice_trainer(
            model, tokenizer, problems, per_device_train_batch_size=3, **settings
        )
    print("READY")
    trainer.train(resume_from_checkpoint=True)
    print("DONE", trainer.state.global_step)
