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
