"""Score a run on the capstone's questions, and write its submission."""

from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from mathsft.data.contamination import rows_asking
from mathsft.evaluation.capstone import MODEL, TASK, capstone_questions
from mathsft.evaluation.run import evaluate
from mathsft.files import check_writable, read_json, write_whole
from mathsft.processes import say
from mathsft.recipes import load_recipe
from mathsft.record import ENVIRONMENT
from mathsft.sharing.submission import (
    Submission,
    as_json,
    check_rules,
    question_key,
    questions_hash,
    read_submission,
)
from mathsft.training.batch_size import BATCH, STEPS
from mathsft.training.recipe_rows import read_rows


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
            "id": question_key(one["question"], one["label"]),
            "label": one["label"],
            "right": int(one["metrics"]["acc"]),
            "loglikelihoods": [round(value, 6) for value in one["loglikelihoods"]],
        }
        for one in result.questions
    ]
    made = Submission(
        name=name, by=by, note=note, date=datetime.now(UTC).isoformat(timespec="seconds"),
        task=TASK, accuracy=sum(one["right"] for one in questions) / len(questions),
        questions_sha256=questions_hash([one["id"] for one in questions]), questions=questions,
        weights=result.weights, adapter_hash=result.adapter_hash, dtype=result.dtype,
        hardware=result.hardware, versions=result.versions, **about,
    )  # fmt: skip
    write_whole(target, as_json(made))
    read_submission(target)
    say(f"{name}: {result.accuracy()}")
    return target


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
    rows = settings[BATCH] * settings.get(STEPS, 1) * record["processes"]
    steps = read_json(run / "trainer_state.json")["global_step"]
    check_rules(steps, rows, where=f"{run}: ")
    train, _ = read_rows(recipe, objective)
    asked = [row["Problem"] for row in capstone_questions()]
    if found := rows_asking(train, asked, name="the training rows"):
        raise ValueError(
            f"{run}: {len(found):,} of {len(train):,} training rows ask a question of the "
            "capstone's test: leave them out (without_test_rows) and train again"
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
