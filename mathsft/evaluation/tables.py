"""Results as tables: accuracies, how sure their differences are, and others' published numbers.

Published numbers are shown beside ours and marked as not ours.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mathsft.evaluation.compare import Comparison, compare_all, compare_some
from mathsft.evaluation.intervals import wilson_share
from mathsft.evaluation.narrow import PairsTable, ResultsTable
from mathsft.evaluation.results import Result, by_questions, shared_metric
from mathsft.files import inert, write_whole

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
    metric: str | None = None,
    reference: bool = False,
) -> pd.DataFrame:
    """A table with one row for each run; shares are 0 to 1.

    Columns: ``run``, ``accuracy`` with its 95 % interval ``low`` and ``high`` (Wilson),
    ``acc_norm``, ``chance``, ``n``; compared with the run named ``base`` (default: the first):
    ``difference`` with ``diff_low`` and ``diff_high`` (Tango's score interval), ``p`` (McNemar,
    exact), ``p_holm`` (corrected for the rows of the same task), ``detectable`` (the smallest true
    difference that would show); and ``whose``: "ours", or text that begins with "not ours". Of a
    metric that is a number, accuracy is the mean, and the other columns are as in `compare`. A
    notebook shows the run, the difference and p in three columns, which a phone shows whole.

    If the results are of several tasks, numbers of examples or sets of questions, each has rows of
    its own that are compared with one another only, and the first columns are ``task`` and
    ``num_fewshot``.

    Args:
        results: results of any models; two with the same task, examples and questions need
            different names.
        base: the name of the run that the others are compared with. Rows whose questions it did
            not answer have no difference.
        metric: the metric of accuracy and differences, such as "acc_norm"; default: for each task
            "acc", or the first that it has.
        reference: add the public experiment's numbers, marked as not ours. They come from another
            model and perhaps other questions, so nothing can be paired with them.

    Raises:
        ValueError: no result of that name, two of the same name, a metric that a result does not
            have or that is not 0 to 1, two results with equal log-likelihoods.
    """
    return table_and_refused(results, base=base, metric=metric, reference=reference, strict=True)[0]


def table_and_refused(
    results: Sequence[Result],
    *,
    base: str | None = None,
    metric: str | None = None,
    reference: bool = False,
    strict: bool = False,
) -> tuple[pd.DataFrame, list[str]]:
    """As `results_table`, and why rows have no difference though they could be compared.

    Args:
        results: as in `results_table`.
        base: as in `results_table`.
        metric: as in `results_table`.
        reference: as in `results_table`.
        strict: raise the first of the reasons.
    """
    if not results:
        raise ValueError("there is no result to show")
    groups = by_questions(results)
    for group in groups:
        names = [result.name for result in group]
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise ValueError(
                f"two results of {group[0].task} are called {', '.join(twice)}: give each run its "
                "own name"
            )
    every = list(dict.fromkeys(result.name for result in results))
    if base is not None and base not in every:
        raise ValueError(f"no result is called {base!r}; there are {', '.join(every)}")
    place = {id(result): number for number, result in enumerate(results)}
    rows: list[dict[str, Any]] = []
    refused: list[str] = []
    for group in sorted(groups, key=lambda group: min(place[id(result)] for result in group)):
        group = sorted(group, key=lambda result: place[id(result)])
        first = next((r for r in group if r.name == base), None if base else group[0])
        own = shared_metric(group, metric)
        found, told = compare_some(group, base=first, metric=own) if first else ([], [])
        refused += told
        rows += _rows(group, own, {comparison.b: comparison for comparison in found})
    if strict and refused:
        raise ValueError(refused[0])
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
    table = ResultsTable(pd.DataFrame(rows)).reindex(
        columns=[*(["task", "num_fewshot"] if len(groups) > 1 else []), *columns]
    )
    if reference:
        table.attrs["not ours"] = SOURCE
    return table, refused


def _rows(
    results: Sequence[Result], metric: str, found: dict[str, Comparison]
) -> list[dict[str, Any]]:
    rows = []
    for result in results:
        accuracy, comparison = result.mean(metric), found.get(result.name)
        row: dict[str, Any] = {
            "task": result.task,
            "num_fewshot": result.num_fewshot,
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
    return rows


def _share(result: Result, metric: str) -> float:
    """The mean of another metric; NaN if the task does not have it."""
    values = result.values(metric) if metric in result.metrics else []
    return sum(values) / len(values) if values else math.nan


def pairs_table(results: Sequence[Result], *, metric: str | None = None) -> pd.DataFrame:
    """A table with every pair of runs: ``a``, ``b`` and the other fields of a `Comparison`.

    ``p_holm`` is corrected for all pairs. ``metric``, and what is raised, are as in `compare`.
    """
    return PairsTable([vars(c) for c in compare_all(results, metric=metric)])


def write_csv(results: Sequence[Result], path: str | Path) -> Path:
    """Write runs of any tasks as CSV: one row for each model or checkpoint and task.

    Rows are sorted by task and name. Numbers in names count as numbers: checkpoint-200 comes
    before checkpoint-1000. The harness's own figures have their own columns (``acc,none``).
    Texts that a spreadsheet would compute get an apostrophe (`mathsft.files.inert`).
    """
    rows = [
        {
            "run": r.name, "task": r.task, "num_fewshot": r.num_fewshot, "n": len(r.questions),
            **r.harness, "model": r.model, "adapter": r.adapter, "weights": r.weights,
            "adapter_hash": r.adapter_hash, "dtype": r.dtype, "quantized": r.quantized,
            "seed": r.seed, "minutes": round(r.minutes, 4), "peak_memory_gb": r.peak_memory_gb,
            "hardware": r.hardware, "date": r.date, "limit": r.limit,
            **{f"version_{package}": version for package, version in r.versions.items()},
        }
        for r in sorted(results, key=lambda r: (r.task, by_number(r.name)))
    ]  # fmt: skip
    table = pd.DataFrame([{inert(key): inert(value) for key, value in row.items()} for row in rows])
    return write_whole(path, table.to_csv(index=False))


def by_number(name: str) -> tuple[tuple[int, str], ...]:
    """A key to sort names by; digits in a name count as a number."""
    parts = re.split(r"(\d+)", name)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)
