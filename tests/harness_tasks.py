"""Tasks of lm-evaluation-harness over our own rows, and a run of a model on one task."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from mathsft.evaluation.requests import quiet_harness

HARNESS = Path(lm_eval.__file__).parent / "tasks"


def task_over(
    folder: Path,
    yaml: str,
    *,
    test: list[dict[str, Any]],
    examples: list[dict[str, Any]],
    sampler: str | None = None,
) -> dict[str, Any]:
    """The harness's own task file, with ``test`` and ``examples`` instead of the hub's rows."""
    files = {}
    for split, rows in (("test", test), ("train", examples)):
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files[split] = str(path)
    config = load_yaml(HARNESS / yaml)
    config.pop("tag", None)
    config.pop("dataset_name", None)
    config |= {
        "task": "local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "training_split": "train",
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": "train",
    }
    if sampler:
        config["fewshot_config"] = {"sampler": sampler}
    return config


def samples_of(lm: Any, config: dict[str, Any], **arguments: Any) -> list[dict[str, Any]]:
    """Return the harness's samples from one run."""
    with quiet_harness():
        found = lm_eval.simple_evaluate(
            lm,
            tasks=[deepcopy(config)],
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0,
            **arguments,
        )
    (samples,) = found["samples"].values()
    return samples


def assert_same_samples(
    ours: list[dict[str, Any]], stock: list[dict[str, Any]], *, tolerance: float = 1e-4
) -> None:
    """Log-likelihoods agree within ``tolerance`` nats; prompts, greedy flags, metrics exactly."""
    assert len(ours) == len(stock) > 0
    for one, other in zip(ours, stock, strict=True):
        assert one["arguments"] == other["arguments"]
        for mine, theirs in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
            assert abs(mine[0] - theirs[0]) < tolerance
            assert mine[1] == theirs[1]
        for metric in one["metrics"]:
            assert one[metric] == other[metric], metric


@contextmanager
def passes_counted(model: Any) -> Iterator[list[int]]:
    """Record the number of positions in each pass through the model."""
    seen: list[int] = []

    def count(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = given[0] if given else named["input_ids"]
        seen.append(ids.numel())

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()
