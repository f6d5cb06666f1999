"""The sizes of a training run: from a recipe before anything is loaded, or of a loaded model."""

import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel

from mathsft.checks import Rule, at_least, check_number, check_numbers, unknown_name
from mathsft.device import Capability, device_defaults
from mathsft.models.trained_weights import lora_config
from mathsft.objectives.base import Objective
from mathsft.objectives.distillation import BASE
from mathsft.training.batch_size import BATCH, ROWS, divided_here
from mathsft.training.footprint import Shapes
from mathsft.training.sizing import TrainingSize, training_settings

# Compute capability, and the GB that a training run can use: 14.56 GiB as a T4 reports, 40 and 80
# GiB by name, less about a GB for CUDA itself and for what it rounds up. None: a CPU.
_CARDS: dict[str, tuple[Capability | None, float | None]] = {
    "cpu": (None, None),
    "t4": ((7, 5), 15.0),
    "a100": ((8, 0), 42.0),
    "a100-40gb": ((8, 0), 42.0),  # another name for it
    "a100-80gb": ((8, 0), 84.0),
    "h100": ((9, 0), 84.0),
}
_NAMED = {"t4": "a T4", "a100": "an A100", "a100-40gb": "an A100", "h100": "an H100"}


def sized(
    recipe: Mapping[str, Any],
    section: str,
    objective: type[Objective],
    *,
    device: str | None = None,
    memory: float | None = None,
    quantize: bool | None = None,
    lora: bool | Mapping[str, Any] | LoraConfig | None = None,
    shards: int = 1,
    question_tokens: int | None = None,
    trained_share: float | None = None,
    free: bool = False,
) -> TrainingSize:
    """A recipe's training run; only config.json is read.

    Args:
        recipe: sections by name.
        section: that of the training run.
        objective: of this section.
        device, memory, quantize, lora, shards, question_tokens, trained_share: as for
            `mathsft.recipes.estimate.estimate_memory`, which also says what is raised.
        free: count the memory that is free on this machine's GPU now, not all of it.
    """
    device = device.lower() if device else None
    if device is not None and device not in _CARDS:
        raise ValueError(
            unknown_name("device", device, _CARDS) + ". For another card, take one of its kind "
            "(t4: float16, a100: bfloat16) and give its memory in GB"
        )
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
    model = recipe.get("model", {})
    quantize = bool(model.get("quantize")) if quantize is None else quantize
    lora = model.get("lora", True) if lora is None else lora
    if quantize and lora is False:
        raise ValueError("4-bit weights cannot be trained: set quantize=False, or lora=True")
    if isinstance(lora, Mapping):
        adapter = lora_config(**{key: value for key, value in lora.items() if key != "seed"})
    else:
        adapter = lora_config(lora if isinstance(lora, LoraConfig) else None)
    capability, room = _CARDS[device] if device else (device_defaults().capability, None)
    cautious = capability is None and not memory
    room = memory or room or _memory_here(capability, free=free)
    named = device in _NAMED and not memory
    return TrainingSize(
        Shapes.of(model.get("name", "tiny"), model.get("revision"), adapter),
        objective,
        training_settings(recipe[section], objective),
        capability,
        room=room,
        where=f"{_NAMED[device or '']} ({room:.0f} GB)" if named else f"{room:.1f} GB",
        cautious=cautious,
        arguments={
            "half": capability is not None and not (lora and model.get("dtype") == "float32"),
            "shards": shards,
            "dropout": adapter.lora_dropout > 0 and objective.dropout,
            "question_tokens": question_tokens or objective.group_tokens,
            "trained_share": trained_share or objective.scored_share,
            "quantize": quantize,
            "lora": lora is not False,
            "compared": objective.needs_teacher,
            "teacher_numbers": _teacher_numbers(recipe[section]),
        },
    )


def divided_for(
    model: Any,
    objective: Objective,
    settings: Mapping[str, Any],
    *,
    given: Collection[str],
    step_rows: int | None,
    max_length: int,
) -> dict[str, Any]:
    """The ``settings`` of a trainer with numbers for its batch and its accumulation.

    A batch that was not ``given`` follows from ``step_rows`` (`divided_here`).
    """
    settings = {**settings, ROWS: step_rows}
    if step_rows is not None and BATCH not in given:
        del settings[BATCH]
    return divided_here(
        settings,
        type(objective),
        device=lambda: str(next(model.parameters()).device.type),
        sized=partial(sized_model, model, objective, {**settings, "max_length": max_length}),
    )


def sized_model(
    model: Any, objective: Objective, settings: Mapping[str, Any], shards: int = 1
) -> TrainingSize:
    """The training run of a model that is loaded, on its device."""
    adapted = model if isinstance(model, PeftModel) else None
    config = lora_config(None)
    for one in adapted.peft_config.values() if adapted else ():
        config = one if isinstance(one, LoraConfig) else config
    home = next(model.parameters()).device
    capability = torch.cuda.get_device_capability(home) if home.type == "cuda" else None
    loaded = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9
    room = _memory_here(capability, free=True, device=home) + loaded
    return TrainingSize(
        Shapes.of_model(model, config),
        type(objective),
        training_settings(settings, type(objective)),
        capability,
        room=room,
        where=f"{room:.1f} GB",
        cautious=capability is None,
        arguments={
            "half": capability is not None and not (adapted and model.dtype == torch.float32),
            "shards": shards,
            "dropout": config.lora_dropout > 0 and objective.dropout,
            "question_tokens": objective.group_tokens,
            "trained_share": objective.scored_share,
            "quantize": bool(getattr(model, "is_quantized", False)),
            "lora": adapted is not None,
            "compared": objective.needs_teacher,
            "teacher_numbers": _teacher_numbers(vars(objective)),
        },
    )


def _teacher_numbers(settings: Mapping[str, Any]) -> int:
    """The parameters of a teacher that will be loaded, by its name in an objective's settings."""
    name = settings.get("teacher") or BASE
    if name == BASE or Path(name).suffix == ".safetensors":
        return 0
    return Shapes.of(name).total


def _memory_here(
    capability: Capability | None, *, free: bool, device: torch.device | None = None
) -> float:
    """GB that a training run can use on this machine; ``free``: with what is in use already."""
    if capability is not None and torch.cuda.is_available():
        left, total = torch.cuda.mem_get_info(device)
        if free:  # the blocks that torch keeps are free for tensors
            kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            total = min(total, left + kept)
        return total / 1e9 - 0.6
    import psutil

    # Processes of one machine share it.
    share = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if free else 1
    return float(psutil.virtual_memory().available) / 1e9 / share
