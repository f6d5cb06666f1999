"""One optimiser step of the multiple-choice objective on a CPU: the forest against two rivals.

    python benchmarks/multiple_choice_training.py --json [--shape tiny|qwen2.5-0.5b]
        [--questions N] [--rounds N] [--no-sweep]

A GPU is hidden: the times are those of a CPU. The rivals (`multiple_choice_rivals`) are `loop`,
five padded passes with full logits, and `vectorised`, one padded batch of all choices in which only
the scored positions are projected. `ours` calls what the trainer calls.

Timed: collation, forward, backward, clipping, AdamW. Not timed: tokenization. Weights are random;
LoRA has no dropout, and its B is not zero, or A would have no gradient. Every step starts afresh.
In a round all three take the same questions; ratios and the limit are medians over the rounds.

- `flop_limit_vs_vectorised`: floating-point operations of the vectorised step divided by ours
  (`counted_flops`), padding and masked attention included: how much faster ours would be if both
  did equally many operations a second. `fraction_of_limit`: a round's speedup over its own limit.
- `grad_rel_diff`: the largest max |ours - rival's| / max |rival's| of any parameter, round, rival.
- `peak_rss_mb`: of a separate process that makes the model and takes one step (`ru_maxrss`). At
  0.5B, the rivals need 12-17 GB for 4 questions.
- `positions`: what passed through the model in all rounds, with padding; `_tokens`: without it.
- `by_choices`: the same questions with 2 to 32 choices. `separate_gflop`: the vectorised batch;
  `seconds`: our forward and backward, the median over the rounds.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any
from unittest import mock

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
import transformers
from common import (
    SHAPES,
    counted_flops,
    largest_difference,
    more_choices,
    multiple_choice_problems,
    random_model,
    tokenizer_for,
)
from datasets import disable_progress_bars
from multiple_choice_rivals import Questions, loop, vectorised
from torch import Tensor

from mathsft.models import projection
from mathsft.models.logprobs import sequence_logprobs
from mathsft.objectives.multiple_choice import MultipleChoice
from mathsft.training.batches import Collator
from mathsft.training.rows import training_rows

Step = Callable[[Any, Questions], int]
OBJECTIVE = MultipleChoice()
COLLATE = Collator(OBJECTIVE, pad_token_id=0)
SWEEP, SWEEP_QUESTIONS = (2, 4, 8, 16, 32), 4


def ours(model: Any, questions: Questions) -> int:
    """The forest: leaves the gradients of the mean loss, returns the positions with padding."""
    batch = COLLATE(questions)
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    loss = OBJECTIVE.loss(sequence_logprobs(model, batch), batch)
    (loss.total / len(batch["labels"])).backward()
    return batch["input_ids"].numel()


METHODS: dict[str, Step] = {method.__name__: method for method in (ours, loop, vectorised)}


def model_to_train(shape: str) -> tuple[Any, dict[str, Tensor]]:
    """A model, and the adapter weights from which every step starts."""
    model = random_model(shape, lora_dropout=0.0).train()
    generator = torch.Generator().manual_seed(0)
    start = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.01, generator=generator)
            start[name] = parameter.detach().clone()
    return model, start


def step(
    method: Step, model: Any, start: Mapping[str, Tensor], questions: Questions
) -> tuple[float, int, dict[str, Tensor]]:
    """Seconds of one optimiser step, positions computed, and the gradients before clipping."""
    adapter = {name: model.get_parameter(name) for name in start}
    with torch.no_grad():
        for name, parameter in adapter.items():
            parameter.copy_(start[name])
    optimizer = torch.optim.AdamW(adapter.values(), lr=2e-4)
    began = time.perf_counter()
    positions = method(model, questions)
    seconds = time.perf_counter() - began
    gradients = {name: parameter.grad.clone() for name, parameter in adapter.items()}
    began = time.perf_counter()
    torch.nn.utils.clip_grad_norm_(adapter.values(), max_norm=1.0)
    optimizer.step()
    optimizer.zero_grad()
    return seconds + time.perf_counter() - began, positions, gradients


def peak_megabytes(method: str, shape: str, questions: int) -> float:
    """The peak memory of one step, in a process of its own."""
    options = ["--peak", method, "--shape", shape, "--questions", str(questions)]
    printed = subprocess.check_output([sys.executable, __file__, *options], text=True)
    return float(printed.splitlines()[-1])


def count_both(shape: str, questions: Questions) -> tuple[int, int]:
    """Floating-point operations of ours and of the vectorised rival."""
    with torch.device("meta"):
        model = random_model(shape, lora_dropout=0.0).train()
    # The end of a block of logits is computed from values, which the meta device does not have.
    with mock.patch.object(projection, "LOGITS_AT_ONCE", sys.maxsize):
        return counted_flops(ours, model, questions), counted_flops(vectorised, model, questions)


def unpadded(rows: Questions) -> dict[str, int]:
    """Tokens that pass through the model, as a forest and as one sequence for each choice."""
    return {
        "forest_tokens": int(COLLATE(rows)["row_tokens"].sum()),
        "separate_tokens": sum(len(ids) - 1 for row in rows for ids in row["input_ids"]),
    }


def sweep(
    shape: str, model: Any, tokenizer: Any, problems: Any, rounds: int
) -> list[dict[str, float]]:
    """The same questions with more and more choices."""
    numeric = [p for p in problems if all(re.search(r"\d", choice) for choice in p["choices"])]
    found = []
    for count in SWEEP:
        made = [more_choices(problem, count=count) for problem in numeric[:SWEEP_QUESTIONS]]
        rows = list(training_rows(made, tokenizer, OBJECTIVE, name=f"{count} choices"))
        if len(rows) < SWEEP_QUESTIONS:
            raise RuntimeError("the sweep must compare the same questions, but one was dropped")
        flops, separate_flops = count_both(shape, rows)
        seconds = []
        for _ in range(rounds):
            began = time.perf_counter()
            ours(model, rows)
            seconds.append(time.perf_counter() - began)
            model.zero_grad()
        found.append(
            {
                "choices": count,
                **unpadded(rows),
                "forest_gflop": round(flops / 1e9, 3),
                "separate_gflop": round(separate_flops / 1e9, 3),
                "seconds": round(median(seconds), 4),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    parser.add_argument("--questions", type=int, help="questions in a step (default: 4; tiny: 16)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-sweep", action="store_true", help="leave `by_choices` out")
    parser.add_argument("--peak", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape, rounds = options.shape, options.rounds
    count = options.questions or (16 if shape == "tiny" else 4)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    disable_progress_bars()

    problems, source = multiple_choice_problems()
    tokenizer = tokenizer_for(problems, vocab_size=SHAPES[shape]["vocab_size"])
    problems, needed = problems.shuffle(seed=0), count * rounds + 1
    drawn = problems.select(range(needed + needed // 4 + 4))  # some may be unusable
    rows = training_rows(drawn, tokenizer, OBJECTIVE, name=source)
    if len(rows) < needed:
        raise RuntimeError(f"{len(rows)} of {len(drawn)} questions are usable, {needed} are needed")
    *rows, warm_up = rows.select(range(needed))
    turns = [rows[n * count : (n + 1) * count] for n in range(rounds)]
    if options.peak:
        import resource  # Unix alone has it

        model, start = model_to_train(shape)
        step(METHODS[options.peak], model, start, turns[0])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return

    # Before this process makes the model: a child's ru_maxrss starts at its parent's memory.
    peaks = {name: round(peak_megabytes(name, shape, count)) for name in METHODS}
    model, start = model_to_train(shape)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    positions: Counter[str] = Counter()
    limits: list[float] = []
    differences: list[float] = []
    for method in METHODS.values():
        step(method, model, start, [warm_up])
    for turn, questions in enumerate(turns):
        positions.update(unpadded(questions))
        gradients = {}
        for name in [*METHODS][turn % 3 :] + [*METHODS][: turn % 3]:
            took, passed, gradients[name] = step(METHODS[name], model, start, questions)
            seconds[name].append(took)
            positions[name] += passed
            print(f"round {turn}: {name:10} {took:8.3f} s, {passed} positions", flush=True)
        own = gradients.pop("ours")
        differences += [largest_difference(own, other) for other in gradients.values()]
        own_flops, rival_flops = count_both(shape, questions)
        limits.append(rival_flops / own_flops)

    def ratios(rival: str) -> list[float]:
        return [other / own for own, other in zip(seconds["ours"], seconds[rival], strict=True)]

    versus = ratios("vectorised")
    fractions = [ratio / limit for ratio, limit in zip(versus, limits, strict=True)]
    result: dict[str, Any] = {
        "speedup_vs_loop": round(median(ratios("loop")), 3),
        "speedup_vs_vectorised": round(median(versus), 3),
        "flop_limit_vs_vectorised": round(median(limits), 3),
        "fraction_of_limit": round(median(fractions), 3),
        "grad_rel_diff": float(torch.tensor(differences).max()),  # NaN if any is NaN
        "questions_per_s": round(count / median(seconds["ours"]), 3),
        "peak_rss_ratio": round(peaks["ours"] / peaks["vectorised"], 3),
        "peak_rss_mb": peaks,
        "positions": positions,
        "by_choices": [] if options.no_sweep else sweep(shape, model, tokenizer, problems, rounds),
        "source": source,
        "shape": shape,
        "rounds": rounds,
        "questions": count,
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)},
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
