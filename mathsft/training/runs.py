"""Which run a checkpoint belongs to: its settings, its data, and the weights it started with.

A learner changes `learning_rate` and runs the notebook again. Resuming from the checkpoint of
the former run would silently mix the two, so each checkpoint records its run.

Every setting counts, except those that are known not to change the weights (`WITHOUT_EFFECT`).
So a setting that a library adds tomorrow counts as well.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import PreTrainedModel, TrainingArguments

from mathsft.device import hardware
from mathsft.files import read_json
from mathsft.models.adapter_files import base_identity, sample_differences
from mathsft.models.computation import (
    adapter_values,
    base_and_adapter,
    config_values,
    plain,
    tensors_hash,
)
from mathsft.models.sharding import whole
from mathsft.objectives import definition

# If evaluation affects the final weights or the learning rate, its schedule and rows count too.
_SCHEDULE = {"eval_strategy", "eval_steps", "eval_delay", "save_strategy", "save_steps"}
# Fields of `TrainingArguments` that change nothing about the weights.
WITHOUT_EFFECT = _SCHEDULE | {
    # where files go, and what goes to the hub (a token is never recorded)
    "output_dir", "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy",
    "hub_always_push", "hub_revision",
    # logging and trackers
    "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node",
    "logging_nan_inf_filter", "include_num_input_tokens_seen", "log_level", "log_level_replica",
    "disable_tqdm", "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id",
    "trackio_static_space_id", "debug", "skip_memory_metrics",
    # evaluation
    "per_device_eval_batch_size", "prediction_loss_only", "eval_on_start",
    "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps",
    "include_for_metrics", "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval",
    # saving
    "save_only_model", "save_on_each_node", "save_total_limit", "enable_jit_checkpoint",
    # precision and device: Colab may give another card
    "bf16", "fp16", "tf32", "use_cpu",
    # memory: the gradients are the same (of the kwargs, `preserve_rng_state` counts)
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_checkpointing",
    "activation_checkpointing_kwargs", "torch_empty_cache_steps", "use_cache",
    # how batches get to the device
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "dataloader_multiprocessing_context",
    # how processes communicate (TRL sets the first one itself)
    "ddp_find_unused_parameters", "ddp_backend", "ddp_timeout", "local_rank",
    # about the call, not the run
    "do_train", "do_eval", "do_predict", "resume_from_checkpoint",
    "restore_callback_states_from_checkpoint",
}  # fmt: skip
# Only the product of the two counts, unless a step's loss depends on them.
_DIVISION = ("per_device_train_batch_size", "gradient_accumulation_steps")
_FORMAT = 2  # of a record; format 1 hashed rows in another way


def run_identity(trainer: Any) -> dict[str, Any]:
    """The run that a trainer would start now: JSON, compared by `run_differences`.

    ``settings`` by name; SHA-256 of the training rows (``data``) and of the trained weights as
    they are now (``start``); ``base``, the frozen rest (`mathsft.models.adapter_files`) with the
    SHA-256 of its tensors as they are in memory.

    Settings are the trainer's arguments without `WITHOUT_EFFECT`, every field of its objective
    (``dpo.beta``) with its code if it is not the package's, the settings of its batches, the
    adapter's configuration, and the model's own (``config.``), such as ``attention_dropout``.
    """
    base: PreTrainedModel = getattr(trainer.model, "get_base_model", lambda: trainer.model)()
    settings = arguments_that_count(trainer.args)
    if _evaluation_decides(trainer.args) and trainer.eval_dataset is not None:
        tests = trainer.eval_dataset
        tests = tests if isinstance(tests, dict) else {"eval_rows": tests}
        settings |= {name: rows_hash(rows) for name, rows in tests.items()}
    objective = trainer.objective
    settings |= {"processes": trainer.args.world_size, "objective": definition(objective)}
    settings["any_division"] = (
        objective.divisible
        and not trainer.args.dataloader_drop_last
        and trainer.args.train_sampling_strategy in ("random", "sequential")
    )
    settings |= {f"{objective.name}.{k}": v for k, v in plain(asdict(objective)).items()}
    settings |= {"max_length": trainer.collate.max_length, "reference": trainer.reference}
    settings["reference_start"] = trainer.reference_start
    settings["pad_token_id"] = trainer.collate.pad_token_id
    settings |= trainer.run_settings
    if trainer.teacher is not None:
        settings["teacher"] = trainer.teacher.identity
    for config in getattr(trainer.model, "peft_config", {}).values():
        settings |= adapter_values(config)
    settings["quantize"] = bool(getattr(base, "is_quantized", False))
    settings |= {f"config.{key}": value for key, value in config_values(base.config).items()}
    tensors, _ = base_and_adapter(trainer.model, saved=True)
    trained = {name for name, tensor in tensors.items() if tensor.requires_grad}
    frozen = {name: tensor for name, tensor in tensors.items() if name not in trained}
    identity = base_identity(base)
    identity["samples"] = {k: v for k, v in identity["samples"].items() if k not in trained}
    identity |= {"kept": _kept(base, frozen), "sha256": tensors_hash(frozen.items())}
    return {
        "format": _FORMAT,
        "settings": settings,
        "data": rows_hash(trainer.train_dataset),
        "start": start_hash(trainer.model),
        "base": identity,
    }


def arguments_that_count(args: TrainingArguments) -> dict[str, Any]:
    """The arguments that change the weights, by name: JSON values.

    If one is a dataclass (``accelerator_config``), each of its fields gets a name of its own.
    """
    left_out = set(WITHOUT_EFFECT)
    if _evaluation_decides(args):
        left_out -= _SCHEDULE
    values: dict[str, Any] = {}
    for field in fields(TrainingArguments):
        value = getattr(args, field.name)
        if field.name in left_out:
            continue
        if field.name == "fsdp_config":  # transformers adds disabled options to it
            value = {key: inner for key, inner in (value or {}).items() if inner} or None
        if field.name == "deepspeed" and isinstance(value, str | Path):
            value = read_json(value)  # the file may change
        if is_dataclass(value):
            values |= {f"{field.name}.{key}": inner for key, inner in plain(value).items()}
        else:
            values[field.name] = plain(value)
    recomputed: Any = args.gradient_checkpointing and args.gradient_checkpointing_kwargs
    # Without it, dropout drops other values in the recomputation than the first time.
    values["preserve_rng_state"] = bool((recomputed or {}).get("preserve_rng_state", True))
    return values


def _evaluation_decides(args: TrainingArguments) -> bool:
    """Whether the final weights, or the learning rate, depend on evaluations."""
    return args.load_best_model_at_end or plain(args.lr_scheduler_type) == "reduce_lr_on_plateau"


def _kept(base: Any, tensors: Mapping[str, torch.Tensor]) -> str:
    """The form of weights in memory: bytes can be compared only with bytes of the same kind."""
    kinds = ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}))
    # Each kind of card rounds to 4 bits in its own way.
    return f"{kinds} by {hardware()}" if getattr(base, "is_quantized", False) else kinds


def run_differences(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Describe how a recorded run differs from the current one; [] if it is the same.

    Settings that the record does not hold are ignored: another version of a library has other
    settings. Those that it holds must be the same now; a setting that is missing now counts as
    None. The base's tensors are compared by SHA-256 if their form is the same, otherwise by samples
    (`mathsft.models.adapter_files`): another card may need another precision. It may also need a
    step to be divided into other batches: this is the same run unless the loss depends on it
    (`Objective.divisible`), though dropout drops other elements.
    """
    if recorded.get("format") != now.get("format"):
        return ["it was written by another version of mathsft, which compared rows differently"]
    theirs, ours = recorded["settings"], now["settings"]
    if ours.get("any_division"):
        theirs, ours = _undivided(theirs), _undivided(ours)
    found = [f"{key} {v}, now {ours.get(key)}" for key, v in theirs.items() if v != ours.get(key)]
    if theirs.get("reference_start") != ours.get("reference_start"):
        found = [line for line in found if not line.startswith("reference_start ")]
        found.append("other weights as the reference (the model's weights have changed since)")
    if recorded["data"] != now["data"]:
        found.append("other training rows")
    if recorded["start"] != now["start"]:
        found.append("other weights at the start (another seed, or cells run in another order)")
    theirs, ours = recorded["base"], now["base"]
    alike = "sha256" in theirs and theirs.get("kept") == ours.get("kept")
    if (
        theirs["sha256"] != ours["sha256"]
        if alike
        else sample_differences(theirs["samples"], ours["samples"])[0]
    ):
        found.append(f"another base model ({theirs['name']})")
    return found


