"""Objectives: what a model is trained to do. Each module has one, or a family of them."""

import hashlib
import inspect
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from mathsft.checks import unknown_name


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
    """The objective class of this name. An unknown name raises ValueError with the nearest."""
    known = objective_classes()
    if name not in known:
        raise ValueError(unknown_name("objective", name, known))
    return known[name]


def check_objective(objective: Any) -> None:
    """Raise ValueError if this is not an objective, or if a setting is not a dataclass field.

    The fields give the settings that identify a run and name its files.
    """
    from mathsft.objectives.base import Objective

    if not isinstance(objective, Objective):
        raise ValueError(
            f"objective: expected an instance, such as SFT() or DPO(beta=0.1), found {objective!r}"
        )
    kind = type(objective)
    if not getattr(kind, "name", ""):
        raise ValueError(f'the objective {kind.__name__} has no name: give it name = "…"')
    settings = {field.name for field in fields(objective)}
    for parent in kind.__mro__:
        for name, hint in vars(parent).get("__annotations__", {}).items():
            if name not in settings and "ClassVar" not in str(hint):
                raise ValueError(
                    f"{name} of the objective {parent.__name__} is not a setting: put "
                    "@dataclass(frozen=True) above the class"
                )


def definition(objective: Any) -> str:
    """The objective's name; for a class from outside the package, also a hash of its code.

    A class in a notebook may be edited and its cell run again; that makes another run.
    """
    digest, own = hashlib.sha256(), False
    for kind in _foreign(objective):
        own = True
        try:
            digest.update(inspect.getsource(kind).encode())
        except (OSError, TypeError):  # typed into a shell, which keeps no source
            digest.update(repr(sorted(vars(kind))).encode())
    code = f" (class {type(objective).__qualname__}, code {digest.hexdigest()[:12]})"
    return str(objective.name) + code * own


def tokenises_as_here(objective: Any) -> bool:
    """Whether only the package's code makes the groups, so that they can be stored and reused."""
    tokenising = {"groups", "length", "drop_long", "columns"}
    return not any(tokenising & vars(kind).keys() for kind in _foreign(objective))


def _foreign(objective: Any) -> Iterator[type]:
    for kind in type(objective).__mro__[:-1]:
        if not kind.__module__.startswith("mathsft."):
            yield kind
