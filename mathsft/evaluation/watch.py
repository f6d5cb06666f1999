"""Evaluate checkpoints as a training writes them."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from mathsft.checks import check_numbers
from mathsft.evaluation.results import Result, load_results, result_file
from mathsft.evaluation.run import evaluate
from mathsft.evaluation.tables import by_number
from mathsft.models.model_files import holds_adapter
from mathsft.training.checkpoints import checkpoint_problem

_problem = partial(checkpoint_problem, weights_only=True)


def watch(
    folder: str | Path,
    *,
    model: str | Path = "tiny",
    tasks: str = "mathqa",
    results: str | Path | None = None,
    timeout: float = 1800.0,
    poll: float = 10.0,
    **arguments: Any,
) -> list[Result]:
    """Evaluate each finished ``checkpoint-N`` of ``folder`` once, in the order of N.

    A checkpoint counts as finished when its manifest says so, or where it has none when
    its ``trainer_state.json``, which the trainer writes last, can be read and every file can
    be opened (`mathsft.training.checkpoints`). One that is being written, or was cut
    short, is looked at again later; what stays unfinished is named in the end.

    What was evaluated is known by its file in ``results`` alone: after a restart nothing is
    evaluated twice, and nothing is skipped. For other arguments, or another training in the
    same folder, give another ``results``. A checkpoint that the trainer removes in the
    meantime (``save_total_limit``) is passed over with a line that says so. It is for one
    process, beside the training.

    Args:
        folder: the trainer's ``output_dir``; it need not exist yet.
        model: the base that the checkpoints' adapters belong to; where a checkpoint is a full
            model it is evaluated by itself.
        tasks: one task (`evaluate`).
        results: where the results go; default: ``folder/results``.
        timeout: seconds without a new finished checkpoint after which watching ends. 0: only
            what is there now.
        poll: seconds between two looks.
        arguments: further ones of `evaluate`, such as ``quantize`` or ``limit``.

    Returns the results of all checkpoints evaluated, now or before, by step. Raises what
    `evaluate` raises: a checkpoint that cannot be evaluated is no reason to go on silently;
    and ValueError in several processes, for a number that cannot be meant (`mathsft.checks`), for
    a task by another name than its own, and for ``num_fewshot`` where the task does not heed it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("watch evaluates in one process: start it without torchrun")
    check_numbers({**arguments, "timeout": timeout, "poll": poll})
    shots = arguments.get("num_fewshot")
    folder = Path(folder)
    results = folder / "results" if results is None else Path(results)
    seen = time.monotonic()
    while True:
        pending = _unevaluated(folder, results, tasks, shots)
        ready = [checkpoint for checkpoint in pending if _problem(checkpoint) is None]
        for checkpoint in ready:
            adapter = {"model": model, "peft": checkpoint}
            what = adapter if holds_adapter(checkpoint) else {"model": checkpoint}
            try:
                found = evaluate(
                    **what, tasks=tasks, name=checkpoint.name, folder=results, **arguments
                )
            except (OSError, ValueError):
                if _problem(checkpoint) is None:
                    raise
                how = "changed" if checkpoint.is_dir() else "removed"
                print(f"{checkpoint.name} was {how} while it was evaluated")
                continue
            print(found)
            if found.task != tasks:  # it would be looked for, and evaluated, for ever
                raise ValueError(f"tasks={tasks!r}: give the task's own name, {found.task!r}")
            if shots not in (None, found.num_fewshot):
                raise ValueError(
                    f"num_fewshot={shots}: {tasks} always has {found.num_fewshot} examples, as its "
                    "file says; leave it out"
                )
            seen = time.monotonic()
        if not ready:
            if time.monotonic() - seen >= timeout:
                break
            time.sleep(min(poll, timeout))
    for checkpoint in pending:
        print(f"{checkpoint.name} was not evaluated: {_problem(checkpoint)}")
    stored = load_results(results) if results.is_dir() else []
    ours = [
        r
        for r in stored
        if r.task == tasks and r.name.startswith("checkpoint-") and shots in (None, r.num_fewshot)
    ]
    return sorted(ours, key=lambda result: by_number(result.name))


def _unevaluated(folder: Path, results: Path, task: str, shots: int | None) -> list[Path]:
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.is_dir()]
    missing = [path for path in checkpoints if not _evaluated(results, path.name, task, shots)]
    return sorted(missing, key=lambda path: by_number(path.name))


def _evaluated(results: Path, name: str, task: str, shots: int | None) -> bool:
    if shots is not None:
        return (results / result_file(name, task, shots)).exists()
    # Nobody said how many examples, and the task may have a number of its own.
    plain = result_file(name, task)
    few = plain.removesuffix(".json") + ".*-shot.json"
    return (results / plain).exists() or any(results.glob(few))
