"""Attention of one layer by the length of a row: the mask of all pairs, empty blocks left out.

    python benchmarks/attention.py --json [--lengths 512 1024 ...] [--rounds N]

If there is a GPU, it is hidden: the seconds are those of a CPU (`gpu.py` measures a GPU's). The
shape is that of Qwen2.5-0.5B: 14 heads of 64. Rows are made of real problems, in three kinds:

- `packed`: worked solutions side by side;
- `choices`: questions with all their choices, which share the question;
- `few_shot`: such questions after worked examples that all of them share (half of the row).

For each kind and length (`by_length`), of one row:

- `seen_pairs`: pairs of tokens that see each other, as a share of all pairs;
- `flex_work`: pairs in the 128 × 128 blocks that FlexAttention computes, as a share of all pairs;
- `block_work`: pairs that `mathsft.models.blockwise` computes, as a share of all pairs;
- `gflop_*`: of one layer, forward and backward: 7 products of pairs × 64 for each head, 2 of them
  forward and one computed again, as in flash attention; blockwise attention computes 9;
- `mask_mb_a_layer`: what one layer keeps of a bool mask for the backward pass in bfloat16.
  (`attention_inputs` makes it once for all layers up to 2,048 tokens, and not at all above.)
- `seconds_*`: forward and backward of one layer in float32; `speedup`: their ratio.

`crossing` is the first of the lengths from which on blockwise attention does fewer operations than
the mask (`gflop`), and takes less time on this CPU (`seconds`).
"""

import argparse
import json
import os
import time
from statistics import median
from typing import Any

if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from common import grade_school_problems, multiple_choice_problems, tokenizer_for
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mathsft.models.attention import forest_mask, forest_rule
from mathsft.models.blockwise import ForestMask, ForestRows
from mathsft.models.forest import IGNORE, TokenForest
from mathsft.models.likelihood import encode_choices
from mathsft.objectives.sft import tokenize_problems

HEADS, HEAD = 14, 64
KINDS = ("packed", "choices", "few_shot")
LENGTHS = (512, 1024, 2048, 4096, 8000)
FLEX_BLOCK = 128


def rows_of(kind: str, lengths: Any) -> dict[int, dict[str, Tensor]]:
    """For each length a row of about as many tokens, padded to it; none if nothing fits."""
    problems, _ = grade_school_problems()
    problems = problems.shuffle(seed=0).select(range(min(500, len(problems))))
    tokenizer = tokenizer_for(problems, vocab_size=8000)
    documents, _ = tokenize_problems(problems, tokenizer, max_length=512)
    groups: list[Any] = [[document] for document in documents]
    if kind != "packed":
        asked, _ = multiple_choice_problems()
        asked = asked.shuffle(seed=0).select(range(min(300, len(asked))))
        groups = encode_choices(tokenizer, list(asked))
    made = {}
    for length in lengths:
        examples: list[int] = []
        while kind == "few_shot" and len(examples) < length // 2:
            examples += documents[len(examples) % 97]["input_ids"]
        found: list[Any] = []
        for group in groups * 10:
            before = len(found)
            found += [
                {
                    "input_ids": examples + sequence["input_ids"],
                    "labels": [IGNORE] * len(examples) + sequence["labels"],
                }
                for sequence in group
            ]
            forest = TokenForest(found, share=kind != "packed")
            if forest.tokens > length:
                del found[before:]
                break
        if not found:
            continue
        batch = TokenForest(found, share=kind != "packed").tensors(pad_token_id=0)
        empty = length - batch["end"].shape[1]
        ends = torch.arange(length - empty + 1, length + 1)[None]
        made[length] = {
            "end": torch.cat([batch["end"], ends], 1),
            "depth": torch.cat([batch["position_ids"], torch.zeros_like(ends)], 1),
        }
    return made


def blockwise_mask(row: dict[str, Tensor]) -> ForestMask:
    """The mask of `mathsft.models.blockwise` for a row."""
    end, depth = row["end"], row["depth"]
    return ForestMask.of(ForestRows(end, depth, None, forest_rule(end, depth)))


def work(row: dict[str, Tensor]) -> dict[str, float]:
    """What is computed, counted; see the module's text."""
    seen = forest_mask(row["end"])[0, 0]
    length = len(seen)
    tiles = torch.nn.functional.pad(seen, (0, -length % FLEX_BLOCK) * 2)
    tiles = tiles.unflatten(1, (-1, FLEX_BLOCK)).unflatten(0, (-1, FLEX_BLOCK))
    flex = int(tiles.any(3).any(1).sum()) * FLEX_BLOCK**2
    blocks = 0
    for block in blockwise_mask(row).forest.blocks:
        keys = torch.arange(length)[block.keys]
        blocks += (block.stop - block.start) * len(keys)
    product = 2 * HEADS * HEAD / 1e9
    return {
        "seen_pairs": round(int(seen.sum()) / length**2, 4),
        "flex_work": round(min(1.0, flex / length**2), 4),
        "block_work": round(blocks / length**2, 4),
        "gflop_dense": round(7 * product * length**2, 2),
        "gflop_flex": round(7 * product * flex, 2),
        "gflop_blocks": round(9 * product * blocks, 2),
        "mask_mb_a_layer": round(length**2 * 2 / 1e6, 1),
    }


def step(inputs: list[Tensor], mask: Any) -> None:
    """Attention forward and backward."""
    taken = [x.detach().requires_grad_() for x in inputs]
    output = scaled_dot_product_attention(*taken, attn_mask=mask)
    torch.autograd.grad(output.sum(), taken)


def cpu_seconds(row: dict[str, Tensor], rounds: int) -> dict[str, float]:
    """The processor's seconds for both ways, taking turns."""
    generator = torch.Generator().manual_seed(0)
    length = row["end"].shape[1]
    inputs = [torch.randn(1, HEADS, length, HEAD, generator=generator) for _ in range(3)]
    took: dict[str, list[float]] = {"dense": [], "blocks": []}
    for _ in range(rounds):
        for name, mask in (("dense", forest_mask(row["end"])), ("blocks", blockwise_mask(row))):
            began = time.process_time()
            step(inputs, mask)
            took[name].append(time.process_time() - began)
    ratios = [a / b for a, b in zip(took["dense"], took["blocks"], strict=True)]
    found = {f"seconds_{name}": round(median(seconds), 4) for name, seconds in took.items()}
    return {**found, "speedup": round(median(ratios), 3)}


def crossing(by_length: dict[int, dict[str, float]], better: Any) -> int | None:
    """The first length from which on ``better`` holds for all."""
    found = None
    for length in reversed(by_length):
        if not better(by_length[length]):
            break
        found = length
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--shape", help="has no effect: one layer of Qwen2.5-0.5B's attention")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    result: dict[str, Any] = {"by_length": {}, "crossing": {}}
    for kind in KINDS:
        found = {}
        for length, row in rows_of(kind, sorted(options.lengths)).items():
            found[length] = {**work(row), **cpu_seconds(row, options.rounds)}
            print(f"{kind:9} {length:6} tokens: {found[length]}", flush=True)
        result["by_length"][kind] = found
        result["crossing"][kind] = {
            "gflop": crossing(found, lambda one: one["gflop_blocks"] < one["gflop_dense"]),
            "seconds": crossing(found, lambda one: one["speedup"] > 1),
        }
    result["threads"] = torch.get_num_threads()
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
