"""Evaluation mode for as long as something is measured, and the former mode after that."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """``model`` in eval mode (no dropout) inside; its former mode again after, errors included."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
