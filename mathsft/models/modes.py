"""Restore a model after temporary use: its mode, its configurations, its tied weights.

Also the global random state, which code that uses a model may change.
"""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig

from mathsft.compat import ACCELERATE_MARKS
from mathsft.models.pretrained import stay_trainable


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Restore the state of ``model`` at the end, also after an error.

    The state is: the mode of each module (a user may have put one in eval mode by hand), a
    ``forward`` that replaces that of its class, which parameters are trained, the configuration,
    and the generation configuration. Libraries change all of them: transformers' Trainer sets
    ``use_cache`` and the special tokens, TRL replaces ``forward``, the evaluation harness switches
    to eval mode. (Hooks need not be restored: the package removes every hook that it adds.)
    """
    modes = [(module, module.training, vars(module).get("forward")) for module in model.modules()]
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    generation = getattr(inner, "generation_config", None)
    settings = [remembered(getattr(inner, "config", None)), remembered(generation)]
    try:
        yield
    finally:
        if generation is not None:
            inner.generation_config = generation
        for restore in settings:
            restore()
        for parameter, flag in trained:
            parameter.requires_grad_(flag)
        for module, mode, forward in modes:
            module.training = mode
            vars(module).pop("forward", None)
            if forward is not None:
                vars(module)["forward"] = forward


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode (no dropout) inside; restore it afterwards (`restored`)."""
    with restored(model):
        stay_trainable(model)  # needed if load_model did not load it
        model.eval()
        yield


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Switch dropout off inside, also in training mode."""
    layers = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    rates = [layer.p for layer in layers]
    for layer in layers:
        layer.p = 0.0
    try:
        yield
    finally:
        for layer, rate in zip(layers, rates, strict=True):
            layer.p = rate


def remembered(config: Any) -> Callable[[], None]:
    """Remember a configuration's values; the returned function writes them back in place.

    In place, because modules refer to the same object and to its parts, such as ``text_config``.
    """
    if config is None:
        return lambda: None
    parts = {k: v for k, v in vars(config).items() if isinstance(v, PreTrainedConfig)}
    values = {k: copy.deepcopy(v) for k, v in vars(config).items() if k not in parts}
    inner = [remembered(part) for part in parts.values()]

    def restore() -> None:
        vars(config).clear()
        vars(config).update({**values, **parts})
        for each in inner:
            each()

    return restore


def checkpoints_activations(model: nn.Module) -> bool:
    """Return whether gradient checkpointing is on."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


@contextmanager
def checkpointing_restored(model: Any, *, before: bool) -> Iterator[None]:
    """Switch gradient checkpointing off at the end if it was off ``before``.

    This also removes the hook that TRL adds for adapters. It lets gradients pass through a frozen
    embedding (``PreTrainedModel.enable_input_require_grads``).
    """
    try:
        yield
    finally:
        if checkpoints_activations(model) and not before:
            # transformers 5.23 calls it activation checkpointing.
            off = getattr(model, "activation_checkpointing_disable", None)
            (off or model.gradient_checkpointing_disable)()
            model.disable_input_require_grads()


@contextmanager
def ties_untouched(model: nn.Module) -> Iterator[None]:
    """Make ``model.tie_weights()`` do nothing inside.

    The evaluation harness calls it on every model that it gets. Training may have made the
    embedding different from the output head that it was tied to (``modules_to_save``). With that
    call, other weights than the trained ones would be scored, and stay in the model.
    """
    vars(model)["tie_weights"] = lambda *_, **__: None
    try:
        yield
    finally:
        del vars(model)["tie_weights"]


@contextmanager
def forward_restored(model: Any) -> Iterator[None]:
    """Restore ``model.forward`` at the end: accelerate wraps it in autocast permanently.

    Otherwise scores after training would use another precision than those before it.
    (`accelerator.unwrap_model(keep_fp32_wrapper=False)` would also remove the model's own
    decorators.) accelerate's mark is removed too, or the next run would not be wrapped.
    """
    names = ("forward", *ACCELERATE_MARKS)
    before = {name: model.__dict__.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            model.__dict__.pop(name, None)
            if value is not None:
                model.__dict__[name] = value


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the global generators of Python, NumPy and PyTorch at the end.

    The evaluation harness seeds them, and a data loader draws from PyTorch's whenever it starts.
    Otherwise the dropout of a training run would depend on whether an evaluation came before it.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
