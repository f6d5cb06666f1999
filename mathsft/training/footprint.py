"""The memory that a training run allocates, part by part, from its model's sizes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from mathsft.models.attention import LONG_ROW
from mathsft.models.computation import json_hash
from mathsft.models.distributions import ARRAYS
from mathsft.models.pretrained import model_config
from mathsft.models.projection import LOGITS_AT_ONCE
from mathsft.models.trained_weights import fit_to_model, linear_layers, lora_config


@dataclass(frozen=True)
class Shapes:
    """What the arithmetic needs from a model: sizes, and numbers of parameters."""

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

    @property
    def total(self) -> int:
        """All parameters of the model without an adapter."""
        return self.projected + self.other

    @classmethod
    def of(
        cls,
        name: str | Path,
        revision: str | None = None,
        adapter: LoraConfig | None = None,
    ) -> "Shapes":
        """Count them on a model without weights, made from its config.json.

        ``adapter`` is added to it, and the trained numbers are counted; default: the adapter of
        `add_adapter`. Raises ValueError if the configuration does not name its sizes as Llama's
        and Qwen's do.
        """
        return cls._of(model_config(name, revision), lora_config(adapter), name)

    @classmethod
    def of_model(cls, model: Any, adapter: LoraConfig) -> "Shapes":
        """As `of`, for a model that is loaded; the trained numbers are those of the model."""
        found = cls._of(model.config, adapter, model.config.name_or_path)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return replace(found, adapted=trained)

    @classmethod
    def _of(cls, config: Any, adapter: LoraConfig, name: str | Path) -> "Shapes":
        config = config.get_text_config()
        for key in ("hidden_size", "intermediate_size", "num_attention_heads"):
            if not hasattr(config, key):
                raise ValueError(f"{name}: config.json has no {key}, so memory cannot be estimated")
        projected, total, adapted = _numbers(config, adapter)
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            query=heads * size,
            # A single key head is shared as it is; several are copied for each query head.
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
    """Parameters in the linear layers, in the whole model, and trained with the adapter."""
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


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one process by its use, in GB (1e9 bytes); ``verdict``: whether it fits."""

    weights: float
    adapters: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    gathered: float = 0.0
    verdict: str = ""

    @property
    def total(self) -> float:
        """The peak: the sum of the parts, each with its size at that moment."""
        return (
            self.weights + self.adapters + self.gradients + self.optimizer
            + self.activations + self.logits + self.gathered
        )  # fmt: skip

    def __str__(self) -> str:
        parts = ["weights", "adapters", "gradients", "optimizer", "activations", "logits"]
        parts += ["gathered"] * bool(self.gathered)
        digits = 2 if self.total >= 1 else 4
        lines = [f"{name:12}{getattr(self, name):8.{digits}f} GB" for name in parts]
        return "\n".join([*lines, f"{'total':12}{self.total:8.{digits}f} GB: {self.verdict}"])


