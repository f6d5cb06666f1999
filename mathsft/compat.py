"""What is read of other libraries beyond what they publish: why, and until when."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars


def dataset_fingerprint(rows: Any) -> str:
    """The hash that `datasets` keeps of how a data set was made.

    `Dataset.map` names its files by it, and takes a new one from us, since it cannot tell one
    tokenizer from another after a call has changed its padding. Until it is a public property.
    """
    return str(rows._fingerprint)


def attention_of(config: Any) -> str | None:
    """The attention implementation that a model of this configuration computes with.

    transformers sets it by `set_attn_implementation` and has no public way to ask for it. Until it
    has.
    """
    return getattr(config, "_attn_implementation", None)


def commit_of(config: Any) -> str | None:
    """The commit of the hub that a configuration was read from; None for a folder.

    transformers keeps it to download the weights of the same commit. Until it is public.
    """
    return getattr(config, "_commit_hash", None)


def keep_requests(task: Any, kept: list[Any]) -> None:
    """Leave a task of lm-evaluation-harness the requests in ``kept``, of those that it has made.

    `Task.instances` can only be read. Until requests can be shared out by an argument.
    """
    task._instances = kept


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Attributes of another library's module, class or object, which have other values inside.

    For what lm-evaluation-harness does at fixed places and has no argument for. Until it has.
    """
    before = {name: vars(owner).get(name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                delattr(owner, name)  # it was the class's
            else:
                setattr(owner, name, value)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """No bar of `datasets` for what takes a second; they are switched for the whole process."""
    off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not off:
            enable_progress_bars()
