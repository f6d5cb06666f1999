"""Deduplicate many files on a Slurm cluster, or in the processes of one machine.

Run this on a login node, from the repository:

    mathsft deduplicate-files --source 'data/*.jsonl' --output deduplicated \\
        --partition cpu --tasks 64 --env_command 'source .venv/bin/activate'

Without ``--partition`` the same pipeline runs here. The output folder must be on storage that
every machine sees. A second call resumes: tasks that are complete are not run again.
"""

import json
from functools import reduce
from glob import glob
from pathlib import Path
from typing import Any

from mathsft.checks import SHARE, at_least, check_number
from mathsft.data.row_parts import By
from mathsft.data.sources import file_stamp
from mathsft.files import check_writable, read_json, write_whole


def deduplicate_files(
    source: str,
    output: str | Path,
    *,
    tasks: int = 1,
    by: By = "question",
    n: int = 3,
    threshold: float = 0.8,
    seed: int = 0,
    workers: int = 1,
    partition: str | None = None,
    time: str = "04:00:00",
    memory_gb: int = 4,
    env_command: str = "",
) -> Any:
    """Keep the first of near duplicates in many files (`mathsft.data.near_pipeline`).

    The rows that are kept are those of ``deduplicate(method="near")`` over all files, in the order
    of their names. They are in ``output``, a file for each task; ``groups.jsonl`` is the report.

    Args:
        source: a pattern of file names, such as ``data/*.jsonl``.
        output: a folder.
        tasks: how many tasks share the files; at most as many as there are files.
        by: "question" compares what rows ask, "all" everything that they say.
        n: words in a run.
        threshold: the share of common runs from which on two rows are duplicates.
        seed: of the hash functions.
        workers: how many tasks run at once: processes here, or jobs on the cluster.
        partition: of Slurm; without it, the tasks run on this machine.
        time: limit of a task on the cluster.
        memory_gb: memory of a task on the cluster. The third stage needs about 1 GB for every ten
            million runs of words in rows that have a band in common with another.
        env_command: what a task on the cluster calls first, such as
            ``source .venv/bin/activate``.

    Returns the executor of the last stage, after it has run here or was given to Slurm.

    Raises:
        ValueError: no file, more tasks than files, or an impossible number.
        ImportError: datatrove is missing.
    """
    try:
        from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor

        from mathsft.data.near_pipeline import near_stages
    except ImportError as error:
        raise ImportError(f'this needs datatrove: pip install "mathsft[data]" ({error})') from error
    files = [Path(name).resolve() for name in sorted(glob(source))]
    if not files:
        raise ValueError(f"--source {source}: there is no such file")
    for name, value in {"tasks": tasks, "n": n, "workers": workers, "memory_gb": memory_gb}.items():
        check_number(name, value, at_least(1))
    check_number("threshold", threshold, SHARE)
    check_number("seed", seed, at_least(0))
    if tasks > len(files):
        raise ValueError(f"--tasks {tasks}: there are {len(files)} files; a task needs one or more")
    folder = Path(output).resolve()
    if inside := [file for file in files if file.parent == folder]:
        raise ValueError(f"--output {output}: {inside[0].name} of --source is there: give another")
    check_writable(folder)
    settings = {"tasks": tasks, "by": by, "n": n, "threshold": threshold, "seed": seed}
    _check_same(folder / "settings.json", settings | {"files": [file_stamp(one) for one in files]})
    stages = near_stages(files, folder, tasks=tasks, by=by, n=n, threshold=threshold, seed=seed)

    def executor(before: Any, stage: tuple[str, list[Any], int]) -> Any:
        name, steps, count = stage
        shared: dict[str, Any] = {
            "pipeline": steps,
            "tasks": count,
            "workers": min(workers, count),
            "logging_dir": str(folder / "logs" / name),
            "depends": before,
        }
        if partition is None:
            return LocalPipelineExecutor(**shared)
        return SlurmPipelineExecutor(
            **shared,
            job_name=f"deduplicate-{name}",
            partition=partition,
            time=time,
            mem_per_cpu_gb=memory_gb,
            env_command=env_command,
            qos="",
        )

    last = reduce(executor, stages, None)
    last.run()
    return last


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    """Note what the folder was begun with; a second call resumes, so it must be the same."""
    now = json.loads(json.dumps(settings))
    before = read_json(path) if path.exists() else now
    for name in now:
        if not isinstance(before, dict) or before.get(name) != now[name]:
            raise ValueError(
                f"{path.parent} was begun with other settings, or its files have changed since "
                f"({name}): give another --output, or remove the folder"
            )
    write_whole(path, json.dumps(now))
