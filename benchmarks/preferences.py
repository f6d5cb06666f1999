"""One optimiser step of DPO on a CPU: ours against TRL's trainer.

    python benchmarks/preferences.py --json [--shape tiny|qwen2.5-0.5b] [--rounds N] [--pairs N]

A GPU is hidden: the times are those of a CPU. The rival is `trl.DPOTrainer`: its own collator and
`compute_loss`, one padded batch with the chosen and the rejected sequences of all pairs. `ours`
calls what our trainer calls. The reference is the model with its adapter off.

Timed: collation, forward passes (reference and policy), backward, clipping, AdamW. Not timed:
tokenization. Weights are random; LoRA has no dropout, and its B is not zero, or A would have no
gradient. Every step starts afresh. In a round all methods take the same pairs (three kinds, see
`preference_pairs`), in turns; ratios and limits are medians over the rounds.

Keys of the result, besides those that say what was run:

- `speedup_*`: TRL's seconds divided by ours. `speedup_precomputed_*`: the same with references
  computed before training (TRL: `precompute_ref_log_probs=True`), so only the policy's pass is
  timed. `speedup_padding_free_*` is null: TRL accepts `padding_free=True` but pads all the same.
- `flop_limit`: floating-point operations of TRL's step divided by ours (`counted_flops`), both
  passes, padding and masked attention included. TRL's trainer cannot run on the meta device, so
  `preference_rivals.padded` stands for it. `fraction_of_limit`: a round's speedup over its limit;
  above 1 where softmaxes, which are not counted, take long: TRL's are over all positions.
- `grad_rel_diff`: the largest max |ours - TRL's| / max |TRL's| of any parameter and round.
- `peak_rss_mb`: of a separate process that makes the model and takes one `plain` step.
- `positions`: what passed through the model once, in all rounds, with padding; `_tokens`: without.
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
from preference_pairs import KINDS, MAX_LENGTH, Pairs, turns_of
from preference_rivals import BETA, Rows, padded, step_of, trl_trainer
from transformers import TrainingArguments

from mathsft.models import projection
from mathsft.models.logprobs import sequence_logprobs
from mathsft.objectives.preference import DPO
from mathsft.training.batches import Collator
from mathsft.training.reference import kept_logprobs, reference_model, with_logprobs
from mathsft.training.rows import training_rows

OBJECTIVE = DPO(beta=BETA)
METHODS = ("ours", "trl", "ours_precomputed", "trl_precomputed")


def collator(kind: str) -> Collator:
    return Collator(OBJECTIVE, pad_token_id=0, max_length=MAX_LENGTH[kind])


def our_rows(kind: str, pairs: Pairs, tokenizer: Any) -> Any:
    return training_rows(pairs, tokenizer, OBJECTIVE, max_length=MAX_LENGTH[kind], name=kind)


def our_step(kind: str) -> Step:
    """Leaves the gradients of the mean loss, returns the positions with padding."""
    collate = collator(kind)

    def ours(model: Any, rows: Rows) -> int:
        batch = {name: tensor.to(model.device) for name, tensor in collate(rows).items()}
        reference = None
        if "reference" not in batch:
            with reference_model(model):
                reference = sequence_logprobs(model, batch)
        logprobs = sequence_logprobs(model, batch)
        reference = reference or kept_logprobs(batch, logprobs, column="reference")
        loss = OBJECTIVE.loss(replace(logprobs, reference=reference), batch)
        (loss.total / len(batch["labels"])).backward()
        return batch["input_ids"].numel()

    return ours


def check_same(ours: Rows, theirs: Rows) -> None:
    """Raise RuntimeError unless TRL has the same tokens."""
    sides = ("chosen_ids", "rejected_ids")
    rival = [[*row["prompt_ids"], *row[side]] for row in theirs for side in sides]
    if rival != [ids for row in ours for ids in row["input_ids"]]:
        raise RuntimeError("TRL's tokens differ from ours, or one of the two dropped a pair")


def flop_limit(kind: str, shape: str, ours: Rows, theirs: Rows) -> float:
    with torch.device("meta"):
        model = random_model(shape, lora_dropout=0.0).train()
    # The end of a block of logits is computed from values, which the meta device does not have.
    with mock.patch.object(projection, "LOGITS_AT_ONCE", sys.maxsize):
        own = counted_flops(our_step(kind), model, ours)
    return counted_flops(padded, model, theirs) / own


def peak_megabytes(method: str, shape: str, pairs: int) -> float:
    """The peak memory of one `plain` step, in a process of its own."""
    options = ["--peak", method, "--shape", shape, "--pairs", str(pairs)]
    printed = subprocess.check_output([sys.executable, __file__, *options], text=True)
    return float(printed.splitlines()[-1])


def print_peak(method: str, shape: str, pairs: Pairs, tokenizer: Any, folder: str) -> None:
    import resource  # Unix alone has it

    model, start = model_to_train(shape)
    if method == "ours":
        step(our_step("plain"), model, start, [*our_rows("plain", pairs, tokenizer)])
    else:
        trainer = trl_trainer(model, tokenizer, pairs, folder, precompute=False)
        step(step_of(trainer), model, start, [*trainer.train_dataset])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measured(
    kind: str, shape: str, model: Any, start: Any, turns: list[Pairs], tokenizer: Any, folder: str
) -> dict[str, Any]:
    """All methods on the same pairs in each turn, after a step on the first row to warm up."""
    # First: it makes accelerate forget its state, and each trainer sets it up again.
    args = TrainingArguments(folder, use_cpu=True, report_to="none", per_device_eval_batch_size=1)
    with torch.no_grad():  # the reference is a fresh adapter, which changes nothing
        for name in start:
            if "lora_B" in name:
                model.get_parameter(name).zero_()
    flat = [pair for turn in turns for pair in turn]
    padding = trl_trainer(model, tokenizer, flat, folder, precompute=False)
    kept = trl_trainer(model, tokenizer, flat, folder, precompute=True)
    steps = {name: our_step(kind) for name in METHODS}
    steps |= {"trl": step_of(padding), "trl_precomputed": step_of(kept)}
    encoded = [our_rows(kind, turn, tokenizer) for turn in turns]
    references = [
        with_logprobs(rows, model, collator(kind), args, column="reference") for rows in encoded
    ]

    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    positions: Counter[str] = Counter()
    limits, differences = [], []
    for number, turn in enumerate(turns):
        places = range(number * len(turn), (number + 1) * len(turn))
        rows = {
            "ours": [*encoded[number]],
            "ours_precomputed": [*references[number]],
            "trl": [*padding.train_dataset.select(places)],
            "trl_precomputed": [*kept.train_dataset.select(places)],
        }
        check_same(rows["ours"], rows["trl"])
        for name in METHODS if number == 0 else ():
            step(steps[name], model, start, rows[name][:1])
        order = [*METHODS][number % 4 :] + [*METHODS][: number % 4]
        taken = {name: step(steps[name], model, start, rows[name]) for name in order}
        for name, (took, passed, _) in taken.items():
            seconds[name].append(took)
            positions[name] += passed
            print(f"{kind} {number}: {name:16} {took:8.3f} s, {passed} positions", flush=True)
        for how in ("", "_precomputed"):
            own, rival = taken[f"ours{how}"][2], taken[f"trl{how}"][2]
            differences.append(largest_difference(own, rival))
        positions["forest_tokens"] += int(collator(kind)(rows["ours"])["row_tokens"].sum())
        separate = [ids for row in rows["ours"] for ids in row["input_ids"]]
        positions["separate_tokens"] += sum(len(ids) - 1 for ids in separate)
        limits.append(flop_limit(kind, shape, rows["ours"], rows["trl"]))

    def ratios(how: str) -> list[float]:
        pairs = zip(seconds[f"trl{how}"], seconds[f"ours{how}"], strict=True)
        return [theirs / ours for theirs, ours in pairs]

    fractions = [ratio / limit for ratio, limit in zip(ratios(""), limits, strict=True)]
    return {
        "speedup": round(median(ratios("")), 3),
        "speedup_precomputed": round(median(ratios("_precomputed")), 3),
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
    parser.add_argument("--pairs", type=int, default=4, help="in a step; a group has eight")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", choices=("ours", "trl"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape, pairs = options.shape, options.pairs
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    disable_progress_bars()

    problems, source = grade_school_problems()
    tokenizer = tokenizer_for(problems, vocab_size=SHAPES[shape]["vocab_size"])
    draw = partial(turns_of, problems=problems.shuffle(seed=0), tokenizer=tokenizer, size=pairs)
    with tempfile.TemporaryDirectory() as folder:
        if options.peak:
            print_peak(options.peak, shape, draw("plain", count=1)[0], tokenizer, folder)
            return
        # Before this process makes the model: a child's ru_maxrss starts at its parent's memory.
        peaks = {name: round(peak_megabytes(name, shape, pairs)) for name in ("ours", "trl")}
        model, start = model_to_train(shape)
        found = {
            kind: measured(
                kind, shape, model, start, draw(kind, count=options.rounds), tokenizer, folder
            )
            for kind in KINDS
        }
    speedups = ("speedup", "speedup_precomputed")
    by_kind = ("flop_limit", "fraction_of_limit", "positions", "seconds")
    differences = [value for kind in KINDS for value in found[kind]["differences"]]
    result: dict[str, Any] = {
        **{f"{name}_{kind}": found[kind][name] for name in speedups for kind in KINDS},
        **dict.fromkeys([f"speedup_padding_free_{kind}" for kind in KINDS]),
        "padding_free": "TRL's DPOTrainer accepts padding_free=True, but pads all the same",
        "grad_rel_diff": float(torch.tensor(differences).max()),  # NaN if any is NaN
        "peak_rss_ratio": round(peaks["ours"] / peaks["trl"], 3),
        "peak_rss_mb": peaks,
        **{name: {kind: found[kind][name] for kind in KINDS} for name in by_kind},
        "source": source,
        "shape": shape,
        "rounds": options.rounds,
        "pairs": pairs,
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft, trl)},
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
