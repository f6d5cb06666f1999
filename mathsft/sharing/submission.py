"""A submission to the leaderboard: one JSON file with all that its claim rests on.

It holds the score of every question, the training's settings, steps and rows, hashes of the files,
and the versions. A reader can work out the accuracy again, and compare two entries question by
question.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from mathsft.evaluation.capstone import MODEL, ROWS, STEPS, TASK, capstone_questions
from mathsft.evaluation.result import Result
from mathsft.files import read_json

FORMAT = 1
_CLOSE = 2e-6  # nats; log-likelihoods are stored with six places
_LETTERS = "abcde"


@dataclass(frozen=True)
class Submission:
    """A run's claim.

    ``steps`` optimiser steps of ``rows_per_step`` rows; 0 for a model without training.
    ``questions`` has for each question its ``id``, ``label``, ``right`` and ``loglikelihoods``
    (nats). ``settings`` is the run's recipe, ``files`` the SHA-256 of the adapter's or the model's
    files, ``weights`` and ``adapter_hash`` as in `Result`.
    """

    name: str
    by: str
    note: str
    date: str
    task: str
    accuracy: float
    steps: int
    rows_per_step: int
    objective: str
    training_rows: int
    training_rows_sha256: str
    questions_sha256: str
    weights: str
    adapter_hash: str
    dtype: str
    hardware: str
    versions: dict[str, str]
    files: dict[str, str]
    settings: dict[str, Any]
    questions: list[dict[str, Any]]

    @property
    def result(self) -> Result:
        """The scores as a `Result`, for `compare` and the tables; without the questions' texts."""
        questions = [
            {
                "id": one["id"], "question": "", "choices": [*_LETTERS], "label": one["label"],
                "category": "", "loglikelihoods": one["loglikelihoods"],
                "metrics": {"acc": float(one["right"])},
            }
            for one in self.questions
        ]  # fmt: skip
        return Result(
            name=self.name, task=self.task, model=MODEL, adapter="", weights=self.weights,
            adapter_hash=self.adapter_hash, dtype=self.dtype, quantized=False, num_fewshot=0,
            seed=0, date=self.date, minutes=math.nan, peak_memory_gb=math.nan,
            hardware=self.hardware, versions=self.versions, harness={}, questions=questions,
        )  # fmt: skip


def read_submission(file: str | Path) -> Submission:
    """Read a submission, and refuse one whose claims do not follow from what it holds.

    Args:
        file: what `submit` wrote.

    Raises ValueError, with the file, if it is no submission, a value is missing or of another kind,
    its questions are not the capstone's (others, missing, twice), a score is not finite, a question
    counts as right although another choice is likelier, or the accuracy is not the share of right
    questions.
    """
    content = read_json(file)
    if not isinstance(content, dict) or content.get("mathsft_submission") != FORMAT:
        raise ValueError(f"{file}: not a submission (format {FORMAT}): mathsft submit writes one")
    kinds = {field.name: field.type for field in fields(Submission)}
    for key, kind in kinds.items():
        value = content.get(key)
        wanted: Any = {"str": str, "float": (int, float), "int": int}.get(
            getattr(kind, "__name__", ""), dict if "dict[str" in str(kind)[:8] else list
        )
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ValueError(f"{file}: {key} is {value!r:.40}: submit the run again")
    found = Submission(**{key: content[key] for key in kinds})
    _check_questions(found, file)
    if found.steps or found.adapter_hash:  # else the model as it is: a reference
        check_rules(found.steps, found.rows_per_step, where=f"{file}: ")
    return found


def _check_questions(found: Submission, file: str | Path) -> None:
    for row, one in enumerate(found.questions):
        here = f"{file}, question {row}"
        scores = one.get("loglikelihoods") if isinstance(one, dict) else None
        if not isinstance(scores, list) or len(scores) != len(_LETTERS):
            raise ValueError(f"{here}: {len(_LETTERS)} log-likelihoods are expected")
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in scores):
            raise ValueError(f"{here}: a log-likelihood is not a finite number: {scores}")
        label = one.get("label")
        if label not in range(len(scores)):
            raise ValueError(f"{here}: the label is {label!r}, not 0 to {len(scores) - 1}")
        likeliest = [n for n, value in enumerate(scores) if value >= max(scores) - _CLOSE]
        right = one.get("right")
        if right not in (0, 1) or (right == 1) > (label in likeliest):
            raise ValueError(f"{here}: right is {right!r}, but choice {likeliest[0]} is likelier")
        if right == 0 and likeliest == [label]:
            raise ValueError(f"{here}: right is 0, but the right choice is the likeliest")
    ids = [one.get("id") for one in found.questions]
    known = [
        question_key(row["Problem"], _LETTERS.index(row["correct"])) for row in capstone_questions()
    ]
    if ids != known:
        missing, others = len({*known} - {*ids}), len({*map(str, ids)} - {*known})
        raise ValueError(
            f"{file}: its questions are not those of {TASK}: {missing:,} missing, {others:,} "
            f"others, {len(ids) - len({*map(str, ids)}):,} twice. A difference is measured on the "
            "same questions: submit the run again"
        )
    if found.questions_sha256 != questions_hash(known):
        raise ValueError(f"{file}: questions_sha256 is not the hash of its questions")
    share = sum(one["right"] for one in found.questions) / len(ids)
    if not math.isclose(found.accuracy, share, abs_tol=1e-9):
        raise ValueError(
            f"{file}: accuracy is {found.accuracy}, but {share} of its questions are right"
        )


def check_rules(steps: int, rows: int, *, where: str) -> None:
    """Raise ValueError unless a run took the capstone's optimiser steps of its rows."""
    if (steps, rows) != (STEPS, ROWS):
        raise ValueError(
            f"{where}{steps:,} optimiser steps of {rows:,} rows. Runs are compared at equal steps: "
            f"train {STEPS} steps of {ROWS} rows"
        )


def question_key(question: str, label: int) -> str:
    """Sixteen letters that a question and its label have for themselves."""
    return sha256(f"{label} {question}".encode()).hexdigest()[:16]


def questions_hash(ids: Sequence[str]) -> str:
    """The SHA-256 of the questions' keys, in their order."""
    return sha256(" ".join(ids).encode()).hexdigest()


def as_json(made: Submission) -> str:
    """The file's text: a line for each value and each question, so that a change can be read."""
    content: Mapping[str, Any] = {"mathsft_submission": FORMAT, **asdict(made)}
    lines = [
        f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in content.items()
        if key != "questions"
    ]
    questions = ",\n".join(f"  {json.dumps(one)}" for one in made.questions)
    return "{\n" + ",\n".join(lines) + ',\n "questions": [\n' + questions + "\n ]\n}\n"
