"""Training arguments that all trainers share, whatever they train."""

import sys
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
from mathsft.told import advice

# Settings of transformers that our trainers never read, and what to use instead.
_NO_EFFECT = {
    "label_smoothing_factor": "the loss is the exact log-likelihood",
    "resume_from_checkpoint": "pass it to train(), or on the command line give --resume true",
    "do_train": "train() starts training",
    "do_eval": "eval_strategy says when to evaluate",
    "do_predict": "the trainer makes no predictions",
    **dict.fromkeys(
        ("torch_compile", "torch_compile_backend", "torch_compile_mode"),
        "use compile, which compiles the decoder layers",
    ),
}
# Settings of TRL's `SFTConfig` that users may know, and what to use instead.
_TRL_INSTEAD = {
    "completion_only_loss": "use train_on_prompt",
    "assistant_only_loss": "in rows with messages only assistant turns are trained",
    "chat_template_path": "it is an argument of load_model, and a key of a recipe's section model",
    "eos_token": "the tokenizer's own is used, or the chat template's",
    "pad_token": "the tokenizer's own is used",
    "model_init_kwargs": "use the arguments of load_model, or a recipe's section model",
    "eval_packing": "use packing",
    "loss_type": "the objective has its own loss",
    "max_seq_length": "use max_length",
    "dataset_text_field": "the objective tokenizes the rows",
    "dataset_kwargs": "the objective tokenizes the rows",
    "dataset_num_proc": "the objective tokenizes the rows",
    "packing_strategy": "rows are packed by the best fit over the whole data set",
    "padding_free": "use packing",
    "pad_to_multiple_of": "a batch is padded to its longest row",
    "truncation_mode": "what is longer than max_length is dropped and counted",
    "shuffle_dataset": "rows are shuffled by seed",
    "activation_offloading": "use gradient_checkpointing",
}


def refused_arguments() -> dict[str, str]:
    """Arguments of `TrainingArguments`, or of TRL's `SFTConfig`, that would change nothing here.

    Maps each name to its explanation. They are neither options nor keys of a recipe.
    """
    return {**_NO_EFFECT, **_TRL_INSTEAD}


def refuse_arguments(given: Iterable[str]) -> None:
    """Raise ValueError for an argument that would change nothing, TypeError for an unknown one."""
    known = refused_arguments()
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

    They are ``named`` and what all our trainers need: precision and optimiser for the model's
    device (`mathsft.device.device_defaults`), trackers that ask no questions
    (`mathsft.settings.prepare_tracking`), and batches that stay unchanged and, if the model is on
    a GPU, are laid out by another process while it works (``dataloader_num_workers`` 1).

    Raises ValueError if the model has nothing to train, is in 4 bits without an adapter, has
    4-bit layers without a gradient, or would train weights in half precision; if its adapter
    could not be saved and loaded again (`mathsft.models.saving`); if its attention cannot use our
    mask, or does not keep the sequences of a row apart (`mathsft.models.isolation`); if
    ``remove_unused_columns`` is set; or for a number that makes no sense (`mathsft.checks`).
    """
    check_numbers({**named, "per_device_train_batch_size": per_device_train_batch_size})
    if named.get("remove_unused_columns"):
        raise ValueError("remove_unused_columns=True would remove needed columns: leave it out")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "the model has no trainable parameter: freeze less of it, or load it with "
            + advice(python="lora=True", line="--model.lora true")
        )
    if getattr(model, "is_quantized", False) and not has_adapter(model):
        raise ValueError(
            "4-bit weights have no gradient, so most of this model cannot be trained: load it with "
            + advice(python="lora=True", line="--model.lora true")
            + ", or without quantize to train all of it"
        )
    _check_precision(model)
    check_trainable(model)
    if has_adapter(model):
        check_saveable(model)
    check_isolation(model)  # now, not only in the first step
    home = next(model.parameters()).device
    capability = torch.cuda.get_device_capability(home) if home.type == "cuda" else None
    device = device_defaults(capability, adapter=has_adapter(model)).trainer_arguments()
    if optim is not None:
        device["optim"] = optim
    prepare_tracking(named.get("report_to", "none"), named["output_dir"])
    if named.pop("activation_checkpointing", None):  # transformers' newer name for it
        named["gradient_checkpointing"] = True
    return {
        "per_device_train_batch_size": per_device_train_batch_size,
        "per_device_eval_batch_size": per_device_train_batch_size,
        "ddp_find_unused_parameters": False,  # every pass uses all trained weights
        "logging_nan_inf_filter": False,  # it would show the last finite loss instead of nan
        "remove_unused_columns": False,
        "dataloader_pin_memory": not device["use_cpu"],
        "dataloader_num_workers": _workers(home),
        **device,
        **named,
    }


def _workers(home: torch.device) -> int:
    """How many processes lay out the next batches while a GPU works: 1, or none.

    A batch is a token forest with its positions and its mask, made in Python. A thread would take
    turns with the one that launches kernels. A forked process starts in milliseconds and shares
    the rows; it is started anew in each epoch and evaluation, so that none outlives a training. (A
    persistent one does, and from the second epoch on dropout drops other elements.)
    Elsewhere it would have to import everything again (Windows, macOS, Python's newer default on
    Linux), and on a CPU it would take a core from the training.
    """
    import multiprocessing

    default = multiprocessing.get_all_start_methods()[0]
    how = multiprocessing.get_start_method(allow_none=True) or default
    forks = sys.platform == "linux" and how == "fork"
    return int(home.type == "cuda" and forks and not multiprocessing.current_process().daemon)


def _check_precision(model: Any) -> None:
    """Raise ValueError if weights that should be trained are in half precision.

    bfloat16 keeps 8 bits of a number: a step of less than 1/512 of a weight is rounded away,
    and at the learning rates of full fine-tuning most steps are smaller. float16 gradients need
    GradScaler, which refuses to unscale float16. Adapters are always float32, for the same
    reasons. The trainers multiply in half precision if the device has it (`device_defaults`).
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            why = {
                torch.float16: "GradScaler cannot unscale float16 gradients",
                torch.bfloat16: "steps below 1/512 of a weight are rounded away",
            }[parameter.dtype]
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(
                f"{name} would be trained in {kind}: {why}. Load the model with "
                + advice(python="dtype='float32'", line="--model.dtype float32")
                + " to train its own weights (it still computes in half precision if the device "
                "has it), or with " + advice(python="lora=True", line="--model.lora true")
            )


def reasons(dropped: Mapping[str, int]) -> str:
    """What was dropped and why, for a printed line: ``3 too long, 1 without a label``."""
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.items()) or "none"


@contextmanager
def renaming_notices_off() -> Iterator[None]:
    """Hide a warning: TRL and PEFT use `gradient_checkpointing`, renamed in transformers 5.23."""
    with warnings.catch_warnings():
        message = "`.*gradient_checkpointing.*` is deprecated"
        warnings.filterwarnings("ignore", message, FutureWarning)
        yield
