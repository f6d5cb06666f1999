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
    """The objective of a name. Raises ValueError for an unknown one, with the nearest."""
    known = objective_classes()
    if name not in known:
        raise ValueError(unknown_name("objective", name, known))
    return known[name]


def check_objective(objective: Any) -> None:
    """Raise ValueError for what is no objective, or one whose settings are not all its fields.

    Everything that names a run, its settings and its files, is read from the fields.
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
                    f"{name} of the objective {parent.__name__} is no setting: put "
                    "@dataclass(frozen=True) above the class"
                )


def definition(objective: Any) -> str:
    """The objective in words that change with its code, if that is not the package's.

    An own class of a notebook may be edited and its cell run again; that makes another run.
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
    """Whether the package's own code makes this objective's groups, so that they can be kept."""
    tokenising = {"groups", "length", "drop_long", "columns"}
    return not any(tokenising & vars(kind).keys() for kind in _foreign(objective))


def _foreign(objective: Any) -> Iterator[type]:
    for kind in type(objective).__mro__[:-1]:
        if not kind.__module__.startswith("mathsft."):
            yield kind
