"""One run of lm-evaluation-harness over multiple choice, with our model class or with `HFLM`."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml

from mathsft.evaluation import harness
from mathsft.evaluation.harness import ForestLM
from mathsft.evaluation.requests import quiet_harness
from mathsft.evaluation.tasks import TASKS, task_manager
from mathsft.models.likelihood import option_scores

METHODS = ("ours", "hflm")


def file_task(rows: Sequence[Any], folder: str | Path, *, sampler: str) -> tuple[Any, Any]:
    """The task over the first half of the rows, with examples from the other; and its manager."""
    half = len(rows) // 2
    files = {}
    for name, part in (("file", rows[:half]), ("examples", rows[half:])):
        path = Path(folder) / f"{name}.json"
        path.write_text(json.dumps(part), encoding="utf-8")
        files[name] = str(path)
    config = load_yaml(TASKS / "mathqa_file.yaml")
    config["fewshot_config"] = {"sampler": sampler}
    return config, task_manager(["mathqa_file"], **files)


def score(
    method: str,
    model: Any,
    tokenizer: Any,
    batch_size: int | str,
    *,
    keep: bool = True,
    **arguments: Any,
) -> dict[str, Any]:
    """One run through `simple_evaluate`: seconds of its log-likelihood phase, its samples, and
    what passed through the model (forests, or the shapes of padded rows)."""
    lm: Any
    with quiet_harness():
        if method == "ours":
            lm = ForestLM(model, tokenizer=tokenizer)
        else:
            lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    seconds: list[float] = []
    forests: list[dict[str, torch.Tensor]] = []
    shapes: list[torch.Size] = []
    phase = lm.loglikelihood

    def timed(requests: Any) -> Any:
        began = time.perf_counter()
        answers = phase(requests)
        seconds.append(time.perf_counter() - began)
        return answers

    def kept(model: Any, batch: dict[str, torch.Tensor]) -> Any:
        if keep:
            forests.append(batch)
        return option_scores(model, batch)

    def seen(module: Any, given: tuple[torch.Tensor, ...]) -> None:
        if given:  # a call of HFLM; ours passes keyword arguments
            shapes.append(given[0].shape)

    hook = model.register_forward_pre_hook(seen)
    try:
        with (
            mock.patch.object(lm, "loglikelihood", timed),
            mock.patch.object(harness, "option_scores", kept),
            quiet_harness(),
        ):
            found = lm_eval.simple_evaluate(lm, **arguments)
    finally:
        hook.remove()
    (samples,) = found["samples"].values()
    return {"seconds": sum(seconds), "samples": samples, "forests": forests, "shapes": shapes}
