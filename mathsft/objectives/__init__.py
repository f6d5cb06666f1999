"""Objectives: what a model is trained to do. Each module has one, or a family of them."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from mathsft.names import unknown_name


def objective_classes() -> dict[str, Any]:
    """The objectives of this folder by name, found by importing all of its modules."""
    from mathsft.objectives.base import Objective

    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    found: dict[str, Any] = {}
    waiting = list(Objective.__subclasses__())
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        if "name" in vars(one) and one.__module__.startswith(f"{__name__}."):
            found[one.name] = one
    return dict(sorted(found.items()))


def objective_class(name: str) -> Any:
    """The objective of a name. Raises ValueError for an unknown one, with the nearest."""
    known = objective_classes()
    if name not in known:
        raise ValueError(unknown_name("objective", name, known))
    return known[name]
