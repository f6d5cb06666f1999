"""One update of GRPO on a CPU, on groups of 8 answers: ours against TRL's trainer.

    python benchmarks/policy.py --json [--shape tiny|qwen2.5-0.5b] [--rounds N]
        [--kinds question few_shot silent] [--num_generations N] [--trl_batch_size N]
        [--no-whole_step]

A GPU is hidden: the times are those of a CPU. The rival is `trl.GRPOTrainer`: its own
`compute_loss` on the same token ids, padded as it pads them. `ours` calls what our trainer calls.
In both, a batch is one group (`--trl_batch_size`: TRL's has fewer answers, if memory is short), and
a step of several groups accumulates gradients. The loss is the mean over all tokens of the step
("dapo"), without a KL. Both get advantages and the log-probabilities of the sampling, so the model
makes a single pass.

Timed: collation, forward, backward, clipping, AdamW. Not timed: tokenization, sampling, rewards,
and the log-probabilities of the sampling. Weights are random; LoRA has no dropout, and its B is not
zero, or A would have no gradient. Every step starts afresh. In a round both methods take the same
groups (three kinds, see `policy_groups`), in turns; ratios and limits are medians over the rounds.

Keys of the result, besides those that say what was run:

- `speedup_*`: TRL's seconds divided by ours; null for a kind that was not run.
- `flop_limit`: floating-point operations of TRL's step divided by ours (`counted_flops`), padding
  and masked attention included. TRL's trainer cannot run on the meta device, so
  `policy_rivals.padded` stands for it. `fraction_of_limit`: a round's speedup over its limit;
  above 1 where softmaxes, which are not counted, take long: TRL's are over all positions.
- `grad_rel_diff`: the largest max |ours - TRL's| / max |TRL's| of any parameter and round.
- `peak_rss_mb`: of a separate process that makes the model and takes one `question` step.
- `positions`: what passed through the model in all rounds, with padding; `_tokens`: without. In
  `silent`, `forest_tokens` has one filler for each group that is skipped.
- `speedup_whole_step`, `whole_step`: with generation and rewards, on the embedded model
  (`policy_whole_step`, which says what is timed). By default at the tiny shape only; else null.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any
from unittest import mock

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
import transformers
import trl
from common import (
    SHAPES,
    counted_flops,
    grade_school_problems,
    largest_difference,
    random_model,
    tokenizer_for,
)
from datasets import disable_progress_bars
from multiple_choice_training import Step, model_to_train, step
from policy_groups import KINDS, MAX_LENGTH, turns_of, with_old
from policy_rivals import EPSILON, Rows, padded, step_of, their_row, trl_trainer
from policy_whole_step import whole_steps

from mathsft.models import projection
from mathsft.models.logprobs import sequence_logprobs
from mathsft.objectives.policy import GRPO
from mathsft.training.attempts import Attempts
from mathsft.training.batches import Collator
from mathsft.training.reference import kept_logprobs

OBJECTIVE = GRPO(loss_type="dapo", epsilon=EPSILON)
METHODS = ("ours", "trl")


def collator(kind: str) -> Collator:
    return Collator(OBJECTIVE, pad_token_id=0, max_length=MAX_LENGTH[kind])


def both_rows(kind: str, groups: list[Attempts], model: Any) -> dict[str, Rows]:
    """The groups as each method has them once they are sampled and judged."""
    values = OBJECTIVE.advantages([group.rewards for group in groups])
    rows = [group.as_row(own) for group, own in zip(groups, values, strict=True)]
    rows = with_old(rows, model, collator(kind))
    theirs = [their_row(group, row) for group, row in zip(groups, rows, strict=True)]
    return {"ours": rows, "trl": theirs}


def our_step(kind: str) -> Step:
    """Leaves the gradients of the mean loss, returns the positions with padding."""
    collate = collator(kind)

    def ours(model: Any, rows: Rows) -> int:
        batches = [collate([row]) for row in rows]
        items = sum(len(batch["labels"]) for batch in batches)
        for collated in batches:
            batch = {name: tensor.to(model.device) for name, tensor in collated.items()}
            logprobs = sequence_logprobs(model, batch)
            old = kept_logprobs(batch, logprobs, column="old")
            (OBJECTIVE.loss(replace(logprobs, old=old), batch).total / items).backward()
        return sum(batch["input_ids"].numel() for batch in batches)

    return ours


def flop_limit(kind: str, shape: str, ours: Rows, theirs: Rows) -> float:
    with torch.device("meta"):
        model = random_model(shape, lora_dropout=0.0).train()
    # The end of a block of logits is computed from values, which the meta device does not have.
    with mock.patch.object(projection, "LOGITS_AT_ONCE", sys.maxsize):
        own = counted_flops(our_step(kind), model, ours)
    return counted_flops(padded, model, theirs) / own


def peak_megabytes(method: str, shape: str, answers: int) -> float:
    """The peak memory of one `question` step, in a process of its own."""
    options = ["--peak", method, "--shape", shape, "--num_generations", str(answers)]
    printed = subprocess.check_output([sys.executable, __file__, *options], text=True)
    return float(printed.splitlines()[-1])


def print_peak(
    method: str, shape: str, groups: list[Attempts], tokenizer: Any, folder: str
) -> None:
    import resource  # Unix alone has it

    model, start = model_to_train(shape)
    rows = both_rows("question", groups, model)[method]
    if method == "ours":
        step(our_step("question"), model, start, rows)
    else:
        trainer = trl_trainer(model, tokenizer, folder)
        step(step_of(trainer, size=len(rows[0]["advantages"])), model, start, rows)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measured(
    kind: str, shape: str, model: Any, start: Any, turns: list[list[Attempts]], rival: Step
) -> dict[str, Any]:
    """Both methods on the same groups in each turn, after a step with two answers to warm up."""
    steps = {"ours": our_step(kind), "trl": rival}
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    positions: Counter[str] = Counter()
    limits, differences = [], []
    for number, groups in enumerate(turns):
        with torch.no_grad():
            for name, value in start.items():
                model.get_parameter(name).copy_(value)
        rows = both_rows(kind, groups, model)
        for name in METHODS if number == 0 else ():
            few = {key: values[:2] for key, values in rows[name][0].items()}
            step(steps[name], model, start, [few])
        order = METHODS[:: 1 if number % 2 == 0 else -1]
        taken = {name: step(steps[name], model, start, rows[name]) for name in order}
        for name, (took, passed, _) in taken.items():
            seconds[name].append(took)
            positions[name] += passed
            print(f"{kind} {number}: {name:5} {took:8.3f} s, {passed} positions", flush=True)
        differences.append(largest_difference(taken["ours"][2], taken["trl"][2]))
        for row in rows["ours"]:
            positions["forest_tokens"] += int(collator(kind)([row])["row_tokens"].sum())
            positions["separate_tokens"] += sum(len(ids) - 1 for ids in row["input_ids"])
        limits.append(flop_limit(kind, shape, rows["ours"], rows["trl"]))

    ratios = [theirs / ours for theirs, ours in zip(seconds["trl"], seconds["ours"], strict=True)]
    fractions = [ratio / limit for ratio, limit in zip(ratios, limits, strict=True)]
    return {
        "speedup": round(median(ratios), 3),
        "flop_limit": round(median(limits), 3),
        "fraction_of_limit": round(median(fractions), 3),
        "differences": differences,
        "positions": positions,
        "seconds": {name: round(median(took), 4) for name, took in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=KINDS)
    parser.add_argument("--num_generations", type=int, default=8, help="answers of a group")
    parser.add_argument("--trl_batch_size", type=int, help="answers (default: a whole group)")
    parser.add_argument(
        "--whole_step",
        action=argparse.BooleanOptionalAction,
        help="also time steps with generation, on the embedded model (default: if tiny)",
    )
    parser.add_argument("--peak", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape, answers = options.shape, options.num_generations
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    disable_progress_bars()

    problems, source = grade_school_problems()
    tokenizer = tokenizer_for(problems, vocab_size=SHAPES[shape]["vocab_size"])
    draw = partial(turns_of, problems=problems.shuffle(seed=0), tokenizer=tokenizer, size=answers)
    whole = None
    with tempfile.TemporaryDirectory() as folder:
        if options.peak:
            print_peak(options.peak, shape, draw("question", count=1)[0], tokenizer, folder)
            return
        # Before this process makes the model: a child's ru_maxrss starts at its parent's memory.
        peaks = {name: round(peak_megabytes(name, shape, answers)) for name in METHODS}
        model, start = model_to_train(shape)
        trainer = trl_trainer(model, tokenizer, folder)
        rival = step_of(trainer, size=options.trl_batch_size or answers)
        found = {
            kind: measured(kind, shape, model, start, draw(kind, count=options.rounds), rival)
            for kind in options.kinds
        }
        if options.whole_step if options.whole_step is not None else shape == "tiny":
            whole = whole_steps(folder, turns=options.rounds, steps=2)
    by_kind = ("flop_limit", "fraction_of_limit", "positions", "seconds")
    differences = [value for one in found.values() for value in one["differences"]]
    result: dict[str, Any] = {
        **{f"speedup_{kind}": found.get(kind, {}).get("speedup") for kind in KINDS},
        "speedup_whole_step": None if whole is None else whole["speedup"],
        "whole_step": whole,
        "grad_rel_diff": float(torch.tensor(differences).max()),  # NaN if any is NaN
        "peak_rss_ratio": round(peaks["ours"] / peaks["trl"], 3),
        "peak_rss_mb": peaks,
        **{name: {kind: one[name] for kind, one in found.items()} for name in by_kind},
        "source": source,
        "shape": shape,
        "rounds": options.rounds,
        "num_generations": answers,
        "trl_batch_size": options.trl_batch_size or answers,
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft, trl)},
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
