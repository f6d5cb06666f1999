"""Results in the form that an evaluation stores, made without running one."""

from collections.abc import Sequence

from mathsft.evaluation.results import Result


def result(
    name: str,
    correct: Sequence[bool | int],
    *,
    task: str = "mathqa_tiny",
    ids: Sequence[str] | None = None,
    seed: int = 0,
    **changes: object,
) -> Result:
    """Make a result with five choices a question; if ``correct``, the right one scores highest."""
    ids = [f"q{n}" for n in range(len(correct))] if ids is None else ids
    questions = []
    for n, right in enumerate(correct):
        scores = [-9.0 - (len(name) * 7 + n * 3 + choice + seed) % 11 / 10 for choice in range(5)]
        scores[2 if right else 4] = -1.0 - len(name) / 10
        questions.append(
            {
                "id": ids[n],
                "question": f"what is {n} + 1 ?",
                "choices": [str(n + c) for c in range(5)],
                "label": 2,
                "category": ("general", "gain")[n % 2],
                "loglikelihoods": scores,
                "metrics": {"acc": float(right), "acc_norm": float(right)},
            }
        )
    fields = {
        "name": name, "task": task, "model": "tiny", "adapter": "", "weights": "0" * 16,
        "adapter_hash": "", "dtype": "float32", "quantized": False, "num_fewshot": 0, "seed": 0,
        "date": "2026-01-01T00:00:00+00:00", "minutes": 0.1, "peak_memory_gb": 0.5,
        "hardware": "CPU", "versions": {"torch": "2.13"}, "harness": {"acc,none": 0.5},
        "questions": questions,
    }  # fmt: skip
    return Result(**{**fields, **changes})
