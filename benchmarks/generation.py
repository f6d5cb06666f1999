"""Greedy answers on a CPU, tokens per second: ours against transformers' ``generate``.

    python benchmarks/generation.py --json [--shape tiny|qwen2.5-0.5b] [--problems N]
        [--batch_size N] [--max_new_tokens N] [--rounds N] [--kinds full lora qlora]

A GPU is hidden: the times are those of a CPU. The rival is `model.generate`, greedy, on prompts
sorted by length and padded on the left, batch by batch. It runs with our batch size and, as
`generate_64`, with 64 prompts, the default of the first version. All get the same token ids and
stop tokens, in turns; seconds are the process's CPU time, so others on the machine matter less, and
ratios are medians over the rounds. Tokenisation and decoding are timed in ours only.

At the tiny shape the model is the embedded one, and its answers end by themselves. At the other the
weights are random (`common.random_base`), so hardly any answer ends: all have `--max_new_tokens`,
and no place becomes free. (`qlora`: a 4-bit base; tiny only.)

Keys of the result, besides those that say what was run; each for each kind:

- `speedup`, `speedup_64`: the rival's seconds divided by ours.
- `tokens_per_s`: tokens of the answers, stop tokens included, by CPU second.
- `same_answers`: the share of answers with the same tokens as the rival's, the smallest of all.
- `passes`: rows of a token that passed after the prompts, divided by the tokens needed. 1 is the
  least; what is above it is spent on answers that have ended.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from common import SHAPES, grade_school_problems, random_base, tokenizer_for
from peft import PeftModel

from mathsft.data.problems import load_problems
from mathsft.data.prompts import sft_prompt
from mathsft.generation.generate import generate
from mathsft.models.adapters import add_adapter
from mathsft.models.decoding import padded
from mathsft.models.encoding import encode_prompts, stop_tokens
from mathsft.models.greedy import own_generation
from mathsft.models.loading import load_model

KINDS = ("full", "lora", "qlora")
Written = list[list[int]]


def with_adapter(model: Any) -> PeftModel:
    """An adapter whose B is not zero, or merging would be tested on nothing."""
    model = add_adapter(model)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def loaded(shape: str, kind: str) -> tuple[Any, Any, list[list[int]]]:
    """A model, its tokenizer, and prompts."""
    if shape == "tiny":
        model, tokenizer = load_model("tiny", quantize=kind == "qlora", device="cpu")
        problems = load_problems("tiny-gsm", split="test")
    else:
        if kind == "qlora":
            raise SystemExit("qlora: random weights are not quantised; use --shape tiny")
        model = random_base(shape).eval()
        problems, _ = grade_school_problems()
        tokenizer = tokenizer_for(problems, vocab_size=SHAPES[shape]["vocab_size"])
    prompts = encode_prompts(tokenizer, [sft_prompt(text) for text in problems["question"]])
    return model if kind == "full" else with_adapter(model), tokenizer, prompts


def by_transformers(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], *, batch_size: int, steps: int
) -> Written:
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    stops = set(stop_tokens(model, tokenizer))
    found: dict[int, list[int]] = {}
    inner = getattr(model, "get_base_model", lambda: model)()
    with torch.no_grad(), own_generation(model, tokenizer) as config:
        config.update(max_new_tokens=steps)
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            ids, seen = padded([prompts[row] for row in rows], fill=0, device="cpu")
            out = inner.generate(input_ids=ids, attention_mask=seen, generation_config=config)
            for row, answer in zip(rows, out[:, ids.shape[1] :].tolist(), strict=True):
                end = next((n for n, token in enumerate(answer, 1) if token in stops), steps)
                found[row] = answer[:end]
    return [found[row] for row in range(len(prompts))]


def ours(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], *, batch_size: int, steps: int
) -> Written:
    groups = generate(model, tokenizer, prompts, max_new_tokens=steps, batch_size=batch_size)
    return [answer.input_ids for (answer,) in groups]


def share_of_needed(model: Any, work: Callable[[], Written]) -> float:
    """Rows of single tokens that pass the model, divided by those that must."""
    rows = 0

    def count(module: Any, given: Any, out: torch.Tensor) -> None:
        nonlocal rows
        rows += out.shape[0] if out.shape[1] == 1 else 0

    hook = model.get_input_embeddings().register_forward_hook(count)
    answers = work()
    hook.remove()
    return rows / sum(len(answer) - 1 for answer in answers)


def measured(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    model, tokenizer, prompts = loaded(options.shape, kind)
    prompts = prompts[: options.problems]
    size, steps = options.batch_size, options.max_new_tokens

    def way(function: Callable[..., Written], batch_size: int) -> Callable[[], Written]:
        return lambda: function(model, tokenizer, prompts, batch_size=batch_size, steps=steps)

    ways = {"ours": way(ours, size), "generate": way(by_transformers, size)}
    ways["generate_64"] = way(by_transformers, 64)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    same = []
    by_transformers(model, tokenizer, prompts[:2], batch_size=2, steps=2)  # to warm up
    for number in range(options.rounds):
        answers = {}
        for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
            start = time.process_time()
            answers[name] = ways[name]()
            seconds[name].append(time.process_time() - start)
            print(f"{kind} {number}: {name:12} {seconds[name][-1]:8.2f} s", flush=True)
        for rival in ("generate", "generate_64"):
            pairs = zip(answers["ours"], answers[rival], strict=True)
            same.append(sum(one == other for one, other in pairs) / len(prompts))
    tokens = sum(map(len, answers["ours"]))
    return {
        **{
            f"speedup{name.removeprefix('generate')}": round(
                median(a / b for a, b in zip(seconds[name], seconds["ours"], strict=True)), 3
            )
            for name in ("generate", "generate_64")
        },
        "tokens_per_s": {name: round(tokens / median(took), 1) for name, took in seconds.items()},
        "same_answers": min(same),
        "passes": round(share_of_needed(model, ways["ours"]), 3),
        "tokens": tokens,
        "longest": max(map(len, answers["ours"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=None)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    kinds = options.kinds or (KINDS if options.shape == "tiny" else KINDS[:2])
    found = {kind: measured(kind, options) for kind in kinds}
    result: dict[str, Any] = {
        **{key: {kind: one[key] for kind, one in found.items()} for key in found[kinds[0]]},
        "shape": options.shape,
        "problems": options.problems,
        "batch_size": options.batch_size,
        "max_new_tokens": options.max_new_tokens,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers)},
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
