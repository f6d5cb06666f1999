"""Helpers that make, load and change model files."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, Qwen2Config

from mathsft.models.adapters import add_adapter
from mathsft.models.loading import load_model

Change = Callable[[dict[str, torch.Tensor]], object]


def rewrite(path: Path, change: Change) -> None:
    """Read the tensors of a safetensors file, let ``change`` alter the dict, and write it back."""
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def hub_cache(monkeypatch: pytest.MonkeyPatch, cache: Path, name: str, source: Path) -> None:
    """Copy `source` to `cache`, in the layout that the hub's client gives a download."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = cache / ("models--" + name.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(source, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


def trained(model: Any, *, scale: float = 0.05, **settings: Any) -> Any:
    """Return the model with an adapter whose lora_B is not zero, as after training."""
    model = add_adapter(model, **settings)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def qwen_config(layers: int) -> Qwen2Config:
    """Return a config with the width, heads and vocabulary of Qwen2.5-0.5B (24 layers)."""
    return Qwen2Config(
        vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_hidden_layers=layers,
        num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
        max_position_embeddings=2048, eos_token_id=0,
    )  # fmt: skip


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Return the logits of one fixed sequence, in evaluation mode: (1, 28, V), float32."""
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(2, 30)[None]).logits.float()


def base(folder: Path, **options: object) -> PreTrainedModel:
    return load_model(folder, device="cpu", **options)[0]
