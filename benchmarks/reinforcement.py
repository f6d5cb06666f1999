"""Learning from attempts on the embedded model, over several seeds: the table of lesson 07.

    python benchmarks/reinforcement.py --json [--seeds 0 1 2] [--methods dr_grpo …] [--steps N]

Each seed tunes an adapter on eight worked solutions (20 passes), as in lessons 05 and 07. From
there each method trains with the recipe's settings: the policy objectives on attempts at 16 new
problems a step; `expert`, five rounds of 64 problems with eight attempts each, trained on at most
four right and different ones, two passes; `control`, more passes over the same eight solutions.

Accuracy: 300 test problems (``tiny-gsm``), greedy, an answer counts if it is right. The settings
were chosen on training problems that no method sees. Seconds are CPU seconds of one process,
without evaluations.

Keys: ``accuracy``: for each method and seed the shares of test problems solved, at the steps (or
rounds) in ``at``; ``seconds``; ``stopped``: what a run said if it stopped early.
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import TrainerCallback

from mathsft import (
    FinalAnswer,
    add_adapter,
    load_adapter,
    load_model,
    load_problems,
    load_recipe,
    quiet,
    rollout_trainer,
    sample_groups,
    save_adapter,
    sft_prompt,
    sft_trainer,
    worked_answers,
)
from mathsft.objectives import objective_class

METHODS = ("control", "expert", "dr_grpo", "grpo", "rloo")
RECIPE = load_recipe("tiny")
RECIPE["model"]["quantize"] = False
TRAIN = load_problems(**{**RECIPE["train"], "limit": 4600})
TEST = load_problems(**RECIPE["test"])
FEW, POOL = TRAIN.select(range(8)), TRAIN.select(range(600, 4600))
SFT = {**RECIPE["sft"], "max_steps": -1, "disable_tqdm": True}


class Scores(TrainerCallback):
    """Scores the model after some of the steps."""

    def __init__(self, tokenizer: Any, at: list[int]) -> None:
        self.tokenizer, self.at = tokenizer, at
        self.found: list[float] = []
        self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step in self.at:
            started = time.process_time()
            self.found.append(accuracy(given["model"], self.tokenizer))
            self.seconds += time.process_time() - started


def accuracy(model: Any, tokenizer: Any) -> float:
    answers = worked_answers(model, tokenizer, TEST, **RECIPE["worked"])
    return round(sum(answer["correct"] for answer in answers) / len(answers), 4)


def on_eight(model: Any, tokenizer: Any, seed: int, folder: Path) -> None:
    settings = {**SFT, "num_train_epochs": 20, "lr_scheduler_type": "constant", "packing": False}
    sft_trainer(model, tokenizer, FEW, output_dir=folder, seed=seed, **settings).train()


def expert_round(model: Any, tokenizer: Any, number: int, seed: int, folder: Path) -> None:
    problems = POOL.select(range(64 * number, 64 * (number + 1)))
    prompts = [sft_prompt(question) for question in problems["question"]]
    rows = []
    groups = sample_groups(model, tokenizer, prompts, seed=seed + number, **RECIPE["sample"])
    for prompt, right, group in zip(prompts, problems["answer"], groups, strict=True):
        texts, ended = [one.text for one in group], [one.ended for one in group]
        rewards = FinalAnswer()(texts, answer=[right] * len(group), ended=ended)
        kept = dict.fromkeys(t for t, r in zip(texts, rewards, strict=True) if r)
        rows += [{"prompt": prompt, "completion": text} for text in [*kept][:4]]
    settings = {**SFT, "num_train_epochs": 2, "adam_beta2": 0.99, "warmup_steps": 3}
    settings["learning_rate"] = 1e-3
    sft_trainer(model, tokenizer, rows, output_dir=folder, seed=seed, **settings).train()


def trained(
    method: str, start: Path, seed: int, steps: int, folder: Path
) -> tuple[list[float], float, str]:
    """Accuracies, CPU seconds, and why the run stopped early, if it did."""
    base, tokenizer = load_model(**RECIPE["model"])
    model = load_adapter(base, start, is_trainable=True)
    started, printed = time.process_time(), io.StringIO()
    scores = Scores(tokenizer, at=[*range(20, steps + 1, 20)])
    with contextlib.redirect_stdout(printed):
        if method == "control":
            on_eight(model, tokenizer, seed, folder)
            seconds = time.process_time() - started
            return [accuracy(model, tokenizer)], seconds, ""
        if method == "expert":
            found = []
            for number in range(5):
                expert_round(model, tokenizer, number, seed, folder)
                scores.seconds -= time.process_time()
                found.append(accuracy(model, tokenizer))
                scores.seconds += time.process_time()
            return found, time.process_time() - started - scores.seconds, ""
        settings = {**RECIPE["dr_grpo"], **RECIPE["rollout"], "max_steps": steps, "seed": seed}
        rollout_trainer(
            model, tokenizer, POOL, objective_class(method)(), FinalAnswer(),
            output_dir=folder, callbacks=[scores], disable_tqdm=True, **settings,
        ).train()  # fmt: skip
    seconds = time.process_time() - started - scores.seconds
    stopped = [line for line in printed.getvalue().splitlines() if "training stops" in line]
    return scores.found, seconds, " ".join(stopped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--steps", type=int, default=60, help="of the policy objectives")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    quiet()
    accuracies: dict[str, dict[int, list[float]]] = {m: {} for m in ("start", *options.methods)}
    seconds: dict[str, list[float]] = {method: [] for method in options.methods}
    stopped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        for seed in options.seeds:
            folder = Path(name) / str(seed)
            base, tokenizer = load_model(**RECIPE["model"])
            model = add_adapter(base, seed=seed)
            with contextlib.redirect_stdout(io.StringIO()):
                on_eight(model, tokenizer, seed, folder)
                start = save_adapter(model, folder / "start", tokenizer=tokenizer)
                accuracies["start"][seed] = [accuracy(model, tokenizer)]
            print("start", seed, accuracies["start"][seed], flush=True)
            for method in options.methods:
                found, took, why = trained(method, start, seed, options.steps, folder / method)
                accuracies[method][seed] = found
                seconds[method].append(round(took, 1))
                if why:
                    stopped[f"{method} {seed}"] = why
                print(f"{method} {seed} {found} {took:.0f} s {why}", flush=True)
    result = {
        "accuracy": accuracies,
        "seconds": seconds,
        "stopped": stopped,
        "at": {"steps": [*range(20, options.steps + 1, 20)], "rounds": [1, 2, 3, 4, 5]},
        "problems": len(TEST),
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers)},
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
