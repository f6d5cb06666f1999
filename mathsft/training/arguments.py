"""What the trainers are given alike, whatever they train."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from transformers import TrainingArguments

from mathsft.checks import check_numbers, unknown_name
from mathsft.device import device_defaults
from mathsft.models.adapter_checks import has_adapter
from mathsft.models.isolation import check_isolation
from mathsft.models.pretrained import check_trainable
from mathsft.models.saving import check_saveable
from mathsft.settings import prepare_tracking

# Settings of transformers' that our trainers' loss or loop never reads, and what to take instead.
_UNHEEDED = {
    "label_smoothing_factor": "the loss is the exact log-likelihood",
    "resume_from_checkpoint": "it goes to train(), or on the command line --resume true",
    "do_train": "the trainer trains by train()",
    "do_eval": "eval_strategy says when there is evaluation",
    "do_predict": "rows give no predictions",
}
# And what users of TRL's `SFTConfig` know, with what to take instead.
_TRL_INSTEAD = {
    "completion_only_loss": "train_on_prompt",
    "assistant_only_loss": "rows with messages are trained on assistant turns alone",
    "chat_template_path": "load_model(..., chat_template_path=…)",
    "eos_token": "the tokenizer's own, or the chat template's",
    "pad_token": "the tokenizer's own",
    "model_init_kwargs": "the arguments of load_model",
    "eval_packing": "packing",
    "loss_type": "the loss is the objective's own",
    "max_seq_length": "max_length",
    "dataset_text_field": "the rows are tokenized by the objective",
    "dataset_kwargs": "the rows are tokenized by the objective",
    "dataset_num_proc": "the rows are tokenized by the objective",
    "packing_strategy": "rows are packed by the best fit over the whole data set",
    "padding_free": "packing",
    "pad_to_multiple_of": "a batch is padded to its longest row",
    "truncation_mode": "what is longer than max_length is dropped and counted",
    "shuffle_dataset": "rows are shuffled by seed",
    "activation_offloading": "gradient_checkpointing",
}


def unheeded() -> dict[str, str]:
    """Arguments of `TrainingArguments`, or of TRL's `SFTConfig`, that would change nothing here.

    By name, what is to be said of each. They are no options and no keys of a recipe.
    """
    return {**_UNHEEDED, **_TRL_INSTEAD}


def refuse_unheeded(given: Iterable[str]) -> None:
    """Raise ValueError for an argument that would be taken and change nothing, or is unknown."""
    known = unheeded()
    names = [field.name for field in fields(TrainingArguments)]
    for name in given:
        if name in known:
            raise ValueError(f"{name} would change nothing here: {known[name]}")
        if name not in names:
            raise TypeError(unknown_name("argument", name, names, shown=30))


def training_arguments(
    model: Any, *, optim: str | None = None, per_device_train_batch_size: int, **named: Any
) -> dict[str, Any]:
    """Keyword arguments for `transformers.TrainingArguments`.

    ``named`` and what every trainer of ours needs: precision and optimiser of the device
    that the model is on (`mathsft.device.device_defaults`), trackers that ask nothing
    (`mathsft.settings.prepare_tracking`), and batches left as they are.

    Raises ValueError where the model has nothing to train, is in 4 bits without an adapter, has
    4-bit layers without a gradient, or weights to train in half precision; for an adapter that
    could not be saved and loaded again (`mathsft.models.saving`); where it cannot be
    told who sees whom in a row or does not keep to it, where ``remove_unused_columns`` is
    asked for, or for a number that cannot be meant (`mathsft.checks`).
    """
    check_numbers({**named, "per_device_train_batch_size": per_device_train_batch_size})
    if named.get("remove_unused_columns"):
        raise ValueError("remove_unused_columns=True would take the batch away: leave it out")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "the model has no trainable parameter: load it with lora=True, or freeze less of it"
        )
    if getattr(model, "is_quantized", False) and not has_adapter(model):
        raise ValueError(
            "4-bit weights have no gradient, so that most of this model cannot be trained: load "
            "it with lora=True, or without quantize to train all of it"
        )
    _check_precision(model)
    check_trainable(model)
    if has_adapter(model):
        check_saveable(model)
    check_isolation(model)  # now, not in the first step
    home = next(model.parameters()).device
    capability = torch.cuda.get_device_capability(home) if home.type == "cuda" else None
    device = device_defaults(capability).trainer_arguments()
    if optim is not None:
        device["optim"] = optim
    prepare_tracking(named.get("report_to", "none"), named["output_dir"])
    if named.pop("activation_checkpointing", None):  # transformers' newer name for it
        named["gradient_checkpointing"] = True
    return {
        "per_device_train_batch_size": per_device_train_batch_size,
        "per_device_eval_batch_size": per_device_train_batch_size,
        "ddp_find_unused_parameters": False,  # all that is trained is in every pass
        "logging_nan_inf_filter": False,  # it shows the last finite loss in place of a nan
        "remove_unused_columns": False,
        "dataloader_pin_memory": not device["use_cpu"],
        **device,
        **named,
    }


def _check_precision(model: Any) -> None:
    """Raise ValueError where weights that are to be trained are in half precision.

    bfloat16 keeps 8 bits of a number: a step of less than 1/512 of a weight is rounded away,
    and at the learning rates of full fine-tuning most steps are. float16's gradients want
    GradScaler, which refuses to unscale float16. Adapters are float32 always, for the same
    reasons; the trainers multiply in half precision where the device has it (`device_defaults`).
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            why = {
                torch.float16: "GradScaler cannot unscale float16 gradients",
                torch.bfloat16: "steps below 1/512 of a weight are rounded away",
            }[parameter.dtype]
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(
                f"{name} is to be trained in {kind}: {why}. Load the model with dtype='float32' "
                "to train its own weights (it still computes in half precision where the device "
                "has it), or with lora=True"
            )


def reasons(dropped: Mapping[str, int]) -> str:
    """``3 too long, 1 without a label``: what was dropped and why, for the line that is printed."""
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.items()) or "none"


@contextmanager
def renaming_notices_off() -> Iterator[None]:
    """TRL and PEFT still say `gradient_checkpointing`, which transformers 5.23 has renamed."""
    with warnings.catch_warnings():
        message = "`.*gradient_checkpointing.*` is deprecated"
        warnings.filterwarnings("ignore", message, FutureWarning)
        yield
