"""What a training run costs: floating-point operations by three prices, and rows to pay for.

A batch costs a price for each position that passes through the model, one for each pair of
positions in a row (attention), and one for each position that is projected onto the vocabulary.
PyTorch's counter gives the prices, on a forward and backward pass of the package's own loss on
the meta device. They are not derived from 6 N T: with LoRA frozen weights have no gradient
(4 N T), only trained tokens reach the head, and checkpointing passes every layer once more.
"""

import contextlib
import io
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from common import counted_flops, tokenizer_for
from transformers import Qwen2Config, Qwen2ForCausalLM

from mathsft.data.problems import load_problems
from mathsft.models import projection
from mathsft.models.adapters import add_adapter
from mathsft.models.loading import load_model
from mathsft.models.logprobs import sequence_logprobs
from mathsft.objectives.multiple_choice import MultipleChoice
from mathsft.objectives.sft import SFT
from mathsft.training import footprint as counting
from mathsft.training.batches import Collator
from mathsft.training.rows import training_rows

MATHQA_TRAIN, SAMPLE = 29_837, 1000  # its rows, and the dev rows that represent them
# The published config.json of Qwen/Qwen2.5-...: hidden, layers, heads, key-value heads,
# intermediate, vocabulary, tied embeddings. The last line is the embedded model.
_SIZES = {
    "0.5B": (896, 24, 14, 2, 4864, 151_936, True),
    "1.5B": (1536, 28, 12, 2, 8960, 151_936, True),
    "7B": (3584, 28, 28, 4, 18_944, 152_064, False),
    "32B": (5120, 64, 40, 8, 27_648, 152_064, False),
    "tiny": (192, 4, 3, 1, 512, 795, True),
}


SIZES = tuple(size for size in _SIZES if size != "tiny")


def config_of(size: str, *, layers: int | None = None) -> Qwen2Config:
    """The configuration of a size, "0.5B" to "32B", optionally with fewer layers."""
    hidden, depth, heads, key_value, intermediate, vocabulary, tied = _SIZES[size]
    return Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers or depth,
        num_attention_heads=heads,
        num_key_value_heads=key_value,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )


@contextlib.contextmanager
def published_shapes() -> Iterator[None]:
    """`estimate_memory` uses these sizes inside the block, and does not ask the hub."""
    real = counting.model_config

    def config(name: Any, revision: str | None = None) -> Any:
        size = str(name).removeprefix("Qwen/Qwen2.5-")
        return config_of(size) if size in SIZES else real(name, revision)

    with mock.patch.object(counting, "model_config", config):
        yield


@dataclass(frozen=True)
class Work:
    """One pass over a data set: what is read, and the counts that are priced."""

    rows: int
    batches: float
    tokens: int  # without padding
    positions: float  # with it
    pairs: float  # the sum of squared row lengths
    predictors: float

    def times(self, factor: float) -> "Work":
        """The work of ``factor`` times as many rows."""
        return Work(
            rows=round(self.rows * factor),
            batches=self.batches * factor,
            tokens=round(self.tokens * factor),
            positions=self.positions * factor,
            pairs=self.pairs * factor,
            predictors=self.predictors * factor,
        )


@dataclass(frozen=True)
class Prices:
    """Floating-point operations of a forward and backward pass."""

    position: float
    pair: float
    predictor: float

    def of(self, work: Work) -> float:
        """The operations of a pass over a data set."""
        return (
            self.position * work.positions
            + self.pair * work.pairs
            + self.predictor * work.predictors
        )


def backward(model: Any, batch: Mapping[str, torch.Tensor]) -> None:
    """Compute gradients; both objectives cost as much as their log-probabilities."""
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    sequence_logprobs(model, batch).sum.sum().backward()


def one_row(length: int, trained: int) -> dict[str, torch.Tensor]:
    """A batch of one document with ``length`` positions, ``trained`` of which predict a token."""
    labels = [-100] * (length + 1 - trained) + [1] * trained
    row = {"input_ids": [[1] * (length + 1)], "labels": [labels]}
    return Collator(SFT(), pad_token_id=0)([row])


@cache
def prices(size: str, *, lora: bool, checkpointing: bool) -> Prices:
    """Prices counted with 2 and 3 layers: each further layer costs as much as the third.

    With LoRA, the first layer costs less, because nothing below it is trained.
    """
    depth = config_of(size).num_hidden_layers
    two, three = (_counted(size, layers, lora, checkpointing) for layers in (2, 3))
    each = [few + (depth - 2) * (more - few) for few, more in zip(two, three, strict=True)]
    return Prices(*each)


