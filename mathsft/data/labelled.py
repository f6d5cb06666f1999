"""Texts with the class, the classes or the number that a model should say about them.

| label | problem type | example |
|---|---|---|
| true or false, or a whole number from 0 on | single_label_classification | ``true``, ``3`` |
| list of 0 and 1, one for each class | multi_label_classification | ``[1, 0, 1]`` |
| number with a point | regression | ``0.7`` |

The names of the types are transformers' (``config.problem_type``), which decides in the same way.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mathsft.data.given import check_row

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]
SINGLE: ProblemType = "single_label_classification"
MULTI: ProblemType = "multi_label_classification"
REGRESSION: ProblemType = "regression"
_MOST_CLASSES = 100_000  # more outputs than that are a mistake in the labels


@dataclass(frozen=True)
class Label:
    """A row's label: ``values`` holds one number, or one for each class if several can be true."""

    problem: ProblemType
    values: list[float]


def read_label(row: Mapping[str, Any], *, where: str) -> Label:
    """Read ``label``. Raises ValueError, naming the row, if it is none of those in the table."""
    check_row(row, where=where)
    value = row.get("label")
    if isinstance(value, bool | int) and value > _MOST_CLASSES:
        raise ValueError(
            f"{where}, column 'label': a class is above {_MOST_CLASSES:,}, and the model "
            "gets an output for each class. Number the classes from 0 on; a number to be predicted "
            "has a point (1000000.0)"
        )
    if isinstance(value, bool | int) and value >= 0:
        return Label(SINGLE, [float(value)])
    if isinstance(value, float) and math.isfinite(value):
        return Label(REGRESSION, [value])
    if isinstance(value, list) and value and all(_is_share(one) for one in value):
        return Label(MULTI, [float(one) for one in value])
    raise ValueError(
        f"{where}, column 'label': expected a class (true, false, or a whole number from 0 on), a "
        "list of 0 and 1 with one number for each class, or a number with a point; found "
        f"{value!r:.40}"
    )


def head_for(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return ``num_labels`` and ``problem_type`` for `load_reward_model`, from the rows' labels.

    A single label needs as many outputs as the largest class plus one, and two or more.

    Args:
        rows: rows with a ``label``.

    Raises ValueError for labels of several types, and for lists of several lengths.
    """
    labels = [read_label(row, where=f"row {n}") for n, row in enumerate(rows)]
    if not labels:
        raise ValueError("there is no row, so there is no label")
    return head_of(labels)


def head_of(labels: Iterable[Label]) -> dict[str, Any]:
    """`head_for`, from labels that were read before."""
    labels = list(labels)
    types = Counter(label.problem for label in labels)
    if len(types) > 1:
        found = ", ".join(f"{count:,} {problem}" for problem, count in types.items())
        raise ValueError(f"labels of several types: {found}. Give all labels in one form")
    problem = labels[0].problem
    lengths = sorted({len(label.values) for label in labels})
    if len(lengths) > 1:
        raise ValueError(
            f"labels with {lengths[0]} and with {lengths[-1]} classes: give each row a list with "
            "one number for each class"
        )
    outputs = lengths[0]
    if problem == SINGLE:
        outputs = max(2, 1 + int(max(label.values[0] for label in labels)))
    return {"num_labels": outputs, "problem_type": problem}


def _is_share(value: Any) -> bool:
    return isinstance(value, bool | int | float) and 0 <= value <= 1
