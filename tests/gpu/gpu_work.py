"""The models, trainers and measurements of the GPU tests."""

import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from model_files import qwen_config
from transformers import Qwen2ForCausalLM

from mathsft.data.problems import read_problems
from mathsft.models.loading import load_model
from mathsft.objectives.preference import DPO
from mathsft.training.make import make_trainer, multiple_choice_trainer, sft_trainer

# The precision of a T4 (can be forced on a newer card), and that of Ampere and later.
POLICIES: dict[str, dict[str, Any]] = {
    "T4": {"dtype": "float16", "fp16": True, "bf16": False},
    "A100": {"dtype": "bfloat16", "fp16": False, "bf16": True},
}
# The course's four training runs: worked solutions and choices, with and without 4-bit weights.
PATHS = [(objective, quantize) for objective in ("sft", "choices") for quantize in (True, False)]


def save_qwen(folder: Path, layers: int = 24) -> Path:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(qwen_config(layers))
    model.to(torch.bfloat16).save_pretrained(folder)
    load_model("tiny", device="cpu")[1].save_pretrained(folder)
    return folder


def load(qwen: Path, policy: str, **options: Any) -> Any:
    return load_model(qwen, dtype=POLICIES[policy]["dtype"], **options)


def trainer(
    qwen: Path, folder: Path, *, objective: str, quantize: bool, policy: str, **settings: Any
) -> Any:
    """Make a trainer with the sizes of the t4 recipe; batches are made in this process."""
    model, tokenizer = load(qwen, policy, quantize=quantize, lora=True)
    precision = {key: POLICIES[policy][key] for key in ("fp16", "bf16")}
    if model.device.type == "cpu":  # to try this file without a GPU
        precision = {}
    options: dict[str, Any] = {
        "output_dir": folder, "max_length": 512, "max_steps": 6, "logging_steps": 1,
        "disable_tqdm": True, "warmup_steps": 0, "dataloader_num_workers": 0, **precision,
        **settings,
    }  # fmt: skip
    if objective == "sft":
        rows = read_problems("tiny-gsm", limit=600)[0]
        return sft_trainer(
            model, tokenizer, rows, per_device_train_batch_size=4,
            gradient_accumulation_steps=4, **options,
        )  # fmt: skip
    if objective == "dpo":
        rows = read_problems("tiny-gsm", limit=600)[0]
        pairs = {
            "prompt": [f"Question: {q}\nAnswer:" for q in rows["question"]],
            "chosen": [f" {text}" for text in rows["solution"]],
            "rejected": [f" {text}" for text in [*rows["solution"][1:], "I do not know."]],
        }
        return make_trainer(
            model, tokenizer, Dataset.from_dict(pairs), DPO(), per_device_train_batch_size=8,
            gradient_accumulation_steps=2, **options,
        )  # fmt: skip
    rows = read_problems("tiny-mathqa", limit=600)[0]
    return multiple_choice_trainer(
        model, tokenizer, rows, per_device_train_batch_size=8, gradient_accumulation_steps=2,
        **options,
    )  # fmt: skip


def matrix_rate(dtype: str, device: str = "cuda", size: int = 8192, rounds: int = 20) -> float:
    """Measure floating-point operations per second of square products in ``dtype``."""
    a = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    b = a.clone()
    for _ in range(3):
        a @ b
    _wait(device)
    began = time.perf_counter()
    for _ in range(rounds):
        a @ b
    _wait(device)
    return rounds * 2 * size**3 / (time.perf_counter() - began)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def training_flops(model: Any, tokens: int, trained: int) -> float:
    """Operations of a forward and backward pass under LoRA: 4 per base weight and token.

    Two forward, and two for the gradient of the input; frozen weights need no gradient of
    their own. The head counts only for trained positions, with two products (`TokenLogprobs`).
    Attention and adapters (below 5 % at these lengths) are left out, so the share of
    the card's rate is understated by that much.
    """
    config = model.config
    head = config.vocab_size * config.hidden_size
    h, i = config.hidden_size, config.intermediate_size
    kv = config.num_key_value_heads * h // config.num_attention_heads
    layer = 2 * h * h + 2 * h * kv + 3 * h * i
    return 4.0 * tokens * config.num_hidden_layers * layer + 4.0 * trained * head
