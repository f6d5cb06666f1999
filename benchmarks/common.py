"""What the benchmarks share: real rows, a tokenizer, and a model of a named shape."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from mathsft.data.problems import load_problems
from mathsft.models.adapters import add_adapter
from mathsft.models.tiny.tokenizer import train_tokenizer

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
    """GSM8K's train rows from MATHSFT_DATA_DIR if that is set, else the tiny source; and which."""
    folder = os.environ.get("MATHSFT_DATA_DIR")
    if folder:
        return load_problems(str(Path(folder) / "gsm8k" / "train.jsonl")), "gsm8k"
    return load_problems("tiny-gsm", split="train"), "tiny-gsm"


def tokenizer_for(problems: Any, *, vocab_size: int) -> Any:
    """A byte-level BPE learnt from the problems themselves, splitting text as Qwen2.5 does."""
    texts = [*problems["question"], *problems["solution"]]
    return train_tokenizer(texts, vocab_size=min(vocab_size, 8000))


def random_model(shape: str) -> Any:
    """Random float32 weights of a shape, tied embeddings, the course's LoRA on top."""
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[shape], tie_word_embeddings=True, max_position_embeddings=2048)
    return add_adapter(Qwen2ForCausalLM(config))
