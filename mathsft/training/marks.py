"""What the weights of a model have been through in this process: a mark on the model.

A cell is interrupted and run again: it makes a new trainer around weights that have changed. The
mark says from which weights they were trained, and for how many steps.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathsft.settings import runs_folder

_MARK = "_mathsft_trained"


@dataclass(frozen=True)
class Mark:
    """The latest training of a model.

    Args:
        start: the hash of its weights before the run (`mathsft.training.runs.start_hash`).
        reached: the same when training ended or was stopped.
        folder: the run's folder.
        reference: the run's reference, if its objective has one.
        steps: optimiser steps from ``start`` to ``reached``.
        before: steps that ``start`` itself had been trained for.
    """

    start: str
    reached: str
    folder: Path
    reference: str | None
    steps: int
    before: int = 0


def mark_of(model: Any, weights: str) -> Mark | None:
    """The mark of a model, if its weights are still those that its training reached.

    Args:
        model: any.
        weights: the hash of its weights now.
    """
    mark = getattr(model, _MARK, None)
    return mark if mark is not None and mark.reached == weights else None


def set_mark(model: Any, mark: Mark) -> None:
    """Put a mark on a model, in place of the former one."""
    setattr(model, _MARK, mark)


def trained_already(mark: Mark) -> str:
    """The line for a training run that begins with weights that were trained before.

    Args:
        mark: that of the weights; it has steps.
    """
    steps = mark.before + mark.steps
    return (
        f"these weights have already been trained for {steps:,} step{'s' * (steps != 1)}, the last "
        f"of them into {_short(mark.folder)}; training starts from step 0 and adds to them. To "
        "train from the beginning, load the model again"
    )


def _short(folder: Path) -> Path:
    """The folder from the runs folder on; elsewhere its whole path."""
    top = runs_folder().resolve().parent
    place = folder.resolve()
    return place.relative_to(top) if place.is_relative_to(top) else folder