def footprint(
    shapes: Shapes,
    *,
    half: bool,
    lora: bool,
    dropout: bool,
    shards: int,
    question_tokens: int | None,
    trained_share: float,
    quantize: bool,
    max_length: int = 512,
    per_device_train_batch_size: int = 4,
    gradient_accumulation_steps: int = 1,
    gradient_checkpointing: bool = False,
    optim: str = "adamw_torch",
    compared: bool = False,
    teacher_numbers: int = 0,
    **_: Any,
) -> MemoryEstimate:
    """The arithmetic of `estimate_memory`; other keys of a recipe's section are ignored.

    It assumes that all seven projections are adapted. H hidden size, I intermediate size, Q heads
    × head size, V vocabulary, N layers, r rank; B rows of L tokens per batch, T = B L; s bytes per
    number: 4 on a CPU (float32), 2 on a GPU (``half``).

    - weights: s per parameter. In NF4 the projections take 1/2 byte, plus 1/64 + 4/(64·256) for
      the constants of their blocks of 64 (arXiv:2305.14314, section 3). Full fine-tuning: 4 per
      parameter, because half precision loses updates. Tied embeddings count once.
    - adapters: 4 bytes (float32) × r (in + out) for each projection. Half precision multiplies
      with 2-byte copies of the trained weights; they count as activations.
    - gradients: 4 bytes per trained number. optimizer: AdamW's two moments, 8 bytes; in 8 bits
      2 and 8/256, except for the embedding, which transformers leaves in 32 bits. Other memory
      that an update needs briefly is not counted.
    - activations, kept for the backward pass, per layer and token:
      two norms 2·4H, plus 2Hs if they are trained; query, key and value (repeated for each
      query head, unless there is only one key head) and the attention's output 4Qs; gate, its
      SiLU and up 3Is; the inputs of the projections: (2H + I)s without dropout (the attention's
      output is already counted), (5H + Q + I)(s + m) with dropout, where m is the mask's size:
      1 byte on a GPU and 4 on a CPU; 7rs between A and B; 4 (heads + 2). Once per token: the
      final norm 4H, and Ls for the attention mask (none in rows over 2,048 tokens). With
      ``gradient_checkpointing`` only Hs per layer, and the above for one layer at a time.
    - logits: V numbers for each trained position, at most 2²⁶ at once
      (`mathsft.models.projection`), of 4 bytes, 6 in half precision. After they are freed, the
      backward pass through a layer needs Is per token, a dequantised matrix HIs, and with
      checkpointing that layer's activations. The larger of the two counts: logits or this pass.
    - ``compared`` with a teacher: `ARRAYS` arrays of a block in 4 bytes, at most 2²⁶ numbers in
      all; H (4 + 2s) for each trained position; s per parameter of a loaded teacher.
    - full fine-tuning also trains the head: two float32 arrays of its size, 8HV (its gradient
      and a part of it), count with the logits. Unless it accumulates over several batches, it
      allocates its gradients after the activations are freed, and the larger of these two
      moments is the peak. The later moment includes the 8HV too: first for the two gradients of
      tied embeddings, then in AdamW's update.
    - ``shards``: FSDP2's `fully_shard` over the layers and the rest. Weights, adapters,
      gradients and optimiser are divided by the number of shards; NF4 weights are not, because
      they are bytes. gathered: two layers (the current one and the next), the embedding and the
      head, s bytes per parameter, and in full fine-tuning a layer's gradients before they are
      scattered.
    """
    h, i, q = shapes.hidden, shapes.intermediate, shapes.query
    s = 2 if half else 4
    if question_tokens is None:
        tokens, length = per_device_train_batch_size * max_length, max_length
    else:  # questions share rows as long as they fit
        tokens = per_device_train_batch_size * question_tokens
        length = min(tokens, max_length)

    masked = lora and dropout
    inputs = (5 * h + q + i) * (s + (1 if half else 4)) if masked else (2 * h + i) * s
    inputs += 7 * shapes.rank * s if lora else 2 * h * s
    attention = 2 * q + 2 * shapes.key  # query and output, key and value
    layer = 2 * 4 * h + attention * s + 3 * i * s + inputs
    layer += 4 * (shapes.heads + 2)
    mask = length * s if length <= LONG_ROW else 0
    kept = tokens * (shapes.layers * (h * s if gradient_checkpointing else layer) + 4 * h + mask)
    if half and shards == 1:
        kept += 2 * (shapes.adapted if lora else shapes.projected)
    backward = tokens * i * s + (h * i * s if quantize else 0)
    if gradient_checkpointing:
        backward += tokens * layer
    arrays = ARRAYS if compared else 1
    at_once = min(trained_share * tokens, max(1, LOGITS_AT_ONCE // arrays // shapes.vocabulary))
    logits = at_once * shapes.vocabulary * (6 if half and not compared else 4) * arrays
    kept += int(compared * trained_share * tokens * h * (4 + 2 * s))

    trained = shapes.adapted if lora else shapes.projected + shapes.other
    gradients = 4 * trained / shards
    transient = max(logits, backward)
    if not lora:
        head = 2 * 4 * h * shapes.vocabulary
        transient = max(logits + head, backward)
        if gradient_accumulation_steps == 1:
            if kept + transient > gradients + head:
                gradients = 0
            else:
                kept, transient = 0, head

    nf4 = 1 / 2 + 1 / 64 + 4 / (64 * 256)
    stored = (s if lora else 4) / shards
    gathered = 0.0
    if shards > 1:
        one = shapes.projected / shapes.layers
        gathered = s * (shapes.other + 2 * one * (not quantize)) + 4 * one * (not lora)
    moments = 8.0 * trained
    if "8bit" in optim:
        embedding = 0 if lora else h * shapes.vocabulary
        moments = 8 * embedding + (2 + 8 / 256) * (trained - embedding)
    weights = shapes.other * stored + shapes.projected * (nf4 if quantize else stored)
    return MemoryEstimate(
        weights=(weights + s * teacher_numbers) / 1e9,
        adapters=4 * shapes.adapted * lora / shards / 1e9,
        gradients=gradients / 1e9,
        optimizer=moments / shards / 1e9,
        activations=kept / 1e9,
        logits=transient / 1e9,
        gathered=gathered / 1e9,
    )
