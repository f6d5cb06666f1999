"""What the harness returns, as a `Result` keeps it: one entry for each question."""

import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any


def questions_of(samples: Sequence[dict[str, Any]], output_type: str) -> list[dict[str, Any]]:
    """Return the questions of a task, without what all samples repeat.

    A task with several filters (ways to read the answer) has a sample for each; the first filter's
    are taken. If contexts differ and continuations do not (winogrande), the contexts are the
    choices.

    Args:
        samples: the harness's samples of one task.
        output_type: the task's, such as "multiple_choice".

    Raises ValueError for a log-likelihood that is not finite.
    """
    questions = []
    for sample in first_filter(samples):
        doc, asked = sample["doc"], sample["arguments"]
        scores: list[float] = []
        if output_type == "multiple_choice":
            scores = [float(answer[0]) for answer in sample["filtered_resps"]]
            if "acc_mutual_info" in sample["metrics"]:  # the second half is without the question
                scores, asked = scores[: len(scores) // 2], asked[: len(scores) // 2]
        if not all(map(math.isfinite, scores)):
            raise ValueError(f"{doc}: a log-likelihood is not finite ({scores})")
        which = 1 if len({context for context, *_ in asked}) == 1 else 0
        label = sample["target"]
        named = doc if isinstance(doc, dict) else {}
        values = {metric: _number(sample.get(metric)) for metric in sample["metrics"]}
        questions.append(
            {
                "id": sample["doc_hash"],
                "question": str(named.get("Problem") or named.get("question") or asked[0][0]),
                "choices": [pair[which].removeprefix(" ") for pair in asked] if scores else [],
                "label": label if scores and isinstance(label, int) else -1,
                "category": str(named.get("category") or ""),
                "loglikelihoods": scores,
                "metrics": {key: value for key, value in values.items() if value is not None},
            }
        )
    return questions


def figures(found: Mapping[str, Any]) -> dict[str, float]:
    """The harness's own figures for a task: accuracy and standard error by metric."""
    return {key: float(v) for key, v in found.items() if isinstance(v, int | float)}


def short_name(name: str) -> str:
    """The last part of a model's name or path, or the one before if that is just "adapter"."""
    path = Path(name)
    return path.parent.name if path.name == "adapter" and path.parent.name else path.name


def first_filter(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples of the first filter, in the order of the questions."""
    kept = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    return sorted(kept, key=lambda sample: sample["doc_id"])


def prompts_hash(samples: Sequence[dict[str, Any]]) -> str:
    """Sixteen letters that differ if a prompt differs; "" if the harness wrote no hashes."""
    found = [sample.get("prompt_hash") for sample in first_filter(samples)]
    return sha256("".join(map(str, found)).encode()).hexdigest()[:16] if all(found) else ""


def _number(value: Any) -> float | None:
    """A metric's value; None for one that is not a number, such as a pair to be summed up."""
    value = value.item() if hasattr(value, "item") else value
    if value in ("True", "False"):  # numpy's truth, as the harness writes it into a file
        return float(value == "True")
    try:
        return float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        return None
