"""Lay out the next batch while the model computes: a GPU should not wait for Python."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
_END: Any = object()


@contextmanager
def made_ahead(
    items: Iterable[Item], *, device: str | torch.device = "cuda"
) -> Iterator[Iterator[Item]]:
    """Within the ``with`` block, an iterator over ``items`` that makes one item ahead in a thread.

        with made_ahead(laid_out(groups), device=model.device) as batches:
            for batch in batches:
                ...

    Args:
        items: usually a generator; the thread runs its code. While the block works on one item,
            the next one is made, and no more.
        device: where the model computes. On anything but CUDA, items are made when they are asked
            for, without a thread: a model on a CPU needs the cores itself.

    The items and their order are the same either way. An error in making an item is raised when
    the block asks for that item. The thread has ended when the block is left, for whatever reason.
    """
    iterator = iter(items)
    if torch.device(device).type != "cuda":
        yield iterator
        return
    with ThreadPoolExecutor(1, thread_name_prefix="made_ahead") as thread:

        def each() -> Iterator[Item]:
            coming = thread.submit(next, iterator, _END)
            while (item := coming.result()) is not _END:
                coming = thread.submit(next, iterator, _END)
                yield item

        yield each()
