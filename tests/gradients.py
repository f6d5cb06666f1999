"""A small model with LoRA in which every part learns, and a comparison of gradients."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from mathsft.models.adapters import add_adapter


def adapted(folder: Path, *, dropout: float = 0.0, b_scale: float = 0.02, **kwargs):
    """The small model with LoRA on the seven projections; B is not zero, so every part learns."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, **kwargs)
    model = add_adapter(model, r=4, lora_alpha=8, lora_dropout=dropout)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=b_scale)
    return model


def adapter(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def assert_same_gradients(one, other, tolerance: float = 1e-5):
    for name in one:
        scale = one[name].abs().max()
        assert scale > 0, name
        assert (one[name] - other[name]).abs().max() <= tolerance * scale, name
