"""Results of evaluations: saved as JSON files, loaded again, and split by groups of questions."""

import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mathsft.data.contamination import Problems, overlap
from mathsft.evaluation.intervals import Accuracy, wilson_interval

FORMAT = 1


@dataclass(frozen=True)
class Result:
    """The result of one model on one task.

    ``questions`` has an entry for each question: ``id`` (the harness's hash of the row),
    ``question``, ``choices``, ``label``, ``category`` ("" if the task has none),
    ``loglikelihoods`` (nats, one for each choice; none if the task generates text) and ``metrics``
    (the harness's own values for this question, such as ``{"acc": 1.0, "acc_norm": 0.0}``).

    ``harness`` holds the harness's figures for the whole task. ``weights`` and ``adapter_hash``
    say which weights were scored (`mathsft.evaluation.guards`); names do not.
    ``peak_memory_gb`` is the peak of the process so far; on a GPU, of its tensors.
    """

    name: str
    task: str
    model: str
    adapter: str
    weights: str
    adapter_hash: str
    dtype: str
    quantized: bool
    num_fewshot: int
    seed: int
    date: str
    minutes: float
    peak_memory_gb: float
    hardware: str
    versions: dict[str, str]
    harness: dict[str, float]
    questions: list[dict[str, Any]]

    @property
    def ids(self) -> list[str]:
        """The ids of the questions, in order."""
        return [question["id"] for question in self.questions]

    @property
    def metric(self) -> str:
        """The metric of right and wrong: ``acc`` if the task has it, else its first metric."""
        metrics = self.questions[0]["metrics"]
        return "acc" if "acc" in metrics else next(iter(metrics), "acc")

    @property
    def chance(self) -> float:
        """The accuracy of guessing: the mean of 1 / number of choices; NaN without choices."""
        counts = [len(question["choices"]) for question in self.questions]
        return sum(1 / n for n in counts) / len(counts) if min(counts) > 1 else math.nan

    def scores(self) -> list[list[float]]:
        """The log-likelihoods in nats, a list for each question."""
        return [question["loglikelihoods"] for question in self.questions]

    def correct(self, metric: str = "acc") -> list[bool]:
        """Whether each question was answered correctly.

        Raises ValueError for a metric that the task does not have, or that is not right or wrong.
        """
        found = []
        for question in self.questions:
            value = question["metrics"].get(metric)
            if value is None:
                known = ", ".join(question["metrics"]) or "none"
                raise ValueError(
                    f"{self.name}: {self.task} has no metric {metric!r}; it has {known}"
                )
            if value not in (0, 1):
                raise ValueError(
                    f"{self.name}: {metric} of a question is {value}, neither right nor wrong: "
                    "give a metric that is 0 or 1 for each question, such as acc"
                )
            found.append(bool(value))
        return found

    def accuracy(self, metric: str = "acc") -> Accuracy:
        """The share answered correctly, with Wilson's 95 % interval."""
        return wilson_interval(self.correct(metric))

    def save(self, folder: str | Path) -> Path:
        """Write ``folder/NAME.TASK.json``; the file is written whole or not at all.

        A run that is evaluated again replaces its old result. Raises ValueError if the file holds
        a run of another name (names that differ only in case or signs make the same file name).
        """
        path = Path(folder) / result_file(self.name, self.task, self.num_fewshot)
        if path.exists() and (there := _read(path).name) != self.name:
            raise ValueError(
                f"{path} holds the result of {there!r}: give {self.name!r} another name"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.write_text(json.dumps({"mathsft_result": FORMAT, **asdict(self)}), encoding="utf-8")
        os.replace(new, path)
        return path

    def __str__(self) -> str:
        told = f"{self.name}, {self.task}"
        if self.num_fewshot:
            told += f", {self.num_fewshot}-shot"
        judged = [
            metric
            for metric in ("acc", "acc_norm")
            if all(question["metrics"].get(metric) in (0, 1) for question in self.questions)
        ]
        shares = [f"{metric} {self.accuracy(metric)}" for metric in judged]
        return f"{told}: {', '.join(shares) or self.harness}"


def result_file(name: str, task: str, num_fewshot: int = 0) -> str:
    """The file name of a run, valid in any folder; few-shot runs have their number in it."""
    slug = re.sub(r"[^\w+.-]+", "-", name).strip("-.").lower() or "run"
    return f"{slug}.{task}{f'.{num_fewshot}-shot' if num_fewshot else ''}.json"


def load_results(source: str | Path | Iterable[str | Path]) -> list[Result]:
    """Load the results in ``source``: a folder (files by name), a file, or several of these.

    Other JSON files in a folder are ignored. Raises FileNotFoundError if ``source`` does not exist,
    and ValueError for a file that is given but is not a result, or is damaged.
    """
    if not isinstance(source, str | Path):
        return [result for one in source for result in load_results(one)]
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder of results")
    if path.is_file():
        return [_read(path)]
    return [_read(file) for file in sorted(path.glob("*.json")) if _is_result(file)]


def _is_result(file: Path) -> bool:
    """Whether the file begins like a result: a damaged result must not be ignored."""
    with open(file, encoding="utf-8", errors="replace") as text:
        return '"mathsft_result"' in text.read(40)


def _read(path: Path) -> Result:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}): evaluate again") from error
    known = {field.name for field in fields(Result)}
    if not isinstance(content, dict) or content.get("mathsft_result") != FORMAT:
        raise ValueError(f"{path}: not a result of an evaluation (format {FORMAT})")
    if missing := sorted(known - content.keys()):
        raise ValueError(f"{path}: {', '.join(missing)} missing: evaluate again")
    return Result(**{key: value for key, value in content.items() if key in known})


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
    result: Result, labels: Sequence[str] | None = None, *, metric: str = "acc"
) -> dict[str, Accuracy]:
    """Accuracy with its interval for each label, in the order of first appearance.

    ``metric`` is "acc" or "acc_norm". ``labels`` has one label for each question; default: the
    question's category (MathQA's are general, physics, gain, geometry, probability, other).
    An empty category becomes "none".

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
