"""Estimate the memory of a training run before anything is loaded."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from mathsft.checks import Rule, at_least, check_number, check_numbers, unknown_name
from mathsft.device import device_defaults
from mathsft.models.trained_weights import lora_config
from mathsft.objectives import objective_classes
from mathsft.recipes import load_recipe
from mathsft.training.footprint import MemoryEstimate, Shapes, footprint

# Compute capability, and the GB that a training run can use: 14.56 GiB as a T4 reports, 40 and 80
# GiB by name, less about a GB for CUDA itself and for what it rounds up. None: a CPU.
_CARDS: dict[str, tuple[tuple[int, int] | None, float | None]] = {
    "cpu": (None, None),
    "t4": ((7, 5), 15.0),
    "a100": ((8, 0), 42.0),
    "a100-80gb": ((8, 0), 84.0),
}
_DEVICES = {  # of the shipped recipes
    "tiny": "cpu", "t4": "t4", "a100": "a100", "a100-8": "a100", "cluster": "a100-80gb",
}  # fmt: skip


def estimate_memory(
    recipe: Mapping[str, Any] | str | Path | None = None,
    section: str = "sft",
    *,
    device: str | None = None,
    memory: float | None = None,
    quantize: bool | None = None,
    lora: bool | Mapping[str, Any] | LoraConfig | None = None,
    shards: int = 1,
    question_tokens: int | None = None,
    trained_share: float | None = None,
) -> MemoryEstimate:
    """Estimate the peak memory of training by a recipe, by parts; only config.json is read.

    Args:
        recipe: what `load_recipe` returns or takes: "t4", a file, or None for this machine's.
        section: which training run: an objective's name, or "mixing".
        device: "cpu", "t4", "a100" (40 GB) or "a100-80gb"; default: that of a shipped
            recipe given by name, else this machine.
        memory: available GB; default: the device's memory, or on a CPU what is free now.
        quantize: 4-bit weights (NF4); default: the recipe's model section.
        lora: settings of `add_adapter` that differ from its defaults, such as ``{"r": 8}``, or
            a `LoraConfig`; False for full fine-tuning of float32 weights
            (``load_model(..., dtype="float32")``), with autocast on a GPU; default: the recipe's
            model section, else True.
        shards: number of processes that FSDP2 divides the model over. The estimate is for one of
            them, with its own card. 1: the whole model is in every process, as with DDP; if the
            recipe has ``fsdp``, the verdict says so.
        question_tokens: tokens of a question with all its choices, or of a pair with both its
            answers, in the forest; default: the objective's ``group_tokens``, 100 for multiple
            choice, else ``max_length``.
        trained_share: the share of a batch's positions that predict a trained token; default: the
            objective's ``scored_share``, 0.2 for multiple choice, else 0.6. (With the embedded
            tokenizer it is a half for GSM8K and an eighth for MathQA.)

    `footprint` (mathsft/training/footprint.py) explains the arithmetic.

    Not included: CUDA's own half GB (it is subtracted from the card's memory), loading and
    generating, fragmentation, and DDP's buckets, which are as large as the gradients. A test
    compares the estimate with the peak of real allocations, within 15 %, in one process on a CPU;
    ``shards`` is arithmetic alone.

    Raises ValueError for an unknown section, device or LoRA setting, for an impossible number
    (`mathsft.checks`), also in the recipe, and for 4-bit weights without an adapter; also what
    `load_recipe` and loading a configuration raise.
    """
    if recipe is None or isinstance(recipe, str | Path):
        device = device or _DEVICES.get(str(recipe))
        recipe = load_recipe(recipe)
    objectives = objective_classes()
    objectives["mixing"] = objectives["multiple_choice"]
    if section not in objectives or section not in recipe:
        trainings = [name for name in objectives if name in recipe]
        raise ValueError(unknown_name("section", section, trainings))
    device = device.lower() if device else None
    if device is not None and device not in _CARDS:
        raise ValueError(
            unknown_name("device", device, _CARDS) + ". For another card, take one of its kind "
            "(t4: float16, a100: bfloat16) and give its memory in GB"
        )
    objective = objectives[section]
    model, settings = recipe.get("model", {}), {**objective.defaults, **recipe[section]}
    check_numbers(
        {
            "memory": memory,
            "lora": lora,
            "question_tokens": question_tokens,
            "trained_share": trained_share,
        }
    )
    check_number("shards", shards, Rule(at_least(1).holds, "the number of processes, 1 or more"))
    for name in ("model", section):
        check_numbers(recipe.get(name, {}), where=f"{name}.")
    if settings.pop("activation_checkpointing", None):  # transformers' newer name for it
        settings["gradient_checkpointing"] = True
    quantize = bool(model.get("quantize")) if quantize is None else quantize
    lora = model.get("lora", True) if lora is None else lora
    if quantize and lora is False:
        raise ValueError("4-bit weights cannot be trained: set quantize=False, or lora=True")
    if isinstance(lora, Mapping):
        adapter = lora_config(**{key: value for key, value in lora.items() if key != "seed"})
    else:
        adapter = lora_config(lora if isinstance(lora, LoraConfig) else None)
    capability, room = _CARDS[device] if device else (device_defaults().capability, None)
    room = memory or room or _memory_here(capability)
    shapes = Shapes.of(model.get("name", "tiny"), model.get("revision"), adapter)

    def size(**changes: Any) -> MemoryEstimate:
        return footprint(
            shapes,
            half=capability is not None,
            shards=shards,
            dropout=adapter.lora_dropout > 0 and objective.dropout,
            question_tokens=question_tokens or objective.group_tokens,
            trained_share=trained_share or objective.scored_share,
            **{"quantize": quantize, "lora": lora is not False, **settings, **changes},
        )

    kind = device.upper() if device in ("t4", "a100") and not memory else None
    where = (
        f"{'an' if kind == 'A100' else 'a'} {kind} ({room:.0f} GB)" if kind else f"{room:.1f} GB"
    )
    smaller = "" if quantize else "quantize" if lora is not False else "lora"
    verdict = _verdict(size, settings, smaller, room, where)
    if settings.get("fsdp") and shards == 1:
        verdict += "; the recipe shards the model (fsdp): give shards, the number of processes"
    return replace(size(), verdict=verdict)


def _verdict(size: Any, settings: Mapping[str, Any], smaller: str, room: float, where: str) -> str:
    """Whether it fits; else the first change, or the first few together, that makes it fit."""
    if size().total <= room:
        return f"fits {where}"
    batch = settings.get("per_device_train_batch_size", 4)
    steps = settings.get("gradient_accumulation_steps", 1)
    changes: list[tuple[dict[str, Any], str]] = []
    if smaller:
        changes.append(({smaller: True}, f"{smaller}: true"))
    if not settings.get("gradient_checkpointing"):
        changes.append(({"gradient_checkpointing": True}, "gradient_checkpointing: true"))
    while batch > 1:
        batch, steps = batch // 2, steps * 2
        keys = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
        changes.append((keys, ", ".join(f"{key}: {value}" for key, value in keys.items())))
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
    """GB that a training run can use on this machine."""
    if capability is not None and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[1] / 1e9 - 0.6
    import psutil

    return float(psutil.virtual_memory().available) / 1e9
