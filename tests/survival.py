"""A training run in its own process, which test_survival.py kills.

A fork server imports this module, so that each process has torch within milliseconds.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from pair_training import PAIRS

from mathsft.data.problems import read_problems
from mathsft.models.loading import load_model
from mathsft.objectives.policy import DrGRPO
from mathsft.objectives.preference import DPO
from mathsft.training.make import make_trainer, multiple_choice_trainer, sft_trainer
from mathsft.training.make_rollouts import rollout_trainer
from mathsft.training.persist import persist

# Steps of a run: enough that none has ended after all its kills.
STEPS = {"sft": 40, "multiple choice": 40, "preferences": 30, "rollouts": 16}
COMMON: dict[str, Any] = {
    "gradient_accumulation_steps": 2, "max_length": 256, "logging_steps": 1,
    "save_strategy": "steps", "save_steps": 1, "disable_tqdm": True, "learning_rate": 1e-3,
}  # fmt: skip


def odd_length(completions: list[str], **columns: Any) -> list[float]:
    """A reward with signal, whatever the model writes."""
    return [float(len(text) % 2) for text in completions]


def train(objective: str, folder: Path, mirror: Path | None, log: Path) -> None:
    """Train a 4-bit base with dropout, accumulation, several epochs; save and copy every step."""
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    torch.set_num_threads(1)
    settings = {**COMMON, "output_dir": folder, "callbacks": [persist(folder, mirror)]}
    settings["max_steps"] = STEPS[objective]
    lora = {"r": 4, "lora_dropout": 0.1}
    model, tokenizer = load_model("tiny", quantize=True, lora=lora, device="cpu")
    if objective == "sft":
        problems = read_problems("tiny-gsm", limit=60)[0]
        trainer: Any = sft_trainer(
            model, tokenizer, problems, per_device_train_batch_size=1, **settings
        )
    elif objective == "preferences":
        settings["per_device_train_batch_size"] = 1
        trainer = make_trainer(model, tokenizer, PAIRS, DPO(), **settings)
    elif objective == "rollouts":
        settings |= {"per_device_train_batch_size": 1, "num_generations": 4, "max_new_tokens": 8}
        problems = read_problems("tiny-gsm", limit=8)[0]
        trainer = rollout_trainer(
            model, tokenizer, problems, DrGRPO(), odd_length, num_iterations=2, **settings
        )
    else:
        problems = read_problems("tiny-mathqa", limit=60)[0]
        trainer = multiple_choice_trainer(
            model, tokenizer, problems, per_device_train_batch_size=3, **settings
        )
    print("READY")
    trainer.train(resume_from_checkpoint=True)
    print("DONE", trainer.state.global_step)
