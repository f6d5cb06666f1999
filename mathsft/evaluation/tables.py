"""Results as tables: accuracies, how sure their differences are, and others' published numbers.

Published numbers are shown beside ours and marked as not ours.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mathsft.evaluation.compare import compare_all
from mathsft.evaluation.intervals import wilson_share
from mathsft.evaluation.results import Result

SOURCE = (
    "the public notebooks this course grew from (Qwen2.5, 0-shot mathqa of lm-evaluation-harness, "
    "2,985 test questions)"
)
QUESTIONS = 2985


class Reference(NamedTuple):
    """A published accuracy, 0 to 1, with its four published places."""

    name: str
    accuracy: float
    note: str = ""


PUBLIC_EXPERIMENT = (
    Reference("0.5B base", 0.2874, "published standard error 0.0083"),
    Reference("0.5B SFT", 0.2884),
    Reference("0.5B Instruct", 0.2901, "the vendor's own tuning"),
    Reference(
        "0.5B multiple choice",
        0.2874,
        "equals the base to the last digit: the adapter was never in the model",
    ),
    Reference("0.5B multiple choice, MathQA", 0.3558, "3 epochs, batches of 4"),
    Reference("0.5B multiple choice, MathQA + GSM8K", 0.3363, "1 epoch, batches of 2"),
    Reference("1.5B base", 0.3461),
    Reference("1.5B SFT", 0.2978),
    Reference("1.5B Instruct", 0.3374, "the vendor's own tuning"),
)


def results_table(
    results: Sequence[Result],
    *,
    base: str | None = None,
    metric: str = "acc",
    reference: bool = False,
) -> pd.DataFrame:
    """A table with one row for each run of one task; shares are 0 to 1.

    Columns: ``run``, ``accuracy`` with its 95 % interval ``low`` and ``high`` (Wilson),
    ``acc_norm``, ``chance``, ``n``; compared with the run named ``base`` (default: the first):
    ``difference`` with ``diff_low`` and ``diff_high`` (bootstrap), ``p`` (McNemar, exact),
    ``p_holm`` (corrected for the rows of this table), ``detectable`` (the smallest true
    difference that would show); and ``whose``: "ours", or text that begins with "not ours".

    ``metric`` is the metric of accuracy and differences, "acc" or "acc_norm".
    ``reference`` adds the public experiment's numbers, marked as not ours. They come from another
    model and perhaps other questions, so nothing can be paired with them.

    Raises:
        ValueError: results of several tasks or of different questions, no result of that name,
            two of the same name, two with equal log-likelihoods.
    """
    if not results:
        raise ValueError("there is no result to show")
    names = [result.name for result in results]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two results are called {', '.join(twice)}: give each run its own name")
    if base is not None and base not in names:
        raise ValueError(f"no result is called {base!r}; there are {', '.join(names)}")
    first = results[names.index(base) if base else 0]
    found = {c.b: c for c in compare_all(results, base=first, metric=metric)}
    rows: list[dict[str, Any]] = []
    for result in results:
        accuracy, comparison = result.accuracy(metric), found.get(result.name)
        row: dict[str, Any] = {
            "run": result.name,
            "accuracy": accuracy.accuracy,
            "low": accuracy.low,
            "high": accuracy.high,
            "acc_norm": _share(result, "acc_norm"),
            "chance": result.chance,
            "n": accuracy.n,
        }
        if comparison is not None:
            row |= {
                "difference": comparison.difference,
                "diff_low": comparison.low,
                "diff_high": comparison.high,
                "p": comparison.p,
                "p_holm": comparison.p_holm,
                "detectable": comparison.detectable,
            }
        rows.append(row | {"whose": "ours"})
    if reference:
        rows += [
            {
                "run": other.name,
                "accuracy": other.accuracy,
                "low": wilson_share(other.accuracy, QUESTIONS).low,
                "high": wilson_share(other.accuracy, QUESTIONS).high,
                "chance": 0.2,
                "n": QUESTIONS,
                "whose": "not ours" + (f": {other.note}" if other.note else ""),
            }
            for other in PUBLIC_EXPERIMENT
        ]
    columns = [
        "run", "accuracy", "low", "high", "acc_norm", "chance", "n", "difference", "diff_low",
        "diff_high", "p", "p_holm", "detectable", "whose",
    ]  # fmt: skip
    table = pd.DataFrame(rows).reindex(columns=columns)
    if reference:
        table.attrs["not ours"] = SOURCE
    return table


def _share(result: Result, metric: str) -> float:
    """The result's accuracy by another metric; NaN if the task does not have it."""
    has = all(metric in question["metrics"] for question in result.questions)
    return result.accuracy(metric).accuracy if has else math.nan


def pairs_table(results: Sequence[Result], *, metric: str = "acc") -> pd.DataFrame:
    """A table with every pair of runs: ``a``, ``b`` and the other fields of a `Comparison`.

    ``p_holm`` is corrected for all pairs. ``metric``, and what is raised, are as in `compare`.
    """
    return pd.DataFrame(vars(c) for c in compare_all(results, metric=metric))


def write_csv(results: Sequence[Result], path: str | Path) -> Path:
    """Write runs of any tasks as CSV: one row for each model or checkpoint and task.

    Rows are sorted by task and name. Numbers in names count as numbers: checkpoint-200 comes
    before checkpoint-1000. The harness's own figures have their own columns (``acc,none``).
    """
    rows = [
        {
            "run": r.name, "task": r.task, "num_fewshot": r.num_fewshot, "n": len(r.questions),
            **r.harness, "model": r.model, "adapter": r.adapter, "weights": r.weights,
            "adapter_hash": r.adapter_hash, "dtype": r.dtype, "quantized": r.quantized,
            "seed": r.seed, "minutes": round(r.minutes, 4), "peak_memory_gb": r.peak_memory_gb,
            "hardware": r.hardware, "date": r.date,
            **{f"version_{package}": version for package, version in r.versions.items()},
        }
        for r in sorted(results, key=lambda r: (r.task, by_number(r.name)))
    ]  # fmt: skip
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def by_number(name: str) -> tuple[tuple[int, str], ...]:
    """A key to sort names by; digits in a name count as a number."""
    parts = re.split(r"(\d+)", name)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)
