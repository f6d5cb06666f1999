"""The second model that some objectives compare with: the model as it was before training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, get_args
from uuid import uuid4

import numpy as np
import pyarrow as pa
import torch
from accelerate.utils import gather_object
from datasets import Dataset, Features, List, Value, concatenate_datasets
from datasets.fingerprint import get_temporary_cache_files_directory
from peft import PeftModel
from torch import Tensor
from transformers import TrainingArguments

from mathsft.models.adapter_checks import adapter_effect, adapter_off
from mathsft.models.logprobs import SequenceLogprobs, sequence_logprobs
from mathsft.models.modes import evaluating
from mathsft.objectives.base import Objective
from mathsft.processes import say
from mathsft.training.batches import Collator
from mathsft.training.runs import start_hash

Reference = Literal["adapter_off", "before_training"]


def choose_reference(
    model: Any, objective: Objective, *, asked_for: Reference | None = None
) -> Reference | None:
    """How the reference of an objective is computed; None if it needs none.

    "adapter_off" if the adapter is fresh: it changes nothing yet. An adapter that was already
    trained does change the model, and a model without an adapter changes during training. Then
    the log-probabilities are computed before training. Raises ValueError if the requested
    reference is not possible.
    """
    if not objective.needs_reference:
        if asked_for:
            how = " with reference_free" * getattr(objective, "reference_free", False)
            raise ValueError(f"reference={asked_for!r}: {objective.name}{how} uses no reference")
        return None
    if asked_for not in (None, *get_args(Reference)):
        raise ValueError(f"reference={asked_for!r}: give {' or '.join(get_args(Reference))}")
    if asked_for == "adapter_off" and not isinstance(model, PeftModel):
        raise ValueError("reference='adapter_off': the model has no adapter to switch off")
    if asked_for == "adapter_off" and trains_its_base(model):
        raise ValueError(
            "reference='adapter_off': weights of the base are trained as well, so the reference "
            "would change during training: give 'before_training'"
        )
    if asked_for:
        return asked_for
    if not isinstance(model, PeftModel) or trains_its_base(model):
        return "before_training"
    try:
        adapter_effect(model)
    except ValueError as nothing:
        if "does nothing" not in str(nothing):
            raise
        return "adapter_off"
    return "before_training"


def trains_its_base(model: PeftModel) -> bool:
    """Whether training changes weights that stay on when the adapter is switched off."""
    with adapter_off(model):
        marks = (model.prefix, "modules_to_save", "trainable_tokens", "lora_")
        return any(
            parameter.requires_grad and not any(mark in name for mark in marks)
            for name, parameter in model.named_parameters()
        )


@contextmanager
def reference_model(model: PeftModel) -> Iterator[None]:
    """The model without its adapter, in eval mode, without gradients."""
    with adapter_off(model), evaluating(model), torch.no_grad():
        yield


@contextmanager
def weights_as(model: torch.nn.Module, kept: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the named weights of the model have the kept values."""
    named = dict(model.named_parameters())
    now = {name: named[name].data for name in kept}
    try:
        for name, value in kept.items():
            named[name].data = value
        yield
    finally:
        for name, value in now.items():
            named[name].data = value


def kept_logprobs(
    batch: Mapping[str, Tensor], logprobs: SequenceLogprobs, *, column: str
) -> SequenceLogprobs:
    """What `with_logprobs` kept for a batch. Raises ValueError for rows without it."""
    if column not in batch and len(logprobs.values):  # a batch of fillers has nothing to keep
        raise ValueError(
            "these rows have no log-probabilities of the model before training: give them as "
            "eval_rows when the trainer is made"
        )
    values = batch.get(column, logprobs.values.detach())
    return replace(logprobs, values=values, likeliest=None, _logits=None)


def keep_logprobs(trainer: Any, *, column: str) -> None:
    """Add a column of `with_logprobs` to a trainer's rows, and remember the weights it is from."""
    trainer.reference_start = start_hash(trainer.model)  # weights may change before training
    kept = partial(
        with_logprobs,
        model=trainer.model,
        collate=trainer.collate,
        args=trainer.args,
        column=column,
    )
    trainer.train_dataset = kept(trainer.train_dataset)
    tests = trainer.eval_dataset
    if isinstance(tests, dict):
        trainer.eval_dataset = {name: kept(part) for name, part in tests.items()}
    elif tests is not None:
        trainer.eval_dataset = kept(tests)


def with_logprobs(
    rows: Dataset, model: Any, collate: Collator, args: TrainingArguments, *, column: str
) -> Dataset:
    """Add a column: for each sequence the log-probabilities of its scored tokens.

    They are from ``model`` as it is now, in float32. The processes divide the rows and gather the
    results, so each process must call this. The column goes to a temporary file.
    """
    say(f"{column}: the model as it is now, over {len(rows):,} rows")
    batch_size, processes = args.per_device_eval_batch_size, args.world_size
    temperature = collate.objective.logits_temperature
    # Not accelerate's autocast: used before a model is prepared, it forgets to shard it later.
    half = torch.float16 if args.fp16 else torch.bfloat16
    mixed = torch.autocast(args.device.type, dtype=half, enabled=args.fp16 or args.bf16)
    found: list[tuple[int, list[int], Any]] = []
    with evaluating(model), torch.no_grad(), mixed:
        for start in range(args.process_index * batch_size, len(rows), processes * batch_size):
            part = [rows[index] for index in range(start, min(start + batch_size, len(rows)))]
            batch = {key: tensor.to(args.device) for key, tensor in collate.tensors(part).items()}
            logprobs = sequence_logprobs(model, batch, temperature=temperature)
            values = iter(logprobs.by_sequence())
            for index, row in enumerate(part, start):
                own = [next(values) for _ in row["input_ids"]]
                found.append((index, [*map(len, own)], torch.cat(own).cpu().numpy()))
    if processes > 1:
        found = gather_object(found)
    found.sort(key=lambda one: one[0])
    tokens = [n for _, sizes, _ in found for n in sizes]
    flat = pa.array(np.concatenate([values for *_, values in found]))
    sequences = pa.ListArray.from_arrays([0, *accumulate(tokens)], flat)
    ends = accumulate(len(sizes) for _, sizes, _ in found)
    table = pa.table({column: pa.ListArray.from_arrays([0, *ends], sequences)})
    path = Path(get_temporary_cache_files_directory()) / f"{uuid4()}.arrow"
    schema = Features({column: List(List(Value("float32")))}).arrow_schema
    with pa.ipc.new_stream(path, schema) as writer:
        writer.write_table(table.cast(schema))
    return concatenate_datasets([rows, Dataset.from_file(str(path))], axis=1)
