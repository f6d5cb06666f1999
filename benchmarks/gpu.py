"""On one card: ours against TRL, the harness's own model, a padded batch, and unsloth.

    python benchmarks/gpu.py --json [--sections sft choices ...] [--seconds 360]

Random weights at the shape of Qwen2.5-0.5B; GSM8K's and MathQA's rows if MATHSFT_DATA_DIR is set,
else the embedded generators'. Without a GPU it runs on the CPU; `--shape tiny` is for that.

Each line is printed as soon as it is known. A section that fails prints its error, and the next one
runs. After ``--seconds``, no further section is begun, and a line says which are missing. The last
line is one JSON object: for each section its measures, or its error.

- ``*_per_s``: whole steps, with their batches laid out; after three steps, or after a first run.
- ``share_of_matrix_rate``: operations of the layers' products, with padding, by the rate of one
  large product that `matmul` measures on the same card. Attention, head and adapters do not count.
- ``step_ms``: a step; ``host_ms``: until the host has launched it. If both are equal, the card
  waits for the host.
- ``peak_gb``: the most memory that tensors took.
"""

import argparse
import json
import logging
import os
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gpu_inference
import gpu_training
import torch
import transformers
from common import SHAPES
from datasets import disable_progress_bars
from gpu_bench import Bench, Measures

Section = Callable[[Bench], Measures]
# The most important first: time may run out.
SECTIONS: dict[str, Section] = {
    "matmul": gpu_inference.matmul,
    "sft": gpu_training.sft,
    "choices": gpu_training.choices,
    "scoring": gpu_inference.scoring,
    "generation": gpu_inference.generation,
    "compile": gpu_training.compiled,
    "attention": gpu_inference.attention,
    "unsloth": gpu_training.unsloth,
}
# On an H100 at the shape of Qwen2.5-0.5B, the best of each section; and what was measured first.
AIMS: dict[str, tuple[str, float, float]] = {
    "sft": ("tokens_per_s", 100_000, 44_800),
    "choices": ("questions_per_s", 800, 264),
    "scoring": ("zero_shot_ours_questions_per_s", 3_000, 1_205),
    "generation": ("tokens_per_s", 5_000, 791),
}


def run(name: str, bench: Bench) -> dict[str, Any]:
    """All measures of a section, each printed at once; ``error`` if it failed."""
    found: dict[str, Any] = {}
    began = time.perf_counter()
    try:
        for key, value in SECTIONS[name](bench):
            found[key] = value
            print(f"{name:10} {key:44} {value}", flush=True)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"{name:10} failed: {traceback.format_exc(limit=-4)}", flush=True)
    bench.clear()
    found["seconds"] = round(time.perf_counter() - began, 1)
    if name in AIMS:
        ending, aim, before = AIMS[name]
        ours = [v for k, v in found.items() if k.endswith(ending) and "ours" in k]
        best = max(ours, default=None)
        print(f"{name:10} best {best}; aim on an H100 {aim:,}, before {before:,}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=[*SECTIONS])
    parser.add_argument("--seconds", type=float, default=360, help="begin no section after these")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    disable_progress_bars()
    cuda = torch.cuda.is_available()
    bench = Bench(options.shape, torch.device("cuda:0" if cuda else "cpu"))
    card = torch.cuda.get_device_name() if cuda else "cpu"
    print(f"{card}, {options.shape}, {bench.dtype}", flush=True)
    began = time.perf_counter()
    result: dict[str, Any] = {"card": card, "shape": options.shape, "dtype": str(bench.dtype)}
    for name in options.sections:
        left = options.seconds - (time.perf_counter() - began)
        if left <= 0:
            result[name] = {"skipped": f"{options.seconds:g} seconds were over"}
            print(f"{name:10} skipped: {options.seconds:g} seconds were over", flush=True)
            continue
        result[name] = run(name, bench)
    result["seconds"] = round(time.perf_counter() - began, 1)
    result["versions"] = {m.__name__: m.__version__ for m in (torch, transformers)}
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
