"""A submission to the leaderboard: one JSON file with all that its claim rests on.

It holds the score of every question, the training's settings, steps and rows, hashes of the files,
and the versions. A reader can work out the accuracy again, and compare two entries question by
question.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from mathsft.data.contamination import rows_asking
from mathsft.evaluation.capstone import MODEL, ROWS, STEPS, TASK, capstone_questions
from mathsft.evaluation.result import Result
from mathsft.evaluation.run import evaluate
from mathsft.files import check_writable, read_json, write_whole
from mathsft.processes import say
from mathsft.record import ENVIRONMENT
from mathsft.recipes import load_recipe
from mathsft.training.batch_size import BATCH
from mathsft.training.batch_size import STEPS as ACCUMULATION
from mathsft.training.recipe_rows import read_rows

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


def submit(
    run: str | Path,
    *,
    name: str,
    by: str = "",
    note: str = "",
    file: str | Path | None = None,
) -> Path:
    """Score a run on the capstone's questions, and write its submission.

    Args:
        run: the folder of a run by a recipe (`train_by_recipe`, or the command), with ``adapter``
            or ``model`` in it; or "tiny", the model without training.
        name: what the leaderboard calls it.
        by: a person or a team.
        note: what was done, in a sentence.
        file: where to write it; default: ``submission.json`` in the run's folder.

    Raises:
        ValueError: the run breaks a rule (`mathsft.evaluation.capstone`): another model, other
            steps, other rows in a step, or a training row with a question of the test; the name is
            empty; ``run`` is "tiny" and no file is given.
        FileNotFoundError: the folder lacks the record of a run, or its model.
    """
    if not name.strip():
        raise ValueError("the name is empty: give the name that the leaderboard shows")
    if file is None and run == MODEL:
        raise ValueError("give a file to write: the model without training has no run's folder")
    target = Path(file) if file is not None else Path(run) / "submission.json"
    check_writable(target.parent)
    about = _untrained() if run == MODEL else _trained(Path(run))
    kept = about.pop("kept")
    scored = {"model": MODEL, "peft": kept} if kept and kept.name == "adapter" else {}
    result = evaluate(**(scored or {"model": str(kept or MODEL)}), tasks=TASK, name=name)
    questions = [
        {
            "id": _key(one["question"], one["label"]),
            "label": one["label"],
            "right": int(one["metrics"]["acc"]),
            "loglikelihoods": [round(value, 6) for value in one["loglikelihoods"]],
        }
        for one in result.questions
    ]
    made = Submission(
        name=name, by=by, note=note, date=datetime.now(UTC).isoformat(timespec="seconds"),
        task=TASK, accuracy=sum(one["right"] for one in questions) / len(questions),
        questions_sha256=_hash([one["id"] for one in questions]), questions=questions,
        weights=result.weights, adapter_hash=result.adapter_hash, dtype=result.dtype,
        hardware=result.hardware, versions=result.versions, **about,
    )  # fmt: skip
    write_whole(target, _as_json(made))
    read_submission(target)
    say(f"{name}: {result.accuracy()}")
    return target


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
    _check_rules(found, f"{file}: ")
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
    known = [_key(row["Problem"], _LETTERS.index(row["correct"])) for row in capstone_questions()]
    if ids != known:
        missing, others = len({*known} - {*ids}), len({*map(str, ids)} - {*known})
        raise ValueError(
            f"{file}: its questions are not those of {TASK}: {missing:,} missing, {others:,} "
            f"others, {len(ids) - len({*map(str, ids)}):,} twice. A difference is measured on the "
            "same questions: submit the run again"
        )
    if found.questions_sha256 != _hash(known):
        raise ValueError(f"{file}: questions_sha256 is not the hash of its questions")
    share = sum(one["right"] for one in found.questions) / len(ids)
    if not math.isclose(found.accuracy, share, abs_tol=1e-9):
        raise ValueError(
            f"{file}: accuracy is {found.accuracy}, but {share} of its questions are right"
        )


def _check_rules(found: Submission, where: str = "") -> None:
    if found.steps == 0 and not found.adapter_hash:
        return  # the model as it is: a reference
    if (found.steps, found.rows_per_step) != (STEPS, ROWS):
        raise ValueError(
            f"{where}{found.steps:,} optimiser steps of {found.rows_per_step:,} rows. Runs are "
            f"compared at equal steps: train {STEPS} steps of {ROWS} rows"
        )


def _untrained() -> dict[str, Any]:
    return {
        "kept": None, "steps": 0, "rows_per_step": 0, "objective": "none", "training_rows": 0,
        "training_rows_sha256": "", "files": {}, "settings": {"model": {"name": MODEL}},
    }  # fmt: skip


def _trained(run: Path) -> dict[str, Any]:
    """What the run's record says, checked with the rules before anything is scored."""
    kept = next((run / one for one in ("adapter", "model") if (run / one).is_dir()), None)
    for one in (ENVIRONMENT, "config.yaml", "trainer_state.json"):
        if not (run / one).is_file():
            raise FileNotFoundError(
                f"{run} has no {one}: give the folder of a finished run that a recipe made"
            )
    if kept is None:
        raise FileNotFoundError(f"{run} has no adapter and no model: the run has not finished")
    recipe, record = load_recipe(run), read_json(run / ENVIRONMENT)
    objective = record["command"].split()[-1].replace("-", "_")
    if recipe.get("model", {}).get("name", MODEL) != MODEL:
        raise ValueError(
            f"{run} trained {recipe['model']['name']}; the capstone is for the model {MODEL!r}"
        )
    settings = recipe[objective]
    rows = settings[BATCH] * settings.get(ACCUMULATION, 1) * record["processes"]
    steps = read_json(run / "trainer_state.json")["global_step"]
    train, _ = read_rows(recipe, objective)
    asked = [row["Problem"] for row in capstone_questions()]
    if found := rows_asking(train, asked, name="the training rows"):
        raise ValueError(
            f"{run}: {len(found):,} of {len(train):,} training rows ask a question of the "
            "capstone's test: leave them out (without_test_rows) and train again"
        )
    if (steps, rows) != (STEPS, ROWS):
        raise ValueError(
            f"{run}: {steps:,} optimiser steps of {rows:,} rows. Runs are compared at equal steps: "
            f"train {STEPS} steps of {ROWS} rows"
        )
    resolved = record["resolved"]
    return {
        "kept": kept,
        "steps": steps,
        "rows_per_step": rows,
        "objective": objective,
        "training_rows": resolved["training_rows"],
        "training_rows_sha256": resolved["training_rows_sha256"],
        "files": {
            path.name: sha256(path.read_bytes()).hexdigest()
            for path in sorted(kept.glob("*.safetensors"))
        },
        "settings": recipe,
    }


def _key(question: str, label: int) -> str:
    """Sixteen letters that a question and its label have for themselves."""
    return sha256(f"{label} {question}".encode()).hexdigest()[:16]


def _hash(ids: Sequence[str]) -> str:
    return sha256(" ".join(ids).encode()).hexdigest()


def _as_json(made: Submission) -> str:
    """The file's text: a line for each value and for each question, so that a change can be read."""
    content: Mapping[str, Any] = {"mathsft_submission": FORMAT, **asdict(made)}
    lines = [
        f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in content.items()
        if key != "questions"
    ]
    questions = ",\n".join(f"  {json.dumps(one)}" for one in made.questions)
    return "{\n" + ",\n".join(lines) + ',\n "questions": [\n' + questions + "\n ]\n}\n"
