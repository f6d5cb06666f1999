"""Evaluate checkpoints while a training run writes them."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from mathsft.checks import check_numbers
from mathsft.evaluation.results import Result, read_results, result_file
from mathsft.evaluation.run import evaluate
from mathsft.evaluation.served_checkpoints import check_serve, evaluate_served
from mathsft.evaluation.stored import read_stored
from mathsft.evaluation.suites import SUITES
from mathsft.evaluation.tables import by_number
from mathsft.evaluation.task_files import task_name
from mathsft.generation.server_forms import ServerError
from mathsft.models.model_files import holds_adapter
from mathsft.processes import say
from mathsft.training.checkpoints import checkpoint_problem

# Arguments of `evaluate` that `watch` gives itself.
FIXED = ("tokenizer", "name", "peft", "base_url")
_problem = partial(checkpoint_problem, weights_only=True)


def watch(
    folder: str | Path,
    *,
    model: str | Path = "tiny",
    tasks: str = "mathqa",
    results: str | Path | None = None,
    timeout: float = 1800.0,
    poll: float = 10.0,
    serve: str | None = None,
    serve_timeout: float = 600.0,
    **arguments: Any,
) -> list[Result]:
    """Evaluate each finished ``checkpoint-N`` of ``folder`` once, in the order of N.

    A checkpoint counts as finished if its manifest says so. Without a manifest, it counts if its
    ``trainer_state.json``, which the trainer writes last, can be read and every file can be
    opened (`mathsft.training.checkpoints`). One that is being written, or was cut short, is
    checked again later; those that stay unfinished are named at the end.

    Only a whole file in ``results`` says that a checkpoint was evaluated: after a restart, nothing
    is evaluated twice, and nothing is skipped. A file that is empty, cut or damaged is named, and
    its checkpoint is evaluated again. Results of another ``limit`` or ``num_fewshot`` are others;
    for other arguments, or another training run in the same folder, give another ``results``. A
    checkpoint that the trainer removes in the meantime (``save_total_limit``) is skipped, and a
    line says so. Run it in one process, beside the training run.

    With ``serve``, a server answers in place of a model of this process. One is started for each
    checkpoint on a free port, and only this one is stopped afterwards. It needs GPUs of its own:
    ``CUDA_VISIBLE_DEVICES`` names them. Its log is in ``serving`` in ``results``.

    Args:
        folder: the trainer's ``output_dir``; it need not exist yet.
        model: the base that the checkpoints' adapters belong to; a checkpoint that is a full
            model is evaluated on its own.
        tasks: one task, by name or by its file (`evaluate`); no suite.
        results: where the results go; default: ``folder/results``.
        timeout: watching ends after this many seconds without a new finished checkpoint; 0: only
            what is there now.
        poll: seconds between two checks of the folder.
        serve: how a checkpoint is served: a shipped recipe (``vllm``, ``sglang``,
            ``transformers``), or a command with ``{model}`` and ``{port}``.
        serve_timeout: seconds until a server must be ready.
        arguments: further arguments of `evaluate`, such as ``quantize`` or ``limit``.

    Returns the results of all checkpoints, evaluated now or before, by step; a damaged file of
    another task or model is named. Raises what
    `evaluate` raises, rather than skip a checkpoint that cannot be evaluated; and ValueError in
    several processes, for an impossible number (`mathsft.checks`), for a task that is not given
    by its own name, for a ``num_fewshot`` that the task ignores, and if the server could take the
    training run's GPU. Raises ServerError if a server does not start in time.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("watch evaluates in one process: start it without torchrun")
    check_numbers({**arguments, "timeout": timeout, "poll": poll})
    if tasks in SUITES:
        raise ValueError(
            f"{tasks} is a suite: watch evaluates one task of {', '.join(SUITES[tasks])}"
        )
    if serve is not None:
        check_serve(serve, timeout=serve_timeout)
    shots, limit = arguments.get("num_fewshot"), arguments.get("limit")
    evaluated, task = _Evaluated(), task_name(tasks)
    folder = Path(folder)
    results = folder / "results" if results is None else Path(results)
    seen, fresh = time.monotonic(), 0  # fresh: how many were evaluated now
    while True:
        checkpoints = [path for path in folder.glob("checkpoint-*") if path.is_dir()]
        pending = [
            path
            for path in sorted(checkpoints, key=lambda path: by_number(path.name))
            if not evaluated.holds(results, path.name, task, shots, limit)
        ]
        ready = [checkpoint for checkpoint in pending if _problem(checkpoint) is None]
        for checkpoint in ready:
            try:
                if serve is None:
                    adapter = {"model": model, "peft": checkpoint}
                    what = adapter if holds_adapter(checkpoint) else {"model": checkpoint}
                    found = evaluate(
                        **what, tasks=tasks, name=checkpoint.name, folder=results, **arguments
                    )
                else:
                    found = evaluate_served(
                        checkpoint, model=model, serve=serve, timeout=serve_timeout,
                        results=results, tasks=tasks, **arguments,
                    )  # fmt: skip
            except (OSError, ValueError, ServerError):
                if _problem(checkpoint) is None:
                    raise
                how = "changed" if checkpoint.is_dir() else "removed"
                print(f"{checkpoint.name} was {how} while it was evaluated")
                continue
            print(found)
            fresh += 1
            if found.task != task:  # else it would be evaluated again and again
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
    if not checkpoints:
        print(f"{folder}: there is no checkpoint")
    elif not pending and not fresh:
        print(f"{folder}: all {len(checkpoints)} checkpoints have a result in {results}")
    stored, damaged = read_results(results) if results.is_dir() else ([], [])
    for told in damaged:
        say(f"left out: {told}")
    ours = [
        r
        for r in stored
        if r.task == task
        and r.name.startswith("checkpoint-")
        and shots in (None, r.num_fewshot)
        and limit in (r.limit, None)
    ]
    return sorted(ours, key=lambda result: by_number(result.name))


class _Evaluated:
    """Which results are there and whole; a file is read again only if it has changed."""

    def __init__(self) -> None:
        self.whole: dict[Path, tuple[int, int]] = {}

    def holds(
        self, results: Path, name: str, task: str, shots: int | None, limit: int | None
    ) -> bool:
        files = [results / result_file(name, task, shots or 0, limit)]
        if shots is None:  # no number of examples was given, and the task may have its own
            few = result_file(name, task, 1, limit).replace(".1-shot", ".*-shot")
            files += sorted(results.glob(few))
        return any(file.exists() and self._whole(file) for file in files)

    def _whole(self, file: Path) -> bool:
        about = file.stat()
        stamp = (about.st_mtime_ns, about.st_size)
        if self.whole.get(file) != stamp:
            try:
                read_stored(file, Result)
            except ValueError as error:
                say(f"{error}")
                return False
            self.whole[file] = stamp
        return True
