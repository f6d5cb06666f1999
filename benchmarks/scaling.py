"""Tokens, operations, memory and time of the course's runs, and of larger models and machines.

    MATHSFT_DATA_DIR=... python benchmarks/scaling.py --json | --markdown

Each figure is of one of these kinds:

- measured: rows and tokens of real rows (GSM8K's train rows, MathQA's dev rows), and with
  ``--json`` the rate of a short training run of the tiny model on this CPU;
- counted: floating-point operations (`scaling_costs`), at the published shapes of Qwen2.5;
- estimated: MathQA's 29,837 train rows from 1,000 of its dev rows; Qwen's tokens with a
  byte-level BPE of 8,000 words learnt from the rows, which splits text as Qwen2.5's does; memory
  with `estimate_memory`; hours (`scaling_machines`), from times that were measured on an H100.

No figure includes communication between cards, evaluation and loading.
"""

import argparse
import json
import os
import sys
import tempfile
from contextlib import redirect_stdout
from functools import cache
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from datasets import disable_progress_bars
from scaling_costs import (
    SAMPLE,
    SIZES,
    choices,
    one_pass,
    prices,
    published_shapes,
    rows_of,
    solutions,
)
from scaling_machines import MACHINES, Machine
from scaling_tables import tables

from mathsft.data.problems import load_problems
from mathsft.models.loading import load_model
from mathsft.recipes import load_recipe
from mathsft.recipes.estimate import estimate_memory, largest_batch
from mathsft.training.make import sft_trainer

SPARE = 0.85  # of a card: estimates may be off by as much as the rest
BATCH, STEPS = "per_device_train_batch_size", "gradient_accumulation_steps"


def course() -> list[dict[str, Any]]:
    """The training runs of lessons 01 to 03, with the settings of the recipes."""
    found = []
    for profile in ("tiny", "t4", "a100"):
        recipe, device = load_recipe(profile), "cpu" if profile == "tiny" else profile
        size = recipe["model"]["name"].removeprefix("Qwen/Qwen2.5-")
        for lesson, section in (("01", "sft"), ("02", "multiple_choice"), ("03", "mixing")):
            settings = recipe[section]
            source = recipe["train" if section == "sft" else "choices_train"]
            batch = step_rows(settings)
            if settings[BATCH] == "auto":
                batch = largest_batch(recipe, section, device=device).per_device_train_batch_size
            limit = settings["max_steps"] * batch if section == "mixing" else source.get("limit")
            work = one_pass(source["source"], limit, batch, settings["max_length"])
            passes = settings.get("num_train_epochs", 1)
            quantize = section != "mixing" and bool(recipe["model"].get("quantize"))
            price = prices(size, lora=True, checkpointing=False)
            flops = passes * price.of(work)
            memory = estimate_memory(recipe, section, device=device, quantize=quantize)
            hours = None
            if profile != "tiny":
                machine, batches = MACHINES[profile.upper()], passes * work.batches
                hours = machine.hours(size, flops, batches, quantize=quantize)
            found.append(
                {
                    "recipe": profile,
                    "lesson": lesson,
                    "model": size,
                    "rows": work.rows,
                    "passes": passes,
                    "tokens": round(work.tokens * passes),
                    "flops": flops,
                    "memory_gb": memory.total,
                    "hours": hours,
                }
            )
    return found


def step_rows(settings: dict[str, Any]) -> int:
    """The rows of an optimiser step, as a recipe's section gives them."""
    given = settings.get("step_rows")
    return int(given or settings[BATCH] * settings.get(STEPS, 1))


@cache
def recipe_of(name: str) -> dict[str, Any]:
    """Read once, because each way of saving memory asks for it."""
    return load_recipe(name)


def memory_of(size: str, machine: Machine, way: str, *, checkpointing: bool, halved: int) -> float:
    """GB a card: the larger of the peaks with packed rows and with multiple choice.

    An optimiser step of the recipe is one batch, ``halved`` this many times.
    """
    lora = not way.startswith("full")
    peaks = []
    for section in ("sft", "multiple_choice"):
        settings = dict(recipe_of(machine.recipe)[section])
        rows = step_rows(settings)
        settings[BATCH] = max(1, rows >> halved)
        settings[STEPS] = rows // settings[BATCH]
        settings.pop("step_rows", None)
        settings["gradient_checkpointing"] = checkpointing
        if not lora or machine.cards > 1:  # bitsandbytes' 8-bit states cannot be sharded
            settings["optim"] = "adamw_torch_fused"
        found = estimate_memory(
            {"model": {"name": size}, section: settings}, section,
            device=machine.device, lora=lora, **machine.ways[way],
        )  # fmt: skip
        buckets = found.optimizer / 2 if "DDP" in way else 0  # as large as the gradients
        peaks.append(found.total + buckets)
    return max(peaks)


