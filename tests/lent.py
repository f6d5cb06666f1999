"""The state of a model that a function must leave unchanged."""

import copy
from typing import Any

import torch

HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_state_dict_hooks", "_load_state_dict_pre_hooks",
)  # fmt: skip


def state_of(model: Any, *, trained: bool = True) -> dict[str, Any]:
    """Parameters, buffers, hooks, modes, `requires_grad`, both configurations, and logits.

    ``trained=False`` leaves out the values of trained parameters and the logits.
    """
    inner = getattr(model, "get_base_model", lambda: model)()
    modules = dict(model.named_modules())
    found = {
        "parameters": {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if trained or not parameter.requires_grad
        },
        "identities": {
            name: id(parameter)
            for name, parameter in model.named_parameters(remove_duplicate=False)
        },
        "buffers": {name: buffer.clone() for name, buffer in model.named_buffers()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "hooks": {n: [[*getattr(m, kind)] for kind in HOOKS] for n, m in modules.items()},
        "mode": {name: module.training for name, module in modules.items()},
        "checkpointing": {
            n: getattr(m, "gradient_checkpointing", None) for n, m in modules.items()
        },
        "forward": {name: "forward" in vars(module) for name, module in modules.items()},
        "config": copy.deepcopy(vars(inner.config)),
        "generation_config": copy.deepcopy(vars(inner.generation_config)),
    }
    if trained:
        ids = torch.arange(3, 19)[None] % inner.config.vocab_size
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for the dropout of modules in training mode
            found["logits"] = model(input_ids=ids, use_cache=False).logits
    return found


def assert_same(before: Any, after: Any, where: str = "") -> None:
    """Raise AssertionError with the path of the first difference."""
    if isinstance(before, dict):
        assert before.keys() == after.keys(), where
        for key, value in before.items():
            assert_same(value, after[key], f"{where}.{key}")
    elif isinstance(before, torch.Tensor):
        assert torch.equal(before, after), where
    else:
        assert before == after, (where, before, after)
