"""Which run a checkpoint belongs to: its settings, its data, and the weights it began with.

A learner changes `learning_rate` and runs the notebook again. To go on from the checkpoint of
the former run would mix the two without a word; so each checkpoint says what it is of.
"""

import hashlib
from typing import Any

import torch
from transformers import PreTrainedModel

from mathsft.models.identity import base_identity, sample_differences
from mathsft.models.sharding import whole

# What changes the weights that come out. Precision does not count: Colab may give another card.
_SETTINGS = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_steps",
    "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "seed",
    "data_seed", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2",
    "adam_epsilon", "max_grad_norm", "neftune_noise_alpha", "label_smoothing_factor",
    "train_sampling_strategy",
)  # fmt: skip
_ADAPTER = (
    "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "rank_pattern",
    "alpha_pattern", "modules_to_save",
)  # fmt: skip


def run_identity(trainer: Any) -> dict[str, Any]:
    """The run that a trainer would begin now: JSON, compared by `run_differences`.

    ``settings`` by name; SHA-256 of the training rows (``data``) and of the weights that are
    trained as they are now (``start``); ``base``, the frozen rest (`mathsft.models.identity`).
    """
    settings = {key: getattr(trainer.args, key) for key in _SETTINGS if hasattr(trainer.args, key)}
    settings |= {"processes": trainer.args.world_size, "trainer": type(trainer).__name__}
    # max_length, temperature, … stand in what the trainer was given as functions of them.
    for function in (trainer.data_collator, getattr(trainer, "_score", None)):
        settings |= getattr(function, "keywords", {})
    for config in getattr(trainer.model, "peft_config", {}).values():
        settings |= {key: getattr(config, key, None) for key in _ADAPTER}
        settings["target_modules"] = sorted(config.target_modules)
    base: PreTrainedModel = getattr(trainer.model, "get_base_model", lambda: trainer.model)()
    settings["quantize"] = bool(getattr(base, "is_quantized", False))
    identity = base_identity(base)
    for name, parameter in base.named_parameters():
        if parameter.requires_grad:  # it moves: ``start`` has it
            identity["samples"].pop(name.replace(".base_layer.", "."), None)
    return {
        "settings": {
            key: value if isinstance(value, int | float | list | None) else str(value)
            for key, value in settings.items()
        },
        "data": rows_hash(trainer.train_dataset),
        "start": start_hash(trainer.model),
        "base": identity,
    }


def run_differences(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In words, how a recorded run differs from the one of now; [] where it is the same."""
    theirs, ours = recorded["settings"], now["settings"]
    found = [
        f"{key} {theirs.get(key)}, now {ours.get(key)}"
        for key in {**theirs, **ours}
        if theirs.get(key) != ours.get(key)
    ]
    if recorded["data"] != now["data"]:
        found.append("other training rows")
    if recorded["start"] != now["start"]:
        found.append("other weights at the start (another seed, or cells run in another order)")
    if sample_differences(recorded["base"]["samples"], now["base"]["samples"])[0]:
        found.append(f"another base model ({recorded['base']['name']})")
    return found


def rows_hash(rows: Any) -> str:
    """SHA-256 of a data set's rows in their order."""
    digest = hashlib.sha256()
    for batch in rows.data.table.combine_chunks().to_batches():
        digest.update(memoryview(batch.serialize()))
    if rows._indices is not None:  # a selection or another order of the same rows
        digest.update(str(rows._indices.to_pydict()).encode())
    return digest.hexdigest()


def start_hash(model: torch.nn.Module) -> str:
    """SHA-256 of the weights that are trained, as they are now."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            digest.update(name.encode())
            digest.update(whole(parameter.detach()).float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
