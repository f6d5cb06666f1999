"""How much memory a training needs, before anything is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mathsft.device import policy
from mathsft.models.adapters import add_adapter
from mathsft.models.projection import LOGITS_AT_ONCE
from mathsft.models.shapes import Shapes
from mathsft.names import unknown_name
from mathsft.recipes import load_recipe

# Compute capability, and the GB that a training can use: 14.56 GiB as a T4 shows them, 40 and 80
# GiB by name, less about a GB for CUDA itself and what it rounds up. None: a CPU.
_CARDS: dict[str, tuple[tuple[int, int] | None, float | None]] = {
    "cpu": (None, None),
    "t4": ((7, 5), 15.0),
    "a100": ((8, 0), 42.0),
    "a100-80gb": ((8, 0), 84.0),
}
_DEVICES = {"tiny": "cpu", "t4": "t4", "a100": "a100"}  # of the shipped recipes


@dataclass(frozen=True)
class MemoryEstimate:
    """GB (1e9 bytes) by what they are for; ``verdict`` says whether it fits, or what would."""

    weights: float
    adapters: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    verdict: str = ""

    @property
    def total(self) -> float:
        """The peak: all of it at once, at the end of a forward pass."""
        return (
            self.weights + self.adapters + self.gradients + self.optimizer
            + self.activations + self.logits
        )  # fmt: skip

    def __str__(self) -> str:
        parts = ("weights", "adapters", "gradients", "optimizer", "activations", "logits")
        digits = 2 if self.total >= 1 else 4
        lines = [f"{name:12}{getattr(self, name):8.{digits}f} GB" for name in parts]
        return "\n".join([*lines, f"{'total':12}{self.total:8.{digits}f} GB: {self.verdict}"])


def estimate_memory(
    recipe: Mapping[str, Any] | str | Path | None = None,
    section: str = "sft",
    *,
    device: str | None = None,
    memory: float | None = None,
    lora: Mapping[str, Any] | None = None,
    question_tokens: int = 100,
    trained_share: float | None = None,
) -> MemoryEstimate:
    """The memory that training by a recipe takes at its peak, by parts; only config.json is read.

    Args:
        recipe: what `load_recipe` gives, or takes: "t4", a file, None for this machine's.
        section: which training: "sft", "multiple_choice" or "mixing".
        device: "cpu", "t4", "a100" (40 GB) or "a100-80gb"; default: that of a shipped
            recipe given by name, else this machine.
        memory: GB that there are; default: those of the device, on a CPU what is free now.
        lora: settings of `add_adapter` that differ from its defaults, such as ``{"r": 8}``.
        question_tokens: tokens of a question with all its choices in the forest. MathQA's have
            about 60 on average, and the peak is the longest batch's: of 551 batches of eight
            one had 1.67 times the average.
        trained_share: of a batch's positions those that predict a trained token; default 0.6
            for worked solutions and 0.2 for choices. (As the embedded tokenizer splits them, a
            half of GSM8K's and an eighth of MathQA's.)

    The arithmetic, for LoRA on all seven projections. H hidden size, I intermediate size,
    Q heads × head size, V vocabulary, N layers, r rank; B rows of L tokens a batch, T = B L;
    s bytes a number: 4 on a CPU (float32), 2 on a GPU (half precision).

    - weights: s a parameter; in NF4 the projections take 1/2 byte, and 1/64 + 4/(64·256) for
      the constants of their blocks of 64 (arXiv:2305.14314, section 3).
    - adapters: 4 bytes (float32) × r (in + out) for each projection; gradients as many again.
      Half precision multiplies copies of them, of 2 bytes; they count as activations.
    - optimizer: AdamW's two moments, 8 bytes a trained number; in 8 bits 2 and 8/256.
    - activations, kept for the backward pass, per layer and token:
      two norms 2·4H; query, key and value (repeated for each query head, unless there is but
      one of them) and the attention's output 4Qs; gate, SiLU of it and up 3Is; the inputs of
      the adapters, (2H + I)s without dropout (the attention's output is there already), with
      dropout (5H + Q + I)(s + m), where m is a byte on a GPU and 4 on a CPU for the mask; 7rs
      between A and B; Ls of the attention mask; 4 (heads + 2). Once: the final norm 4H.
      With ``gradient_checkpointing`` only Hs a layer, and the above of one layer at a time.
    - logits: V numbers for each trained position, at most 2²⁶ at once
      (`mathsft.models.projection`), of 4 bytes, 6 in half precision. When they are gone the
      backward pass through a layer needs Is a token, a dequantised matrix HIs, and
      with checkpointing that layer's activations: the larger of the two counts.

    Not in it: CUDA's own half GB (taken off the card's memory), what loading and generating take,
    and fragmentation. Held against the peak of real allocations by a test, within 15 %.

    Raises ValueError for an unknown section or device; what `load_recipe` and loading a
    configuration raise.
    """
    if recipe is None or isinstance(recipe, str | Path):
        device = device or _DEVICES.get(str(recipe))
        recipe = load_recipe(recipe)
    if section not in ("sft", "multiple_choice", "mixing") or section not in recipe:
        trainings = [s for s in ("sft", "multiple_choice", "mixing") if s in recipe]
        raise ValueError(unknown_name("section", section, trainings))
    device = device.lower() if device else None
    if device is not None and device not in _CARDS:
        raise ValueError(
            unknown_name("device", device, _CARDS) + ". For another card take the one of its kind "
            "(t4: float16, a100: bfloat16) and give its memory in GB"
        )
    for key in lora or ():
        if key not in (add_adapter.__kwdefaults__ or {}):
            raise ValueError(unknown_name("LoRA setting", key, add_adapter.__kwdefaults__ or ()))
    capability, room = _CARDS[device] if device else (policy().capability, None)
    room = memory or room or _memory_here(capability)
    adapter = {**(add_adapter.__kwdefaults__ or {}), **(lora or {})}
    name = recipe["model"].get("name", "tiny")
    shapes = Shapes.of(
        name, recipe["model"].get("revision"), adapter["r"], adapter["target_modules"]
    )

    def size(**changes: Any) -> MemoryEstimate:
        return _estimate(
            shapes,
            half=capability is not None,
            dropout=adapter["lora_dropout"] > 0,
            question_tokens=None if section == "sft" else question_tokens,
            trained_share=trained_share or (0.6 if section == "sft" else 0.2),
            **{"quantize": bool(recipe["model"].get("quantize")), **recipe[section], **changes},
        )

    kind = device.upper() if device in ("t4", "a100") and not memory else None
    where = (
        f"{'an' if kind == 'A100' else 'a'} {kind} ({room:.0f} GB)" if kind else f"{room:.1f} GB"
    )
    return replace(size(), verdict=_verdict(size, recipe, section, room, where))


def _estimate(
    shapes: Shapes,
    *,
    half: bool,
    dropout: bool,
    question_tokens: int | None,
    trained_share: float,
    quantize: bool,
    max_length: int = 512,
    per_device_train_batch_size: int = 4,
    gradient_checkpointing: bool = False,
    optim: str | None = None,
    **_: Any,
) -> MemoryEstimate:
    h, i, q = shapes.hidden, shapes.intermediate, shapes.query
    s = 2 if half else 4
    if question_tokens is None:
        tokens, length = per_device_train_batch_size * max_length, max_length
    else:  # questions share rows as long as they fit
        tokens = per_device_train_batch_size * question_tokens
        length = min(tokens, max_length)

    inputs = (5 * h + q + i) * (s + (1 if half else 4)) if dropout else (2 * h + i) * s
    attention = 2 * q + 2 * shapes.key  # and value
    layer = 2 * 4 * h + attention * s + 3 * i * s + inputs
    layer += 7 * shapes.rank * s + length * s + 4 * (shapes.heads + 2)
    kept = tokens * (shapes.layers * (h * s if gradient_checkpointing else layer) + 4 * h)
    if half:
        kept += 2 * shapes.adapted
    backward = tokens * i * s + (h * i * s if quantize else 0)
    if gradient_checkpointing:
        backward += tokens * layer
    at_once = min(trained_share * tokens, max(1, LOGITS_AT_ONCE // shapes.vocabulary))
    logits = at_once * shapes.vocabulary * (6 if half else 4)

    nf4 = 1 / 2 + 1 / 64 + 4 / (64 * 256)
    eight_bits = "8bit" in optim if optim else half
    return MemoryEstimate(
        weights=(shapes.other * s + shapes.projected * (nf4 if quantize else s)) / 1e9,
        adapters=4 * shapes.adapted / 1e9,
        gradients=4 * shapes.adapted / 1e9,
        optimizer=(2 + 8 / 256 if eight_bits else 8) * shapes.adapted / 1e9,
        activations=kept / 1e9,
        logits=max(logits, backward) / 1e9,
    )


def _verdict(size: Any, recipe: Mapping[str, Any], section: str, room: float, where: str) -> str:
    """Whether it fits; else the first change, or the first few together, that makes it fit."""
    if size().total <= room:
        return f"fits {where}"
    batch = recipe[section].get("per_device_train_batch_size", 4)
    steps = recipe[section].get("gradient_accumulation_steps", 1)
    changes = [] if recipe["model"].get("quantize") else [({"quantize": True}, "quantize: true")]
    if not recipe[section].get("gradient_checkpointing"):
        changes.append(({"gradient_checkpointing": True}, "gradient_checkpointing: true"))
    while batch > 1:
        batch, steps = batch // 2, steps * 2
        words = f"per_device_train_batch_size: {batch}, gradient_accumulation_steps: {steps}"
        changes.append(({"per_device_train_batch_size": batch}, words))
    for change, words in changes:
        if (total := size(**change).total) <= room:
            return f"does not fit {where}; with {words} it would ({total:.1f} GB)"
    together: dict[str, Any] = {}
    said: list[str] = []
    for change, words in changes:
        said = [w for w in said if not (w.startswith("per_") and words.startswith("per_"))]
        together, said = {**together, **change}, [*said, words]
        if (total := size(**together).total) <= room:
            return f"does not fit {where}; with {', '.join(said)} it would ({total:.1f} GB)"
    return f"does not fit {where}, whatever is changed here: take a smaller model or a larger GPU"


def _memory_here(capability: tuple[int, int] | None) -> float:
    """GB that a training can use on this machine."""
    if capability is not None and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[1] / 1e9 - 0.6
    import psutil

    return float(psutil.virtual_memory().available) / 1e9
