"""The second model that some objectives compare with: the model as it was before training."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from accelerate.utils import gather_object
from datasets import Dataset, Features, List, Value
from peft import PeftModel
from torch import Tensor

from mathsft.models.adapter_checks import adapter_effect, adapter_off
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.models.modes import evaluating
from mathsft.objectives.base import Objective

Reference = Literal["adapter_off", "before_training"]


def choose_reference(
    model: Any, objective: Objective, *, asked_for: Reference | None = None
) -> Reference | None:
    """How the reference of an objective is computed; None if it needs none.

    "adapter_off" if the adapter is fresh: it changes nothing yet. One that was trained already
    does, and a model without an adapter changes in training: then the log-probabilities are
    computed before training. Raises ValueError if what is asked for cannot be had.
    """
    if not objective.needs_reference:
        if asked_for:
            raise ValueError(f"reference={asked_for!r}: {objective.name} compares with none")
        return None
    if asked_for not in (None, *get_args(Reference)):
        raise ValueError(f"reference={asked_for!r}: give {' or '.join(get_args(Reference))}")
    if asked_for == "adapter_off" and not isinstance(model, PeftModel):
        raise ValueError("reference='adapter_off': the model has no adapter to switch off")
    if asked_for:
        return asked_for
    if not isinstance(model, PeftModel) or _trains_its_base(model):
        return "before_training"
    try:
        adapter_effect(model)
    except ValueError as nothing:
        if "does nothing" not in str(nothing):
            raise
        return "adapter_off"
    return "before_training"


def _trains_its_base(model: PeftModel) -> bool:
    """Whether weights are trained that switching the adapter off does not switch off."""
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


def kept_reference(batch: Mapping[str, Tensor], logprobs: SequenceLogprobs) -> SequenceLogprobs:
    """What `with_reference` kept for a batch. Raises ValueError for rows without it."""
    if "reference" not in batch:
        raise ValueError(
            "these rows have no log-probabilities of the model before training: give them as "
            "eval_rows when the trainer is made"
        )
    return replace(logprobs, values=batch["reference"], likeliest=None, _logits=None)


def with_reference(
    rows: Dataset,
    score: Callable[[Sequence[Mapping[str, Any]]], SequenceLogprobs],
    *,
    batch_size: int,
    process: int,
    processes: int,
) -> Dataset:
    """``rows`` with a column ``reference``: for each sequence its scored tokens' log-probabilities.

    ``score`` takes rows. Processes share them out and gather what they found, so each has to call
    it. Float32 is kept whole.
    """
    found: list[tuple[int, list[list[float]]]] = []
    shares = range(process * batch_size, len(rows), processes * batch_size)
    for start in shares:
        indices = range(start, min(start + batch_size, len(rows)))
        part = [rows[index] for index in indices]
        logprobs = score(part)
        values: list[list[float]] = [[] for _ in range(len(logprobs.tokens))]
        for index, value in zip(logprobs.sequence.tolist(), logprobs.values.tolist(), strict=True):
            values[index].append(value)
        sequences = iter(values)
        for index, row in zip(indices, part, strict=True):
            found.append((index, [next(sequences) for _ in row["input_ids"]]))
    if processes > 1:
        found = gather_object(found)
    kept = [values for _, values in sorted(found)]
    column = Dataset.from_dict(
        {"reference": kept}, features=Features({"reference": List(List(Value("float32")))})
    )
    return rows.add_column(
        "reference", column["reference"][:], feature=column.features["reference"]
    )
