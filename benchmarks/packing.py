"""Training speed on packed rows on a CPU: ours compared with TRL's padded and packed batches.

    python benchmarks/packing.py --json [--shape tiny|qwen2.5-0.5b] [--documents N]

If there is a GPU, it is hidden and stays idle: the times are those of a CPU.

All three train the same model (random weights, LoRA) on the same documents in one run.
They take turns, so a busy machine slows all of them. Timed: whole optimiser steps,
from `on_step_begin` to `on_step_end` (forward, backward, clipping, update). Counted:
tokens of the documents, without padding. The ratios are medians over the rounds.

The rivals are TRL's SFTTrainer set up as its documentation advises, without gradient
checkpointing (memory is not short here), with the loss on completions only:
- padded: prompt/completion rows, 8 documents a batch (SFTConfig's default), drawn at
  random (one document a batch would need no padding, but a pass for each document);
- packed: `packing_strategy="bfd"`, one row a batch with accumulation, because its
  collator joins a batch into a single row, and the mask costs the square of its length.
Ours also uses one row a batch with accumulation, so packed rows are compared with
packed rows.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
import trl
from common import SHAPES, grade_school_problems, random_model, tokenizer_for
from datasets import disable_progress_bars
from packing_rivals import MAX_LENGTH, QUIET, trl_trainer
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from mathsft.models.attention import attention_inputs
from mathsft.models.forest import TokenForest, pack
from mathsft.objectives.sft import tokenize_problems
from mathsft.training.make import sft_trainer

ROWS_PER_STEP = 4  # ours and TRL packed; TRL padded takes about as many documents


class StepTimer(TrainerCallback):
    """Seconds inside optimiser steps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds += time.perf_counter() - self.started


def ours(model: Any, tokenizer: Any, problems: Any, folder: str) -> SFTTrainer:
    return sft_trainer(
        model,
        tokenizer,
        problems,
        output_dir=folder,
        max_length=MAX_LENGTH,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=ROWS_PER_STEP,
        **QUIET,
    )


def trl_padded(*arguments: Any) -> SFTTrainer:
    return trl_trainer(*arguments, per_device_train_batch_size=8)


def trl_packed(*arguments: Any) -> SFTTrainer:
    return trl_trainer(
        *arguments,
        packing=True,
        packing_strategy="bfd",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=ROWS_PER_STEP,
    )


def seconds_to_train(make: Any, model: Any, tokenizer: Any, problems: Any, tokens: int) -> float:
    """Seconds of one pass over the problems; the trainer's rows must have exactly ``tokens``."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(model, tokenizer, problems, folder)
        held = sum(_tokens(row) for row in trainer.train_dataset["input_ids"])
        if held != tokens:
            raise RuntimeError(f"{make.__name__} trains {held} tokens, but the rows have {tokens}")
        timer = StepTimer()
        trainer.add_callback(timer)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return timer.seconds


def _tokens(row: list[Any]) -> int:
    """The tokens of a row: TRL's is a list of tokens, ours a list of documents' tokens."""
    return sum(len(part) if isinstance(part, list) else 1 for part in row)


def packed_rows(documents: list[dict[str, list[int]]]) -> tuple[list[list[int]], float]:
    """Which documents share a row, and the share of all rows that is not padding."""
    lengths = [len(document["input_ids"]) - 1 for document in documents]  # the last: only predicted
    rows = pack(lengths, max_length=MAX_LENGTH)
    return rows, sum(lengths) / (MAX_LENGTH * len(rows))


def max_logit_difference(model: Any, documents: list[dict[str, list[int]]]) -> float:
    """The largest difference between a packed row's logits and those of its documents alone."""
    model.eval()
    rows, _ = packed_rows(documents)
    together = [documents[index] for index in max(rows, key=len)]
    batch = TokenForest(together, share=False).tensors(pad_token_id=0)
    differences, start = [], 0
    with torch.no_grad():
        packed = model(**attention_inputs(model, batch)).logits[0]
        for document in together:
            ids = torch.tensor([document["input_ids"][:-1]])  # the last token is only predicted
            alone = model(input_ids=ids).logits[0]
            here = packed[start : start + ids.shape[1]]
            differences.append((here - alone).abs().max())
            start += ids.shape[1]
    return float(torch.stack(differences).max())  # NaN if any is NaN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    parser.add_argument("--documents", type=int, help="in a round (default: 12; tiny: 200)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    count = options.documents or (200 if options.shape == "tiny" else 12)
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    disable_progress_bars()

    problems, source = grade_school_problems()
    tokenizer = tokenizer_for(problems, vocab_size=SHAPES[options.shape]["vocab_size"])
    documents, _ = tokenize_problems(problems, tokenizer, max_length=MAX_LENGTH)
    lengths = [len(document["input_ids"]) for document in documents]
    model = random_model(options.shape)
    result: dict[str, Any] = {
        "fill": round(packed_rows(documents)[1], 4),
        "max_logit_diff": max_logit_difference(model, documents[:200]),
    }

    shuffled = problems.shuffle(seed=0)
    methods = [ours, trl_padded, trl_packed]
    warm_up = shuffled.select(range(1))
    speeds: dict[str, list[float]] = {method.__name__: [] for method in methods}
    for turn in range(-1, options.rounds):
        part = warm_up if turn < 0 else shuffled.select(range(turn * count, (turn + 1) * count))
        kept, _ = tokenize_problems(part, tokenizer, max_length=MAX_LENGTH)
        tokens = sum(len(document["input_ids"]) for document in kept)
        for method in methods[turn % 3 :] + methods[: turn % 3]:
            seconds = seconds_to_train(method, model, tokenizer, part, tokens)
            if turn >= 0:
                speeds[method.__name__].append(tokens / seconds)
                print(
                    f"round {turn}: {method.__name__:10} {tokens / seconds:8.1f} tokens/s",
                    flush=True,
                )

    def ratio(rival: str) -> float:
        pairs = zip(speeds["ours"], speeds[rival], strict=True)
        return round(statistics.median(one / other for one, other in pairs), 3)

    result |= {
        "useful_tokens_per_s": round(statistics.median(speeds["ours"]), 1),
        "trl_padded_tokens_per_s": round(statistics.median(speeds["trl_padded"]), 1),
        "trl_packed_tokens_per_s": round(statistics.median(speeds["trl_packed"]), 1),
        "ratio_vs_trl_padded": ratio("trl_padded"),
        "ratio_vs_trl_packed": ratio("trl_packed"),
        "shape": options.shape,
        "rows": f"{source}, {options.rounds} rounds of {count} documents",
        "mean_document_tokens": round(statistics.mean(lengths), 1),
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, trl)},
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
