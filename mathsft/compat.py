"""Where the package uses private parts of other libraries: why, and until when."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

# Methods of other libraries' classes that start with an underscore, and that our subclasses
# override or call, because no public method does the same: why, and until when. A test compares
# this list with the code.
HOOKS = {
    "_save_checkpoint": "transformers.Trainer: a manifest, the run's record and rotation go with "
    "each checkpoint. Until callbacks run before a checkpoint is written and can undo it",
    "_load_from_checkpoint": "transformers.Trainer: peft only warns about missing keys, so the "
    "adapter is compared after loading. Until it raises",
    "_load_best_model": "transformers.Trainer: a finished run gives back its best weights without "
    "training. Until resuming a finished run does so",
    "_load_optimizer_and_scheduler": "transformers.Trainer: torch cannot load to the device "
    "cpu:0. Until the Trainer names it cpu",
    "_save_rng_state": "transformers.Trainer: a checkpoint keeps the attempts of its step, in each "
    "process. Until a checkpoint can be given further state for each process",
    "_get_dataloader": "transformers.Trainer: several processes need rows that fill the last "
    "batch. Until a data loader can be given",
    "_get_train_sampler": "transformers.Trainer: as `_get_dataloader`",
    "_get_eval_sampler": "transformers.Trainer: as `_get_dataloader`",
    "_prepare_inputs": "transformers.Trainer: a step of evaluation puts its batch on the device. "
    "Until `prediction_step` is called with it there",
    "_loglikelihood_tokens": "lm_eval's TemplateLM: the abstract method that scores requests; "
    "subclasses must define it. For good",
    "_model_generate": "lm_eval's HFLM: logits that are not finite must not become answers. Until "
    "generation takes logits processors",
    "_constructor": "pandas.DataFrame: its documented way to keep the kind of a table if rows are "
    "picked. For good",
    "_repr_html_": "pandas.DataFrame: IPython's name for what a notebook shows. For good",
}
# What accelerate leaves on a model that it has wrapped. Until it can take a wrapper off again.
ACCELERATE_MARKS = ("_original_forward", "_is_accelerate_prepared")


def use_plain_cpu(arguments: Any) -> None:
    """Let training arguments name the CPU "cpu": torch cannot load an optimiser to "cpu:0".

    `TrainingArguments.device` can only be read. Until torch can.
    """
    if arguments.device.type == "cpu":
        vars(arguments)["_setup_devices"] = torch.device("cpu")


@contextmanager
def optimizer_overrides_released(model: torch.nn.Module) -> Iterator[None]:
    """Take back what transformers tells bitsandbytes about this model in this block.

    For an 8-bit optimiser, `Trainer` asks bitsandbytes to keep the states of each `nn.Embedding` in
    32 bits, also of one that is frozen. bitsandbytes' `GlobalOptimManager` then holds the module,
    with its weights, until the process ends. It also applies the setting to the parameter at the
    same place in a later optimiser. What was there before, or is about other modules, stays.
    An optimiser that has taken its first step does not read these settings again, except for
    parameters without a state. Needed until bitsandbytes forgets modules that nothing else uses.
    """
    manager = _optim_manager()
    before = list(manager.module_weight_config_triple) if manager else []
    former = [dict(manager.pid2config), dict(manager.index2config)] if manager else [{}, {}]
    try:
        yield
    finally:
        manager = _optim_manager()
        if manager is not None:
            entries = manager.module_weight_config_triple
            known, own = {id(entry) for entry in before}, {id(module) for module in model.modules()}
            ours = [e for e in entries if id(e) not in known and id(e[0]) in own]
            entries[:] = [entry for entry in entries if not any(entry is one for one in ours)]
            configs = {id(config) for _, _, config in ours}
            for table, old in zip([manager.pid2config, manager.index2config], former, strict=True):
                for key in [key for key, config in table.items() if id(config) in configs]:
                    del table[key]
                    if key in old:
                        table[key] = old[key]


def _optim_manager() -> Any:
    """bitsandbytes' registry of settings for single parameters; None if it is not loaded."""
    library = sys.modules.get("bitsandbytes")
    return library.optim.GlobalOptimManager.get_instance() if library else None


def dataset_fingerprint(rows: Any) -> str:
    """The hash that `datasets` keeps of how a data set was made.

    `Dataset.map` names its files by it. We pass a new one, made from this one, since `Dataset.map`
    cannot identify a tokenizer after a call has changed its padding. Needed until it is public.
    """
    return str(rows._fingerprint)


def attention_of(config: Any) -> str | None:
    """The attention implementation that a model with this configuration uses.

    transformers sets it by `set_attn_implementation` and has no public way to read it. Needed until
    it has one.
    """
    return getattr(config, "_attn_implementation", None)


def commit_of(config: Any) -> str | None:
    """The hub's commit that a configuration was read from; None for a folder.

    transformers keeps it to download the weights of the same commit. Needed until it is public.
    """
    return getattr(config, "_commit_hash", None)


def set_rank(lm: Any, rank: int, world_size: int) -> None:
    """Tell a model of lm-evaluation-harness which of several processes it is in.

    Its `rank` and `world_size` can only be read, and are set only for models that it loads itself.
    Needed until they can be given.
    """
    lm._rank, lm._world_size = rank, world_size


def keep_requests(task: Any, kept: list[Any]) -> None:
    """Keep only the requests in ``kept`` of those that a task of lm-evaluation-harness has made.

    `Task.instances` is read-only. Needed until an argument can divide requests among processes.
    """
    task._instances = kept


def compile_errors() -> tuple[type[Exception], ...]:
    """The errors of `torch.compile`, such as without Triton or a C++ compiler.

    They are defined in a private module. Until torch documents them.
    """
    from torch._dynamo.exc import TorchDynamoException  # it is slow to import

    return (TorchDynamoException,)


def sizes_apart() -> Any:
    """A context in which `torch.compile` does not take equal sizes for one and the same.

    Otherwise code that was compiled for a row as long as the hidden size serves no other row. The
    switch is in a private module. Until torch documents one.
    """
    from torch.fx.experimental import _config

    settings: Any = _config
    return settings.patch(use_duck_shape=False)


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Give attributes of another library's module, class or object other values in this block.

    For steps of lm-evaluation-harness that no argument can change. Needed until one can.
    """
    before = {name: vars(owner).get(name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                delattr(owner, name)  # it was an attribute of the class
            else:
                setattr(owner, name, value)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide the progress bars of `datasets`, in the whole process, for work that takes a second."""
    off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not off:
            enable_progress_bars()
