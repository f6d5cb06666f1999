"""Whole optimiser steps of GRPO on the embedded tiny model: ours against `trl.GRPOTrainer`.

A step is everything between the ends of two steps: 8 answers to each of 16 prompts, at most 70 new
tokens, are sampled and rewarded; then forward, backward, clipping, AdamW, and logging. The first
step of a turn is not counted; `seconds` are medians. Both trainers take 16 prompts in one batch,
sample at temperature 1, have the "dapo" loss, no KL, and the same reward. Each has a copy of the
same model. It was tuned a little on eight solutions, so that most answers end; the rate of the
measured steps is so small that this stays so. Everything else is as each trainer has it by default.
"""

import time
from collections import defaultdict
from copy import deepcopy
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from policy_rivals import EPSILON, last_digit_of_length, trl_trainer
from transformers import PrinterCallback, TrainerCallback

from mathsft.data.problems import load_problems
from mathsft.data.prompts import sft_prompt
from mathsft.models.loading import load_model
from mathsft.objectives.policy import GRPO
from mathsft.training.make import sft_trainer
from mathsft.training.make_rollouts import rollout_trainer

PROMPTS, ANSWERS, NEW_TOKENS = 16, 8, 70


class Clock(TrainerCallback):
    """The seconds of each step but the first, and what was logged."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.logged: dict[str, list[float]] = defaultdict(list)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._ended: float | None = None

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        if self._ended is not None:
            self.seconds.append(now - self._ended)
        self._ended = now

    def on_log(self, *_: Any, **given: Any) -> None:
        for name, value in given["logs"].items():
            self.logged[name].append(value)


def tuned(folder: Path) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model, tokenizer = load_model("tiny", lora={"lora_dropout": 0.0}, device="cpu")
    sft_trainer(
        model,
        tokenizer,
        load_problems("tiny-gsm", limit=8),
        output_dir=folder,
        per_device_train_batch_size=8,
        learning_rate=5e-3,
        max_steps=30,
        logging_strategy="no",
        disable_tqdm=True,
    ).train()
    return model, tokenizer


def whole_steps(folder: str | Path, *, turns: int, steps: int) -> dict[str, Any]:
    """In each turn both train for so many counted steps, one after the other."""
    model, tokenizer = tuned(Path(folder))
    problems = load_problems("tiny-gsm", limit=4 * PROMPTS)
    shared: dict[str, Any] = {
        "max_steps": steps + 1, "learning_rate": 1e-6, "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True,
        "num_generations": ANSWERS,
    }  # fmt: skip
    ours = rollout_trainer(
        deepcopy(model),
        tokenizer,
        problems,
        GRPO(loss_type="dapo", epsilon=EPSILON),
        last_digit_of_length,
        output_dir=folder,
        max_new_tokens=NEW_TOKENS,
        per_device_train_batch_size=PROMPTS,
        warmup_steps=0,
        **shared,
    )
    theirs = trl_trainer(
        deepcopy(model),
        tokenizer,
        folder,
        [{"prompt": sft_prompt(problem["question"])} for problem in problems],
        max_completion_length=NEW_TOKENS,
        per_device_train_batch_size=PROMPTS * ANSWERS,
        **shared,
    )
    trainers = {"ours": ours, "trl": theirs}
    clocks = {name: Clock() for name in trainers}
    for name, trainer in trainers.items():
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clocks[name])
    for turn in range(turns):
        for name in [*trainers][:: 1 if turn % 2 == 0 else -1]:
            trainers[name].train()
            print(f"whole steps {turn}: {name:5} {clocks[name].seconds[-steps:]}", flush=True)
    taken = {name: median(clock.seconds) for name, clock in clocks.items()}
    logged = ("completions/mean_length", "frac_reward_zero_std")
    parts = ("generating", "updating")
    return {
        "speedup": round(taken["trl"] / taken["ours"], 3),
        "seconds": {name: round(value, 4) for name, value in taken.items()},
        "our_seconds": {
            part: round(median(clocks["ours"].logged[f"seconds/{part}"]), 4) for part in parts
        },
        **{
            key: {name: round(fmean(clock.logged[key]), 3) for name, clock in clocks.items()}
            for key in logged
        },
        "ended": {
            "ours": round(fmean(clocks["ours"].logged["completions/ended"]), 3),
            "trl": round(1 - fmean(clocks["trl"].logged["completions/clipped_ratio"]), 3),
        },
    }
