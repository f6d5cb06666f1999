"""Where the package uses private parts of other libraries: why, and until when."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars


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


def keep_requests(task: Any, kept: list[Any]) -> None:
    """Keep only the requests in ``kept`` of those that a task of lm-evaluation-harness has made.

    `Task.instances` is read-only. Needed until an argument can divide requests among processes.
    """
    task._instances = kept


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