def _undivided(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the rows of a step in place of the batches that they are divided into."""
    found = {key: value for key, value in settings.items() if key not in _DIVISION}
    if {*_DIVISION} <= settings.keys():
        found["rows of a step in each process"] = math.prod(settings[key] for key in _DIVISION)
    return found


def rows_hash(rows: Any) -> str:
    """SHA-256 of a data set's token ids, labels and numbers in the order of its rows.

    It is the same however the table is split on disk. ``reference`` and ``old`` are left out: they
    follow from the rows and the weights, and another card rounds it differently.
    """
    digest = hashlib.sha256()
    names = sorted(set(rows.column_names) - {"reference", "old"})
    digest.update(repr([len(rows), names]).encode())
    arrow = rows.select_columns(names).with_format("arrow")
    for start in range(0, len(rows), 1000):
        table = arrow[start : start + 1000]
        for name in names:
            _hash_values(table.column(name).combine_chunks(), digest)
    return digest.hexdigest()


def _hash_values(values: Any, digest: Any) -> None:
    """Hash the lengths of lists at each level, and the numbers or texts in them."""
    while pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        digest.update(pc.list_value_length(values).to_numpy(zero_copy_only=False).tobytes())
        values = values.flatten()
    if pa.types.is_primitive(values.type):
        digest.update(values.to_numpy(zero_copy_only=False).tobytes())
    else:  # numpy would hash addresses
        digest.update(json.dumps(values.to_pylist(), default=str).encode())


def start_hash(model: torch.nn.Module) -> str:
    """SHA-256 of the trained weights as they are now."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            digest.update(name.encode())
            digest.update(whole(parameter.detach()).float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
