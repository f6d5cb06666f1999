"""What the benchmarks share: real rows, a tokenizer, a model of a named shape, a FLOP count."""

import os
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from mathsft.data.local_files import read_rows
from mathsft.data.problems import load_problems
from mathsft.data.synthetic.multiple_choice import tiny_mathqa_rows
from mathsft.models.adapters import add_adapter
from mathsft.models.tiny.corpus import train_tokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 4096,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "qwen2.5-0.5b": {  # the published config.json of Qwen/Qwen2.5-0.5B
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
}


def grade_school_problems() -> tuple[Any, str]:
    """GSM8K's train rows if MATHSFT_DATA_DIR is set, else the tiny source; and its name."""
    folder = os.environ.get("MATHSFT_DATA_DIR")
    if folder:
        return load_problems(str(Path(folder) / "gsm8k" / "train.jsonl")), "gsm8k"
    return load_problems("tiny-gsm", split="train"), "tiny-gsm"


def multiple_choice_problems() -> tuple[Any, str]:
    """MathQA's dev rows if MATHSFT_DATA_DIR is set, else the tiny source; and its name."""
    folder = os.environ.get("MATHSFT_DATA_DIR")
    if folder:
        return load_problems(str(Path(folder) / "mathqa" / "dev.json")), "mathqa"
    return load_problems("tiny-mathqa", split="train"), "tiny-mathqa"


def raw_choice_rows() -> tuple[list[dict[str, Any]], str]:
    """The rows of `multiple_choice_problems` in MathQA's published schema, shuffled."""
    folder = os.environ.get("MATHSFT_DATA_DIR")
    if folder:
        rows = [row for _, row in read_rows(Path(folder) / "mathqa" / "dev.json")]
    else:
        rows = [*tiny_mathqa_rows("train")]
    random.Random(0).shuffle(rows)
    return rows, "mathqa" if folder else "tiny-mathqa"


def more_choices(problem: Mapping[str, Any], *, count: int) -> dict[str, Any]:
    """The question with ``count`` different choices; the right one has label 0.

    The right choice comes first, then the other real ones, then copies of real ones with other
    digits: as long as the original, or one digit longer if that text is already a choice.
    """
    draw = random.Random(problem["question"])
    right, label = problem["choices"][problem["label"]], problem["label"]
    real = [right, *problem["choices"][:label], *problem["choices"][label + 1 :]]
    choices = dict.fromkeys(real[:count])
    while len(choices) < count:
        made = re.sub(r"\d", lambda _: str(draw.randrange(10)), draw.choice(real))
        if made in choices:
            made = re.sub(r"\d", lambda digit: digit[0] + str(draw.randrange(10)), made, count=1)
        choices[made] = None
    return {"question": problem["question"], "choices": [*choices], "label": 0}


def tokenizer_for(problems: Any, *, vocab_size: int) -> Any:
    """A byte-level BPE learnt from the problems themselves; it splits text as Qwen2.5 does."""
    texts = [*problems["question"], *problems["solution"]]
    return train_tokenizer(texts, vocab_size=min(vocab_size, 8000))


def random_base(shape: str) -> Any:
    """A model of this shape with random float32 weights and tied embeddings."""
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[shape], tie_word_embeddings=True, max_position_embeddings=2048)
    return Qwen2ForCausalLM(config)


def random_model(shape: str, *, lora_dropout: float = 0.05) -> Any:
    """`random_base` with the course's LoRA on top."""
    return add_adapter(random_base(shape), lora_dropout=lora_dropout)


def largest_difference(
    gradients: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]
) -> float:
    """The largest max |one - other| / max |other| of all parameters; NaN if any of them is NaN."""
    parts = [
        (gradients[name] - other).abs().max() / other.abs().max() for name, other in others.items()
    ]
    return float(torch.stack(parts).max())


def counted_flops(step: Callable[..., Any], model: Any, *arguments: Any) -> int:
    """Floating-point operations of the matrix products in ``step(model, *arguments)``.

    ``model`` is on the meta device, whose tensors have shapes but no numbers, so counting takes
    no longer for a large model. There, attention is split into its matrix products, which the
    counter sees; it does not know the CPU's fused attention. An attention product counts in
    full, masked or not. A product of (m, k) with (k, n) counts 2mkn; sums and softmaxes count 0.
    """
    with FlopCounterMode(display=False) as counter:
        step(model, *arguments)
    return int(counter.get_total_flops())
