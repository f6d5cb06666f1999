"""Scoring multiple choice through lm-evaluation-harness on a CPU: the forest against `HFLM`.

    python benchmarks/multiple_choice_scoring.py --json [--shape tiny|qwen2.5-0.5b]
        [--num_fewshot N] [--sampler default|first_n] [--questions N] [--rounds N]

If there is a GPU, it is hidden. Both go through `simple_evaluate` on the same questions, with
the same random weights in float32; each round runs both, in alternating order. **The
log-likelihood phase is timed**: everything inside `loglikelihood`, tokenization included. The
same code builds the prompts and computes the metrics for both, outside of it.

`HFLM` runs with the given batch size (`--batch_size`, default 8; ours uses "auto"). Without
few-shot examples its time on a CPU hardly depends on it. The harness draws the few-shot examples
from the other half of the file: `default` draws again for each question, `first_n` takes
the same ones for all.

- `speedup`: the ratio of the two phases' times, as the median over the rounds.
- `flop_limit`: floating-point operations of HFLM's passes divided by those of ours
  (`counted_flops`), padding and masked attention included: the speedup if both did
  equally many operations a second. `fraction_of_limit`: `speedup` divided by it.
- `max_abs_diff`: the largest difference of any log-likelihood, in nats.
- `same_predictions`: whether both pick the same choice everywhere, by acc and by acc_norm.
- `peak_rss_ratio`: HFLM's peak memory divided by ours, each in a process of its own, Python and
  weights included (`ru_maxrss`).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from statistics import median
from typing import Any
from unittest import mock

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import lm_eval
import torch
import transformers
from common import SHAPES, counted_flops, random_base, raw_choice_rows, tokenizer_for
from scoring_runs import METHODS, file_task, score

from mathsft.models import projection
from mathsft.models.likelihood import option_scores


def count_both(shape: str, ours: dict[str, Any], hflm: dict[str, Any]) -> tuple[int, int]:
    """Floating-point operations of both runs' passes."""
    with torch.device("meta"):
        model = random_base(shape)

    def all_forests(model: Any) -> None:
        for batch in ours["forests"]:
            option_scores(model, {name: tensor.to("meta") for name, tensor in batch.items()})

    def all_rows(model: Any) -> None:
        with torch.no_grad():
            for rows in hflm["shapes"]:
                model(torch.zeros(rows, dtype=torch.long, device="meta"))

    # The end of a block of logits is computed from values, which the meta device does not have.
    with mock.patch.object(projection, "LOGITS_AT_ONCE", sys.maxsize):
        return counted_flops(all_forests, model), counted_flops(all_rows, model)


def picked(samples: list[dict[str, Any]], normalised: bool) -> list[int]:
    """The choice picked for each question, by log-likelihood or by log-likelihood per character."""
    choices = []
    for sample in samples:
        scores = [float(answer[0]) for answer in sample["filtered_resps"]]
        if normalised:
            lengths = [max(1, len(text.removeprefix(" "))) for _, text in sample["arguments"]]
            scores = [score / length for score, length in zip(scores, lengths, strict=True)]
        choices.append(max(range(len(scores)), key=scores.__getitem__))
    return choices


def peak_megabytes(method: str) -> float:
    """The peak memory of one run, in a process of its own."""
    printed = subprocess.check_output(
        [sys.executable, *sys.argv, "--peak", method], text=True, stderr=subprocess.DEVNULL
    )
    return float(printed.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    parser.add_argument("--num_fewshot", type=int, default=0)
    parser.add_argument("--sampler", choices=("default", "first_n"), default="default")
    parser.add_argument("--questions", type=int, help="default: 24, few-shot 12, first_n 24")
    parser.add_argument("--rounds", type=int, help="default: 3, few-shot 1")
    parser.add_argument("--batch_size", type=int, default=8, help="HFLM's")
    parser.add_argument("--peak", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape, shots = options.shape, options.num_fewshot
    default = (24 if options.sampler == "first_n" else 12) if shots else 24
    questions = options.questions or default
    rounds = options.rounds or (1 if shots else 3)
    transformers.logging.set_verbosity_error()

    # Before this process makes the model: a child's ru_maxrss starts at its parent's memory.
    peaks = {} if options.peak else {name: peak_megabytes(name) for name in METHODS}
    rows, source = raw_choice_rows()
    texts = {
        "question": [row["Problem"] for row in rows],
        "solution": [row["options"] for row in rows],
    }
    tokenizer = tokenizer_for(texts, vocab_size=SHAPES[shape]["vocab_size"])
    model = random_base(shape)
    with tempfile.TemporaryDirectory() as folder:
        config, manager = file_task(rows, folder, sampler=options.sampler)

        def run(method: str, count: int) -> dict[str, Any]:
            return score(
                method,
                model,
                tokenizer,
                options.batch_size,
                tasks=[dict(config)],
                num_fewshot=shots,
                limit=count,
                task_manager=manager,
            )

        if options.peak:
            import resource  # Unix alone has it

            # Enough questions to fill a pass: 4,096 tokens for ours, eight rows for HFLM.
            run(options.peak, max(questions, 12 if shots else 72) if options.peak == "ours" else 4)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return
        runs: list[dict[str, dict[str, Any]]] = []
        for method in METHODS:
            run(method, 2)  # warm up
        for turn in range(rounds):
            runs.append({method: run(method, questions) for method in METHODS[:: (-1) ** turn]})
            told = (f"{name} {runs[-1][name]['seconds']:.2f} s" for name in METHODS)
            print(f"round {turn}: {', '.join(told)}", flush=True)

    ours, hflm = runs[0]["ours"], runs[0]["hflm"]
    flops, hflm_flops = count_both(shape, ours, hflm)
    limit = hflm_flops / flops
    speedup = median(r["hflm"]["seconds"] / r["ours"]["seconds"] for r in runs)
    pairs = [
        (one[0], other[0])
        for a, b in zip(ours["samples"], hflm["samples"], strict=True)
        for one, other in zip(a["filtered_resps"], b["filtered_resps"], strict=True)
    ]
    result = {
        "speedup": round(speedup, 3),
        "max_abs_diff": max(abs(one - other) for one, other in pairs),
        "same_predictions": all(
            picked(ours["samples"], by_length) == picked(hflm["samples"], by_length)
            for by_length in (False, True)
        ),
        "flop_limit": round(limit, 3),
        "fraction_of_limit": round(speedup / limit, 3),
        "peak_rss_ratio": round(peaks["hflm"] / peaks["ours"], 3),
        "peak_rss_mb": {name: round(peak) for name, peak in peaks.items()},
        "seconds": {name: round(median(r[name]["seconds"] for r in runs), 3) for name in METHODS},
        "positions": {
            "ours": sum(batch["input_ids"].numel() for batch in ours["forests"]),
            "hflm": sum(rows.numel() for rows in hflm["shapes"]),
        },
        "questions": questions,
        "num_fewshot": shots,
        "sampler": options.sampler,
        "hflm_batch_size": options.batch_size,
        "rounds": rounds,
        "shape": shape,
        "source": source,
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, lm_eval)},
    }
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:18} {value}")


if __name__ == "__main__":
    main()