def _counted(size: str, layers: int, lora: bool, checkpointing: bool) -> list[float]:
    with torch.device("meta"):
        model: Any = Qwen2ForCausalLM(config_of(size, layers=layers))
        model = (add_adapter(model) if lora else model).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    batches = [(64, 8), (128, 8), (64, 16)]
    # The end of a block of logits is computed from values, which the meta device does not have.
    with mock.patch.object(projection, "LOGITS_AT_ONCE", sys.maxsize):
        counts = [counted_flops(backward, model, one_row(*batch)) for batch in batches]
    paid = [[length, length**2, trained] for length, trained in batches]
    return torch.linalg.solve(
        torch.tensor(paid, dtype=torch.float64), torch.tensor(counts, dtype=torch.float64)
    ).tolist()


def encoded(problems: Any, tokenizer: Any, objective: Any, max_length: int) -> list[Any]:
    """The rows of a trainer, as a list; what is printed about them is left out."""
    with contextlib.redirect_stdout(io.StringIO()):
        return list(training_rows(problems, tokenizer, objective, max_length=max_length))


def solutions(problems: Any, tokenizer: Any, *, batch_size: int, max_length: int) -> Work:
    """One pass over worked problems, packed and batched as in `sft_trainer`."""
    return _solutions(encoded(problems, tokenizer, SFT(), max_length), len(problems), batch_size)


def _solutions(rows: Sequence[Any], count: int, batch_size: int) -> Work:
    lengths = [sum(len(ids) - 1 for ids in row["input_ids"]) for row in rows]
    batches = [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    labels = [labels[1:] for row in rows for labels in row["labels"]]
    return Work(
        rows=count,
        batches=len(batches),
        tokens=sum(lengths),
        positions=sum(len(batch) * max(batch) for batch in batches),
        pairs=sum(len(batch) * max(batch) ** 2 for batch in batches),
        predictors=sum(label != -100 for document in labels for label in document),
    )


def choices(problems: Any, tokenizer: Any, *, batch_size: int, max_length: int) -> Work:
    """One pass over multiple-choice problems, in the batches of `multiple_choice_trainer`."""
    kept = encoded(problems, tokenizer, MultipleChoice(), max_length)
    return _choices(kept, batch_size, max_length)


def _choices(kept: Sequence[Any], batch_size: int, max_length: int) -> Work:
    collate = Collator(MultipleChoice(), pad_token_id=0, max_length=max_length)
    batches = tokens = positions = pairs = predictors = 0
    for first in range(0, len(kept), batch_size):
        batch = collate(kept[first : first + batch_size])
        rows, length = batch["input_ids"].shape
        batches += 1
        tokens += int(batch["row_tokens"].sum())
        positions += rows * length
        pairs += rows * length**2
        predictors += len(batch["predictor"])
    return Work(
        rows=len(kept),
        batches=batches,
        tokens=tokens,
        positions=positions,
        pairs=pairs,
        predictors=predictors,
    )


@cache
def rows_of(source: str) -> tuple[Any, Any]:
    """Problems, and the tokenizer that counts tokens; MathQA's are a sample of its dev rows."""
    if source.startswith("tiny"):
        return load_problems(source, split="train"), load_model("tiny", device="cpu")[1]
    folder = Path(os.environ["MATHSFT_DATA_DIR"])
    if source == "gsm8k":
        problems = load_problems(folder / "gsm8k" / "train.jsonl")
    else:
        problems = load_problems(folder / "mathqa" / "dev.json", reading="clean")
    tokenizer = tokenizer_for(problems, vocab_size=8000)
    if source == "mathqa":
        problems = problems.select(random.Random(0).sample(range(len(problems)), SAMPLE))
    return problems, tokenizer


def one_pass(source: str, limit: int | None, batch_size: int, max_length: int) -> Work:
    """One pass over MathQA's questions and choices, or over another source's worked solutions."""
    there = len(rows_of(source)[0])
    wanted = limit or (MATHQA_TRAIN if source == "mathqa" else there)
    drawn = min(wanted, there)
    return _of_first(source, drawn, batch_size, max_length).times(wanted / drawn)


@cache
def _of_first(source: str, count: int, batch_size: int, max_length: int) -> Work:
    rows = _encoded_first(source, count, max_length)
    if "mathqa" in source:
        return _choices(rows, batch_size, max_length)
    return _solutions(rows, count, batch_size)


@cache
def _encoded_first(source: str, count: int, max_length: int) -> list[Any]:
    """The same for all batch sizes, because tokenizing takes longer than counting."""
    problems, tokenizer = rows_of(source)
    objective = MultipleChoice() if "mathqa" in source else SFT()
    return encoded(problems.select(range(count)), tokenizer, objective, max_length)
