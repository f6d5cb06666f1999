"""Results of evaluations: loaded from files, grouped by their questions, and split by labels."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from mathsft.data.contamination import Problems, overlap
from mathsft.evaluation.harness_logs import harness_results, is_log
from mathsft.evaluation.intervals import Accuracy, wilson_interval
from mathsft.evaluation.result import Result
from mathsft.evaluation.stored import read_stored, result_file, result_files

__all__ = [
    "Result", "accuracy_by", "apart", "by_questions", "load_results", "read_results",
    "reading_labels", "result_file", "same_questions", "shared_metric", "template_labels",
]  # fmt: skip


def load_results(source: str | Path | Iterable[str | Path]) -> list[Result]:
    """Load the results in ``source``: a folder (files by name), a file, or several of these.

    What ``lm_eval --log_samples --output_path`` wrote is read as well, in the folder and in its
    subfolders (`mathsft.evaluation.harness_logs`). Other JSON files in a folder are ignored.

    Raises FileNotFoundError if ``source`` does not exist, and ValueError for a file that is given
    but is not a result, or is damaged: a result must not vanish without a word.
    """
    found, damaged = read_results(source)
    if damaged:
        more = f" ({len(damaged) - 1:,} more are damaged)" if damaged[1:] else ""
        raise ValueError(f"{damaged[0]}{more}")
    return found


def read_results(
    source: str | Path | Iterable[str | Path],
) -> tuple[list[Result], list[str]]:
    """As `load_results`, but go on with the rest: the results, and what is wrong with other files.

    Args:
        source: a folder, a file, or several of these.

    Raises FileNotFoundError if ``source`` does not exist, and ValueError for a file that is given
    but is not a result, or is damaged.
    """
    if not isinstance(source, str | Path):
        parts = [read_results(one) for one in source]
        return [r for part, _ in parts for r in part], [d for _, part in parts for d in part]
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder of results")
    if not path.is_dir() and not is_log(path):
        return [Result(**read_stored(path, Result))], []
    found, damaged = harness_results(path)
    for file in result_files(path) if path.is_dir() else []:
        if is_log(file):
            continue
        try:
            found.append(Result(**read_stored(file, Result)))
        except ValueError as error:
            damaged.append(str(error))
    return found, damaged


def by_questions(results: Sequence[Result]) -> list[list[Result]]:
    """Group results that can be compared: same task, questions and number of examples."""

    def key(result: Result) -> tuple[str, int, int, list[str]]:
        return result.task, result.num_fewshot, -len(result.questions), result.ids

    return [list(some) for _, some in groupby(sorted(results, key=key), key=key)]


def apart(results: Sequence[Result], sources: Sequence[str] | None = None) -> list[Result]:
    """The same results; if two have one name, they get what tells them apart.

    Args:
        results: results of the same questions.
        sources: what to call the file or folder of each; else models and dates are added.
    """
    names = told_apart(
        [result.name for result in results],
        [
            (source, result.model, result.date[:16].replace("T", " "))
            for result, source in zip(results, sources or [""] * len(results), strict=True)
        ],
    )
    return [replace(result, name=name) for result, name in zip(results, names, strict=True)]


def told_apart(names: Sequence[str], more: Sequence[Sequence[str]]) -> list[str]:
    """The names; equal ones get what tells them apart.

    Args:
        names: one name for each run.
        more: for each run what can be added to its name, the shortest first, such as its date.
    """
    found = list(names)
    for place in range(min(map(len, more), default=0)):
        added: dict[str, set[str]] = {}
        for name, parts in zip(found, more, strict=True):
            added.setdefault(name, set()).add(parts[place])
        found = [
            f"{name} ({parts[place]})" if len(added[name]) > 1 and parts[place] else name
            for name, parts in zip(found, more, strict=True)
        ]
    seen: Counter[str] = Counter()
    for row, name in enumerate(found):
        seen[name] += 1
        found[row] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return found


def shared_metric(results: Sequence[Result], metric: str | None = None) -> str:
    """The metric that all ``results`` are compared by: ``metric``, "acc", or the first they share.

    Raises ValueError if one of them does not have it for each question.
    """
    names = {result.name: result.metrics for result in results}
    shared = [m for m in results[0].metrics if all(m in has for has in names.values())]
    if metric in shared or (metric is None and shared):
        return metric or shared[0]
    has = "; ".join(f"{name} has {', '.join(m) or 'none'}" for name, m in [*names.items()][:4])
    what = f"no metric {metric!r}" if metric else "no metric that all results have"
    raise ValueError(f"{results[0].task} has {what} for each question: {has}")


def same_questions(results: Sequence[Result]) -> None:
    """Raise ValueError unless all results have the same task and the same questions, in order."""
    first = results[0]
    for other in results[1:]:
        if other.task != first.task:
            what = f"{first.name!r} is of {first.task}, {other.name!r} of {other.task}"
        elif len(other.ids) != len(first.ids):
            what = (
                f"{first.name!r} has {len(first.ids):,} questions, {other.name!r} "
                f"{len(other.ids):,}"
            )
        elif other.ids != first.ids:
            at = next(
                i for i, (a, b) in enumerate(zip(first.ids, other.ids, strict=True)) if a != b
            )
            what = f"question {at} of {first.name!r} and of {other.name!r} differ"
        else:
            continue
        raise ValueError(
            f"not comparable: {what}. A difference is measured on the same questions: evaluate "
            "both on the same task and rows (file, limit)"
        )


SEEN, UNSEEN = "template seen in training", "template not seen"
READ_ALIKE, GARBLED = "read alike", "garbled by the official reading"


def accuracy_by(
    result: Result, labels: Sequence[str] | None = None, *, metric: str | None = None
) -> dict[str, Accuracy]:
    """Accuracy with its interval for each label, in the order of first appearance.

    ``metric`` is a metric that is right or wrong, such as "acc_norm"; default: the result's own
    (`Result.metric`). ``labels`` has one label for each question; default: the question's category
    (MathQA's are general, physics, gain, geometry, probability, other). An empty category becomes
    "none".

    Raises ValueError if there are not as many labels as questions.
    """
    if labels is None:
        labels = [question["category"] or "none" for question in result.questions]
    correct = result.correct(metric)
    if len(labels) != len(correct):
        raise ValueError(f"{len(labels):,} labels for {len(correct):,} questions of {result.name}")
    by_label: dict[str, list[bool]] = {}
    for label, right in zip(labels, correct, strict=True):
        by_label.setdefault(label, []).append(right)
    return {label: wilson_interval(rights) for label, rights in by_label.items()}


def template_labels(result: Result, train: Problems) -> list[str]:
    """Label each question `SEEN` if a training row equals it except for numbers, else `UNSEEN`.

    ``train`` is what the model was trained on: rows with a ``question`` (`load_problems`).
    """
    questions = [{"question": question["question"]} for question in result.questions]
    touched = overlap(train, questions).touched("template")
    return [SEEN if yes else UNSEEN for yes in touched]


def reading_labels(result: Result, clean: Result) -> list[str]:
    """Label the questions of a ``mathqa`` result: do both readings give the same choices?

    The labels are `READ_ALIKE` and `GARBLED`. ``clean`` is any model's result of the clean task on
    the same rows. Questions that it left out as unreadable count as garbled.
    """
    choices = {question["id"]: question["choices"] for question in clean.questions}
    return [
        READ_ALIKE if choices.get(question["id"]) == question["choices"] else GARBLED
        for question in result.questions
    ]