def cheapest(size: str, machine: Machine, *, full: bool) -> dict[str, Any]:
    """The first way that fits with 15 % to spare, and what it costs.

    Tries a whole step as one batch, then smaller batches, then both with checkpointing. On one card
    all of these are tried before another way. On several cards the other way is tried first,
    because dividing the model costs less than passing through it once more.
    """
    recipe = recipe_of(machine.recipe)
    frugal = [(checkpointing, halved) for checkpointing in (False, True) for halved in range(5)]
    ways = [way for way in machine.ways if way.startswith("full") == full]
    tried = [(way, saving) for way in ways for saving in frugal]
    if machine.cards > 1:
        tried = [(way, saving) for saving in frugal for way in ways]
    for way, (checkpointing, halved) in tried:
        gigabytes = memory_of(size, machine, way, checkpointing=checkpointing, halved=halved)
        if gigabytes > SPARE * machine.room:
            continue
        rows = step_rows(recipe["sft"]) >> halved
        found = {"way": way, "checkpointing": checkpointing, "batch": max(1, rows)}
        found["memory_gb"] = gigabytes
        price = prices(size, lora=not full, checkpointing=checkpointing)
        quantize = machine.ways[way].get("quantize", False)
        for section, source in (("sft", "gsm8k"), ("multiple_choice", "mathqa")):
            settings = recipe[section]
            batch = max(1, step_rows(settings) >> halved)
            work = one_pass(source, None, batch, settings["max_length"])
            flops = found[f"{section}_flops"] = price.of(work)
            found[f"{section}_hours"] = machine.hours(size, flops, work.batches, quantize=quantize)
        return found
    return {"way": None}


def sizes() -> list[dict[str, Any]]:
    """One pass over GSM8K and one over MathQA, for each model, machine and kind of training."""
    return [
        {"model": size, "machine": name, "full": full, **cheapest(size, machine, full=full)}
        for full in (False, True)
        for size in SIZES
        for name, machine in MACHINES.items()
    ]


def data_sets() -> list[dict[str, Any]]:
    """The data of one pass: with the tokenizer assumed for Qwen, and with the tiny model's."""
    found = []
    embedded = load_model("tiny", device="cpu")[1]
    for source, pay, batch in (("gsm8k", solutions, 4), ("mathqa", choices, 8)):
        work = one_pass(source, None, batch, 512)
        some = rows_of(source)[0].select(range(SAMPLE))
        tiny = pay(some, embedded, batch_size=batch, max_length=512)
        found.append(
            {
                "source": source,
                "rows": work.rows,
                "tokens_a_row": work.tokens / work.rows,
                "tiny_tokens_a_row": tiny.tokens / tiny.rows,
                "trained_share": work.predictors / work.tokens,
                "padding": 1 - work.tokens / work.positions,
            }
        )
    return found


def measured_on_this_cpu() -> dict[str, Any]:
    """The rate of twenty SFT steps with the tiny recipe; it says nothing about a GPU."""
    recipe = load_recipe("tiny")
    model, tokenizer = load_model("tiny", lora=True, device="cpu")
    problems = load_problems("tiny-gsm", split="train", limit=400)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        settings = {**recipe["sft"], "max_steps": 20, "logging_steps": 10}
        trainer = sft_trainer(
            model, tokenizer, problems, output_dir=folder, disable_tqdm=True, **settings
        )
        trainer.train()
    rate = [log for log in trainer.state.log_history if "tokens_per_second" in log][-1]
    work = solutions(problems, tokenizer, batch_size=8, max_length=recipe["sft"]["max_length"])
    flops = prices("tiny", lora=True, checkpointing=False).of(work) / work.tokens
    return {
        "tokens_per_second": rate["tokens_per_second"],
        "gflop_per_second": round(rate["tokens_per_second"] * flops / 1e9, 1),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="end with one JSON object")
    form.add_argument("--markdown", action="store_true", help="print the tables of the document")
    options = parser.parse_args()
    if "MATHSFT_DATA_DIR" not in os.environ:
        parser.error(
            "real rows are needed: set MATHSFT_DATA_DIR to a folder with gsm8k/ and mathqa/"
        )
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    with redirect_stdout(sys.stderr), published_shapes():
        result: dict[str, Any] = {"data": data_sets(), "course": course(), "sizes": sizes()}
    if options.markdown:
        print("\n\n".join(tables(result)))
        return
    result["measured_on_this_cpu"] = measured_on_this_cpu()
    result["versions"] = {m.__name__: m.__version__ for m in (torch, transformers)}
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
