"""Attempts that a server writes: learned from if it has our weights, refused if not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from model_server import serving

from mathsft import DrGRPO, Server, load_model, load_problems, rollout_trainer

ROWS = load_problems("tiny-gsm", limit=4)


def even_length(completions: list[str], **columns: Any) -> list[float]:
    return [float(len(text) % 2) for text in completions]


def trained(folder: Path, address: str, name: str, model: Any, tokenizer: Any) -> Any:
    made = rollout_trainer(
        model, tokenizer, ROWS, DrGRPO(), even_length, sampler=Server(address, name),
        output_dir=folder, num_generations=4, max_new_tokens=12, max_steps=1, disable_tqdm=True,
        per_device_train_batch_size=2, learning_rate=1e-3,
    )  # fmt: skip
    made.train()
    return made


def test_a_server_with_our_weights_writes_the_attempts(tmp_path: Path) -> None:
    model, tokenizer = load_model("tiny", lora={"r": 4}, device="cpu")
    with serving(*load_model("tiny", device="cpu")) as server:
        made = trained(tmp_path, server.url, "tiny", model, tokenizer)
    assert made.state.log_history[0]["sampling/logp_difference"] < 1e-4
    assert made.state.log_history[0]["grad_norm"] > 0
    with serving(*load_model("tiny", device="cpu")) as server:
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        with pytest.raises(ValueError, match="not samples of this model"):
            trained(tmp_path, server.url, "tiny", model, tokenizer)
