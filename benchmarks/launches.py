"""Operations and bytes of one training step, ours against TRL and PEFT as they come.

    python benchmarks/launches.py --json [--shape tiny|qwen2.5-0.5b] [--layers N] [--compile false]

No GPU is needed: the step is counted on a CPU under the dtypes and the autocast that the policies
of a T4 (float16) and of an A100 (bfloat16) use, with the rows of their recipes. A step is the
forward and the backward pass of one batch, without the optimiser's update. Weights are not in 4
bits.

- `ops_per_step`: operations that launch a kernel (views launch none);
- `elementwise_bytes_per_token`: bytes that all operations outside matrix products and attention
  read and write, per token that is not padding.

"as_they_come" is our trainer with PEFT's own LoRA layers, as it was before. "rival" is TRL's
SFTTrainer on one packed row (its collator joins a batch into one), without the metrics that it
computes; for choices, a vectorised padded batch of the same questions.

"compiled" has the launches of a real step, by the profiler, before and after its layers are
compiled, on a narrow model of four layers: they do not depend on the width, and more layers only
make what stands outside of them count less.
"""

import argparse
import json
import logging
import os
import tempfile
import warnings
from contextlib import nullcontext
from functools import partial
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from common import (
    SHAPES,
    grade_school_problems,
    multiple_choice_problems,
    random_base,
    tokenizer_for,
)
from compiled_launches import compiled_counts
from datasets import disable_progress_bars
from launch_counts import launches_of
from multiple_choice_rivals import vectorised
from packing_rivals import QUIET, trl_trainer

from mathsft.models.adapters import add_adapter
from mathsft.models.lean_adapters import lean_adapters
from mathsft.training.make import multiple_choice_trainer, sft_trainer

MAKE = {"sft": sft_trainer, "choices": multiple_choice_trainer}
# The precision of a policy, and its recipe's rows and questions per batch.
POLICIES: dict[str, tuple[torch.dtype, dict[str, int]]] = {
    "t4": (torch.float16, {"sft": 8, "choices": 16}),
    "a100": (torch.bfloat16, {"sft": 16, "choices": 32}),
}


class Counted:
    """The counts of both objectives on one policy, with ``layers`` layers of a shape."""

    def __init__(self, policy: str, *, shape: str, layers: int, tokenizer: Any) -> None:
        self.dtype, self.rows = POLICIES[policy]
        self.precision = {"fp16": policy == "t4", "bf16": policy == "a100", "use_cpu": True}
        self.tokenizer = tokenizer
        SHAPES["counted"] = {**SHAPES[shape], "num_hidden_layers": layers}

    def model(self) -> Any:
        """Random weights in the policy's dtype; the adapters stay in float32."""
        return add_adapter(random_base("counted").to(self.dtype))

    def ours(self, kind: str, rows: Any, *, lean: bool) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            trainer: Any = MAKE[kind](
                self.model(), self.tokenizer, rows, output_dir=folder,
                per_device_train_batch_size=self.rows[kind], **self.precision, **QUIET,
            )  # fmt: skip
        batch = next(iter(trainer.get_train_dataloader()))
        step = partial(trainer.training_step, num_items_in_batch=len(batch["labels"]))
        with lean_adapters(trainer.model) if lean else nullcontext():
            return self.described(step, trainer, batch, int(batch["row_tokens"].sum()))

    def trl(self, rows: Any) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            trainer: Any = trl_trainer(
                self.model(), self.tokenizer, rows, folder, packing=True,
                packing_strategy="bfd", per_device_train_batch_size=1, **self.precision,
            )  # fmt: skip
        batch = next(iter(trainer.get_train_dataloader()))

        def step(model: Any, inputs: Any) -> None:
            with trainer.compute_loss_context_manager():  # TRL's own metrics read numbers
                loss = transformers.Trainer.compute_loss(trainer, model, inputs)
            trainer.accelerator.backward(loss)

        return self.described(step, trainer, batch, batch["labels"].numel())

    def padded(self, rows: Any) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            trainer: Any = multiple_choice_trainer(
                self.model(), self.tokenizer, rows, output_dir=folder, **self.precision, **QUIET
            )
        questions = [trainer.train_dataset[n] for n in range(self.rows["choices"])]

        def step(model: Any, inputs: Any) -> None:
            with trainer.accelerator.autocast():
                vectorised(model, questions)

        tokens = sum(len(ids) - 1 for q in questions for ids in q["input_ids"])
        return self.described(step, trainer, {}, tokens)

    def described(self, step: Any, trainer: Any, batch: Any, tokens: int) -> dict[str, float]:
        def mixed(model: Any, inputs: Any) -> None:
            with torch.autocast("cpu", dtype=self.dtype):  # accelerate has none for float16 here
                step(model, inputs)

        launches = launches_of(mixed, trainer, batch)
        return {
            "ops_per_step": sum(launches.operations.values()),
            "elementwise_bytes_per_token": round(sum(launches.bytes.values()) / tokens),
            "tokens": tokens,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    parser.add_argument("--layers", type=int, help="default: the shape's")
    parser.add_argument("--compile", choices=("true", "false"), default="true")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    disable_progress_bars()

    problems, _ = grade_school_problems()
    tokenizer = tokenizer_for(problems, vocab_size=SHAPES[options.shape]["vocab_size"])
    rows = {
        "sft": problems.shuffle(seed=0).select(range(300)),
        "choices": multiple_choice_problems()[0].shuffle(seed=0).select(range(300)),
    }
    layers = options.layers or SHAPES[options.shape]["num_hidden_layers"]
    result: dict[str, Any] = {"shape": options.shape, "layers": layers}
    for policy in POLICIES:
        counts = Counted(policy, shape=options.shape, layers=layers, tokenizer=tokenizer)
        for kind in MAKE:
            part: dict[str, Any] = {
                "ours": counts.ours(kind, rows[kind], lean=True),
                "as_they_come": counts.ours(kind, rows[kind], lean=False),
                "rival": counts.trl(rows[kind]) if kind == "sft" else counts.padded(rows[kind]),
            }
            key = "elementwise_bytes_per_token"
            part["bytes_ratio"] = round(part["ours"][key] / part["as_they_come"][key], 3)
            result[f"{policy}_{kind}"] = part
            print(policy, kind, json.dumps(part), flush=True)
    if options.compile == "true":
        for kind in MAKE:
            result[f"compiled_{kind}"] = compiled_counts(kind, rows[kind], tokenizer)
            print("compiled", kind, json.dumps(result[f"compiled_{kind}"]), flush=True)
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
