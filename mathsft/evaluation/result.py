"""The result of one model on one task, question by question, and its file."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from mathsft.evaluation.intervals import Accuracy, mean_interval, wilson_interval
from mathsft.evaluation.stored import as_json, may_be_result, read_stored, result_file
from mathsft.files import write_whole
from mathsft.processes import say


@dataclass(frozen=True)
class Result:
    """The result of one model on one task.

    ``questions`` has an entry for each question: ``id`` (the harness's hash of the row),
    ``question``, ``choices``, ``label``, ``category`` ("" if the task has none),
    ``loglikelihoods`` (nats, one for each choice; none if the task generates text) and ``metrics``
    (the harness's own values for this question, such as ``{"acc": 1.0, "acc_norm": 0.0}``).

    ``harness`` holds the harness's figures for the whole task. ``weights`` and ``adapter_hash``
    say which weights were scored (`mathsft.evaluation.guards`); names do not.
    ``peak_memory_gb`` is the peak of the process so far; on a GPU, of its tensors. ``limit`` is how
    many questions were asked for; None: all. ``prompts`` is a hash of all prompts: other few-shot
    examples or another chat template give another one ("": not known).
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
    limit: int | None = None
    prompts: str = ""

    @property
    def ids(self) -> list[str]:
        """The ids of the questions, in order."""
        return [question["id"] for question in self.questions]

    @property
    def metrics(self) -> list[str]:
        """The metrics that every question has: ``acc`` first, then in the task's order."""
        first, *others = (question["metrics"] for question in self.questions)
        names = [name for name in first if all(name in other for other in others)]
        return sorted(names, key=lambda name: name != "acc")

    @property
    def metric(self) -> str:
        """The metric that is shown: ``acc`` if the task has it, else its first one."""
        return next(iter(self.metrics), "acc")

    @property
    def chance(self) -> float:
        """The accuracy of guessing: the mean of 1 / number of choices; NaN without choices."""
        counts = [len(question["choices"]) for question in self.questions]
        return sum(1 / n for n in counts) / len(counts) if min(counts) > 1 else math.nan

    def scores(self) -> list[list[float]]:
        """The log-likelihoods in nats, a list for each question."""
        return [question["loglikelihoods"] for question in self.questions]

    def values(self, metric: str | None = None) -> list[float]:
        """The metric's value for each question; default: `metric`.

        Raises ValueError for a metric that the task does not have, or a value that is not finite.
        """
        metric = self.metric if metric is None else metric
        found = []
        for row, question in enumerate(self.questions):
            value = question["metrics"].get(metric)
            if value is None:
                known = ", ".join(self.metrics) or "none for each question"
                raise ValueError(
                    f"{self.name}: {self.task} has no metric {metric!r}; it has {known}"
                )
            if not math.isfinite(value):
                raise ValueError(
                    f"{self.name}: {metric} of question {row} of {self.task} is {value}"
                )
            found.append(float(value))
        return found

    def correct(self, metric: str | None = None) -> list[bool]:
        """Whether each question was answered correctly; default: by `metric`.

        Raises ValueError for a metric that the task does not have, or that is not right or wrong.
        """
        metric = self.metric if metric is None else metric
        values = self.values(metric)
        if number := next((value for value in values if value not in (0, 1)), None):
            usable = [name for name in self.metrics if {*self.values(name)} <= {0, 1}]
            raise ValueError(
                f"{self.name}: {metric} of a question is {number}, neither right nor wrong. "
                + (
                    f"{self.task} has {', '.join(usable)}, which are"
                    if usable
                    else f"No metric of {self.task} is; `compare` takes it as a number"
                )
            )
        return [bool(value) for value in values]

    def accuracy(self, metric: str | None = None) -> Accuracy:
        """The share answered correctly, with Wilson's 95 % interval; default: by `metric`."""
        return wilson_interval(self.correct(metric))

    def mean(self, metric: str | None = None) -> Accuracy:
        """As `accuracy`; also of a metric that is a number from 0 to 1 (`mean_interval`).

        Raises ValueError for numbers outside of 0 to 1, such as log-likelihoods.
        """
        values = self.values(metric)
        if not shares(values):
            raise ValueError(
                f"{self.name}: {metric or self.metric} of {self.task} is not 0 to 1 for each "
                "question: `compare` takes it, a table of shares does not"
            )
        return self.accuracy(metric) if {*values} <= {0, 1} else mean_interval(values)

    def save(self, folder: str | Path) -> Path:
        """Write ``folder/NAME.TASK.json``; the file is written whole or not at all.

        The name has ``.N-shot`` and ``.limit-N`` in it if they were given (`result_file`). A run
        that is evaluated again, with the same questions and prompts, replaces its old result, and
        so does one whose old file is damaged. With other questions or prompts both are kept: the
        new file's name ends with ``.2.json``, and a line says so.

        Raises what `check_place` raises.
        """
        first = check_place(folder, self.name, self.task, self.num_fewshot, self.limit)
        path = next(path for path in _places(first) if self._replaces(path))
        if path != first:
            say(
                f"{first} holds the result of other questions or prompts. It is kept; the new one "
                f"is {path.name}"
            )
        return write_whole(path, as_json(asdict(self)))

    def _replaces(self, path: Path) -> bool:
        """Whether the file may be written: it is not there, is damaged, or holds the same run."""
        there = _there(path, self.name)
        if there is None:
            if path.exists():
                say(f"{path} is damaged. It is replaced")
            return True
        if there.ids != self.ids:
            return False
        if there.prompts and self.prompts:
            return there.prompts == self.prompts
        return there.seed == self.seed or not self.num_fewshot  # the seed chooses the examples

    def __str__(self) -> str:
        told = f"{self.name}, {self.task}"
        if self.num_fewshot:
            told += f", {self.num_fewshot}-shot"
        shown = [name for name in self.metrics if name in ("acc", "acc_norm")] or self.metrics[:1]
        figures = [self._shown(m) for m in shown]
        return f"{told}: {', '.join(figure for figure in figures if figure) or self.harness}"

    def _shown(self, metric: str) -> str:
        """A metric for `__str__`, which never raises; "" if it is not 0 to 1."""
        try:
            return f"{metric} {self.mean(metric)}" if shares(self.values(metric)) else ""
        except ValueError:  # nan or infinite for a question
            return f"{metric} is not a number for each question"


def shares(values: Sequence[float]) -> bool:
    """Whether all values are 0 to 1."""
    return all(0 <= value <= 1 for value in values)


def check_place(
    folder: str | Path, name: str, task: str, num_fewshot: int = 0, limit: int | None = None
) -> Path:
    """The path that a run's result will have; call it before long work.

    Args:
        folder: the folder of results; it need not exist.
        name: the run's name.
        task: the task's name.
        num_fewshot: as in the result.
        limit: as in the result.

    Raises ValueError if ``folder`` is a file, or if the path holds a run of another name (names
    that differ only in case or signs make the same file name) or something that is no result.
    """
    path = Path(folder) / result_file(name, task, num_fewshot, limit)
    if path.parent.exists() and not path.parent.is_dir():
        raise ValueError(f"{folder} is a file: give a folder for the results")
    _there(path, name)
    return path


def _there(path: Path, name: str) -> Result | None:
    """The result of this run in a file; None if there is none, or a damaged one."""
    if not path.exists():
        return None
    if not may_be_result(path):
        raise ValueError(f"{path} is there and is no result: give another name or folder")
    try:
        there = Result(**read_stored(path, Result))
    except ValueError:
        return None
    if there.name != name:
        raise ValueError(f"{path} holds the result of {there.name!r}: give {name!r} another name")
    return there


def _places(first: Path) -> Iterable[Path]:
    yield first
    yield from (first.with_suffix(f".{number}.json") for number in count(2))
