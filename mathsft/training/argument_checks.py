"""Arguments of transformers that would fail only when training starts: checked when it is made."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.optimization import get_scheduler
from transformers.utils.import_utils import is_liger_kernel_available

from mathsft.checks import unknown_name
from mathsft.told import advice

_ORDERS = ("random", "sequential", "group_by_length", "batch_rebalance")
# Settings that name a JSON file, and the package that reads it, if it is an extra one.
_FILES = {"deepspeed": "deepspeed", "fsdp_config": "", "accelerator_config": ""}


def check_evaluation(given: Mapping[str, Any], *, rows: Any) -> None:
    """Raise ValueError for a setting that evaluates, if there are no rows to evaluate.

    Args:
        given: the trainer's arguments.
        rows: what would be evaluated, or None.
    """
    evaluates = str(getattr(given.get("eval_strategy"), "value", given.get("eval_strategy")))
    asks = {
        "eval_strategy": evaluates not in ("None", "no"),
        "eval_on_start": bool(given.get("eval_on_start")),
    }
    for name, asked in asks.items():
        if asked and rows is None:
            raise ValueError(
                f"{name} needs rows to evaluate: give "
                + advice(
                    python="eval_rows (of sft_trainer and multiple_choice_trainer eval_problems)",
                    line="a test set (--test.source FILE)",
                )
                + f", or leave {name} out"
            )
    if not asks["eval_strategy"]:
        best = {
            "load_best_model_at_end": bool(given.get("load_best_model_at_end")),
            "save_strategy=best": given.get("save_strategy") == "best",
        }
        for name in (name for name, asked in best.items() if asked):
            raise ValueError(f"{name} needs evaluations: give eval_strategy, steps or epoch")


def trainer_arguments(model: Any, given: Mapping[str, Any]) -> TrainingArguments:
    """`transformers.TrainingArguments`, with the errors that otherwise come after ``train()``.

    Args:
        model: what will be trained: some optimisers look at its layers.
        given: from `mathsft.training.arguments.training_arguments`.

    Raises ImportError for a package that is missing, ValueError for a wrong setting of the
    optimiser or the scheduler, or an ``output_dir`` that is a file, and FileNotFoundError for a
    configuration that is not there.
    """
    folder = Path(given["output_dir"])
    if any(place.is_file() for place in (folder, *folder.parents)):
        raise ValueError(f"{folder} is a file, or lies below one: give a folder as output_dir")
    if given.get("use_liger_kernel") and not is_liger_kernel_available():
        raise ImportError(
            "use_liger_kernel: the package liger-kernel is not installed: pip install "
            "liger-kernel, or leave the setting out"
        )
    for name, package in _FILES.items():
        value = given.get(name)
        if value and package and find_spec(package) is None:
            raise ImportError(f"{name}: the package is not installed: pip install {package}")
        named = isinstance(value, str) and not value.lstrip().startswith("{")
        if named and value and not Path(str(value)).is_file():
            raise FileNotFoundError(f"{name}: there is no file {value} (looked from {Path.cwd()})")
    if given.get("fsdp_config") and not given.get("fsdp"):
        raise ValueError("fsdp_config changes nothing without fsdp: give fsdp=true as well")
    if given.get("dataloader_persistent_workers") and not given.get("dataloader_num_workers"):
        raise ValueError("dataloader_persistent_workers needs dataloader_num_workers, 1 or more")
    if given.get("push_to_hub") and not given.get("hub_token"):
        from huggingface_hub import get_token

        if get_token() is None:
            raise ValueError("push_to_hub needs a token: set HF_TOKEN, or run hf auth login")
    if "underflow_overflow" in str(given.get("debug")):
        raise ValueError(
            "debug=underflow_overflow watches a whole pass of the model, which these trainers do "
            "not make: leave it out. A loss or gradient that is not finite stops them anyway"
        )
    order = given.get("train_sampling_strategy")
    if order is not None and order not in _ORDERS:
        raise ValueError(unknown_name("train_sampling_strategy", str(order), _ORDERS))
    arguments = TrainingArguments(**given)
    optim = str(getattr(arguments.optim, "value", arguments.optim))
    with _named(
        f"optim={optim!r}", given.get("optim_args") and f"optim_args={given['optim_args']!r}"
    ):
        Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    kind = str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type))
    further: Any = arguments.lr_scheduler_kwargs or {}
    with _named(f"lr_scheduler_type={kind!r}", further and f"lr_scheduler_kwargs={further!r}"):
        get_scheduler(
            kind,
            optimizer=torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0),
            num_warmup_steps=1,
            num_training_steps=10,
            scheduler_specific_kwargs=dict(further),
        )
    return arguments


@contextmanager
def _named(*settings: Any) -> Iterator[None]:
    """Errors begin with the settings that caused them."""
    try:
        yield
    except (ImportError, ValueError, TypeError, RuntimeError) as error:
        kind = ImportError if isinstance(error, ImportError) else ValueError
        raise kind(f"{', '.join(filter(None, settings))}: {error}") from error
