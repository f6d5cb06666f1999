"""The sizes of a model, counted before anything of it is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from mathsft.models.computation import json_hash
from mathsft.models.lora import fit_to_model, linear_layers, lora_config
from mathsft.models.pretrained import model_config


@dataclass(frozen=True)
class Shapes:
    """What of a model the arithmetic needs: sizes, and numbers of parameters."""

    hidden: int
    intermediate: int
    query: int
    key: int
    heads: int
    layers: int
    vocabulary: int
    rank: int
    projected: int  # numbers in the matrices that NF4 quantises
    other: int  # all other parameters
    adapted: int  # numbers that are trained with an adapter

    @classmethod
    def of(
        cls,
        name: str | Path,
        revision: str | None = None,
        adapter: LoraConfig | None = None,
    ) -> "Shapes":
        """Counted on a model without memory, made from its config.json.

        ``adapter`` is put on it, and what is then trained is counted; default: that of
        `add_adapter`. Raises ValueError for a model whose configuration does not name its sizes
        as Llama's and Qwen's do.
        """
        config = model_config(name, revision).get_text_config()
        for key in ("hidden_size", "intermediate_size", "num_attention_heads"):
            if not hasattr(config, key):
                raise ValueError(f"{name}: its config.json has no {key}, so this cannot be counted")
        adapter = lora_config(adapter)
        projected, total, adapted = _numbers(config, adapter)
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            query=heads * size,
            # One head serves all as it is; several are copied for each query head.
            key=size if getattr(config, "num_key_value_heads", heads) == 1 else heads * size,
            heads=heads,
            layers=config.num_hidden_layers,
            vocabulary=config.vocab_size,
            rank=adapter.r,
            projected=projected,
            other=total - projected,
            adapted=adapted,
        )


_COUNTED: dict[str, tuple[int, int, int]] = {}  # peft takes a second for a large model


def _numbers(config: Any, adapter: LoraConfig) -> tuple[int, int, int]:
    """In the linear layers, in the whole model, and trained with the adapter."""
    from transformers import AutoModelForCausalLM

    key = json_hash([config.to_dict(), adapter.to_dict()])
    if key not in _COUNTED:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
            linear = sum(matrix.weight.numel() for matrix in linear_layers(model).values())
            total = sum(parameter.numel() for parameter in model.parameters())
            wrapped = get_peft_model(model, fit_to_model(adapter, model))
        adapted = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
        _COUNTED[key] = (linear, total, adapted)
    return _COUNTED[key]
