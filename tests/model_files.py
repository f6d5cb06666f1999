"""What the tests of models and adapters do to their files."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mathsft.models.adapters import add_adapter

Change = Callable[[dict[str, torch.Tensor]], object]


def rewrite(path: Path, change: Change) -> None:
    """Read the tensors of a safetensors file, let ``change`` alter the dict, and write it back."""
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def hub_cache(monkeypatch: pytest.MonkeyPatch, cache: Path, name: str, source: Path) -> None:
    """Lay `source` down as the hub's client keeps a repository that it has downloaded."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = cache / ("models--" + name.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(source, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


def trained(model: Any, *, scale: float = 0.05, **settings: Any) -> Any:
    """The model with an adapter as training leaves it: lora_B no longer zero."""
    model = add_adapter(model, **settings)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model
