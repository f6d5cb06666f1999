"""Evaluation mode for as long as something is measured, and the former mode after that."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from mathsft.models.quantization import stay_trainable


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """``model`` in eval mode (no dropout) inside; its former mode again after, errors included."""
    training = model.training
    stay_trainable(model)  # also one that load_model did not load
    model.eval()
    try:
        yield
    finally:
        model.train(training)
