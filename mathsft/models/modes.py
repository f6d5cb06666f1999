"""A model that is lent comes back unchanged: its mode, its configurations, its tied weights."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from mathsft.models.pretrained import stay_trainable


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Give ``model`` its state back in the end, also after an error.

    The state is: the mode of each module (one may have been frozen in eval mode by hand), a
    ``forward`` that is put in its class's place, which parameters are trained, the configuration,
    and the generation configuration. Libraries write into all of them: transformers' Trainer sets
    ``use_cache`` and the special tokens, TRL replaces ``forward``, the evaluation harness switches
    to eval mode.
    (In the package, nothing adds a hook that it does not remove.)
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
    """``model`` in eval mode (no dropout) inside; `restored` after."""
    with restored(model):
        stay_trainable(model)  # also one that load_model did not load
        model.eval()
        yield


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """No dropout inside, also in training mode."""
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
    """Note a configuration's values; the function that is returned writes them back in place.

    In place, because modules hold the same object, and its parts, such as ``text_config``.
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
    """Whether gradient checkpointing is on."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


@contextmanager
def checkpointing_restored(model: Any, *, before: bool) -> Iterator[None]:
    """Switch gradient checkpointing off in the end if it was off ``before``.

    The hook goes with it that lets gradients pass a frozen embedding (``PreTrainedModel.
    enable_input_require_grads``), which TRL adds for adapters.
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
    """Let ``model.tie_weights()`` do nothing inside.

    The evaluation harness calls it on every model that it gets. Training may have moved the
    embedding apart from the output head that it was tied to (``modules_to_save``); the call would
    then score other weights than those that were trained, and leave them in the model.
    """
    vars(model)["tie_weights"] = lambda *_, **__: None
    try:
        yield
    finally:
        del vars(model)["tie_weights"]


@contextmanager
def forward_restored(model: Any) -> Iterator[None]:
    """accelerate wraps ``model.forward`` in autocast for good: give the model its own back.

    Otherwise scores after training come from another precision than those before it.
    (`accelerator.unwrap_model(keep_fp32_wrapper=False)` would strip the model's own
    decorators as well.) The mark goes too, or the next training would not be wrapped.
    """
    names = ("forward", "_original_forward", "_is_accelerate_prepared")
    before = {name: model.__dict__.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            model.__dict__.pop(name, None)
            if value is not None:
                model.__dict__[name] = value
