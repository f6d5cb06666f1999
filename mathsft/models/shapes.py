"""The sizes of a model, counted before anything of it is loaded."""

from dataclasses import dataclass
from pathlib import Path

import torch

from mathsft.models.adapters import PROJECTIONS
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
    adapted: int  # numbers in the adapters

    @classmethod
    def of(
        cls,
        name: str | Path,
        revision: str | None = None,
        rank: int = 16,
        target_modules: tuple[str, ...] = PROJECTIONS,
    ) -> "Shapes":
        """Counted on a model without memory, made from its config.json.

        ``rank`` and ``target_modules`` are those of `add_adapter`. Raises ValueError for a
        model whose configuration does not name its sizes as Llama's and Qwen's do.
        """
        from transformers import AutoModelForCausalLM

        config = model_config(name, revision).get_text_config()
        for key in ("hidden_size", "intermediate_size", "num_attention_heads"):
            if not hasattr(config, key):
                raise ValueError(f"{name}: its config.json has no {key}, so this cannot be counted")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        linear = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        matrices = [m for m in linear.values() if m is not model.get_output_embeddings()]
        adapted = [m for n, m in linear.items() if n.rpartition(".")[2] in target_modules]
        projected = sum(m.weight.numel() for m in matrices)
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
            rank=rank,
            projected=projected,
            other=sum(p.numel() for p in model.parameters()) - projected,
            adapted=sum(rank * (m.in_features + m.out_features) for m in adapted),
        )
