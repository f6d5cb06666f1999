"""Read what ``lm_eval --log_samples --output_path FOLDER`` wrote, as results.

The harness writes a file of figures for each run, ``results_DATE.json``, and a file of samples
for each of its tasks, ``samples_TASK_DATE.jsonl``, into a folder named after the model. Only the
samples say which question was answered correctly, so only they can be paired.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mathsft.evaluation.result import Result
from mathsft.evaluation.samples import figures, prompts_hash, questions_of, short_name
from mathsft.files import check_regular, parse_json, read_json
from mathsft.processes import say

_DATE = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?"
_SAMPLES = re.compile(rf"samples_(?P<task>.+?)(?:_(?P<date>{_DATE}))?\.jsonl")
_FIGURES = re.compile(rf"(?P<name>.+)_(?P<date>{_DATE})\.json")
_VERSIONS = (("lm_eval", "lm_eval_version"), ("transformers", "transformers_version"))
_NEEDED = ("doc_id", "doc", "target", "arguments", "filtered_resps")
_NOT_METRICS = {*_NEEDED, "resps", "filter", "metrics", "doc_hash", "prompt_hash", "target_hash"}


class _Log(NamedTuple):
    """A task of one run: its model's name, the task, the date, and the files if they are there."""

    model: str
    task: str
    date: str
    samples: Path | None
    figures: Mapping[str, Any]
    source: Path


def is_log(path: Path) -> bool:
    """Whether a file has a name that the harness gives."""
    return bool(_SAMPLES.fullmatch(path.name) or _FIGURES.fullmatch(path.name))


def harness_results(path: Path) -> tuple[list[Result], list[str]]:
    """The results in a folder and its subfolders, or in one file, and what is wrong with others.

    Of several runs of one model on one task the newest is taken, and a line says so. Without the
    file of figures, the folder's name is the model's, and the number of few-shot examples counts
    as 0.

    Args:
        path: a folder; or one of the harness's files, whose other files lie beside it.
    """
    damaged: list[str] = []
    logs: dict[tuple[str, str], list[_Log]] = {}
    for folder in _folders(path) if path.is_dir() else [path.parent]:
        for log in _logs(folder, damaged):
            if path.is_dir() or path in (log.samples, log.source):
                logs.setdefault((log.model, log.task), []).append(log)
    found = []
    for (model, task), some in sorted(logs.items()):
        *older, newest = sorted(some, key=lambda log: log.date)
        if newest.samples is None:
            damaged.append(
                f"{newest.source}: no samples of {task}, only figures of the whole task, which "
                "cannot be paired. Run lm_eval again with --log_samples"
            )
            continue
        if older:
            say(f"{model}, {task}: of {len(some)} runs the newest is read, {newest.date}")
        try:
            found.append(_result(newest))
        except (ValueError, OSError) as error:
            damaged.append(str(error))
    return found, damaged


def _folders(path: Path) -> list[Path]:
    inner = [one for one in sorted(path.iterdir()) if one.is_dir() and one.name[:1] != "."]
    return [path, *inner]


def _logs(folder: Path, damaged: list[str]) -> list[_Log]:
    """Each task of each run whose files are in the folder."""
    samples: dict[tuple[str, str], Path] = {}
    for file in sorted(folder.glob("samples_*.jsonl")):
        if match := _SAMPLES.fullmatch(file.name):
            samples[match["date"] or "", match["task"]] = file
    found = []
    for file in sorted(folder.glob("*.json")):
        if not (match := _FIGURES.fullmatch(file.name)):
            continue
        try:
            figures = read_json(file)
        except (ValueError, OSError) as error:
            damaged.append(f"{error}. The figures are damaged; samples are read without them")
            continue
        if not isinstance(figures, dict) or not isinstance(figures.get("configs"), dict):
            continue  # another program's file with a date in its name
        model = str(figures.get("model_name") or folder.name)
        for task in figures["configs"]:
            log = samples.pop((match["date"], task), None)
            found.append(_Log(model, task, match["date"], log, figures, file))
    alone = [
        _Log(folder.name, task, date, file, {}, file) for (date, task), file in samples.items()
    ]
    return [*found, *alone]


def _result(log: _Log) -> Result:
    assert log.samples is not None
    samples = _read_samples(log.samples)
    of_task: dict[str, Any] = {
        key: (log.figures.get(key) or {}).get(log.task)
        for key in ("configs", "results", "n-shot", "n-samples")
    }
    config = log.figures.get("config") or {}
    kind = (of_task["configs"] or {}).get("output_type") or _kind(samples[0])
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    if len(filters) > 1:
        say(f"{log.samples.name}: by the filter {filters[0]}; {', '.join(filters[1:])} left out")
    try:
        questions = questions_of(samples, kind)
    except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(f"{log.samples}: not the harness's samples ({error!r:.200})") from error
    wanted = (of_task["n-samples"] or {}).get("effective", len(questions))
    if len(questions) < wanted:
        raise ValueError(
            f"{log.samples}: {len(questions):,} of {wanted:,} questions. The file is damaged: run "
            "lm_eval again"
        )
    seconds = float(log.figures.get("total_evaluation_time_seconds") or 0)
    when = log.figures.get("date")
    return Result(
        name=short_name(log.model),
        task=log.task,
        model=log.model,
        adapter="",
        weights="",
        adapter_hash="",
        dtype=str(config.get("model_dtype") or "").removeprefix("torch."),
        quantized=False,
        num_fewshot=int(of_task["n-shot"] or 0),
        seed=int(config.get("fewshot_seed") or 0),
        date=datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds") if when else log.date,
        minutes=seconds / 60,
        peak_memory_gb=math.nan,  # the harness does not measure it
        hardware=str(config.get("device") or ""),
        versions={name: str(log.figures[key]) for name, key in _VERSIONS if log.figures.get(key)},
        harness=figures(of_task["results"] or {}),
        questions=questions,
        limit=None if config.get("limit") is None else len(questions),
        prompts=prompts_hash(samples),
    )


def _read_samples(file: Path) -> list[dict[str, Any]]:
    """The samples as the harness had them in memory: it writes arguments and numbers as text."""
    check_regular(file)
    samples = []
    seen: dict[str, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        sample = parse_json(line, where)
        if not isinstance(sample, dict) or (missing := [k for k in _NEEDED if k not in sample]):
            what = ", ".join(missing) + " missing" if isinstance(sample, dict) else "no sample"
            raise ValueError(f"{where}: {what}: not the harness's samples")
        key = json.dumps([sample["doc_id"], sample.setdefault("filter", "none")])
        if (first := seen.setdefault(key, number)) != number:
            raise ValueError(f"{where}: question {sample['doc_id']} is also in line {first}")
        samples.append(_as_in_memory(sample))
    if not samples:
        raise ValueError(f"{file}: no samples in it. The file is damaged: run lm_eval again")
    return samples


def _as_in_memory(sample: dict[str, Any]) -> dict[str, Any]:
    asked = sample["arguments"]
    if isinstance(asked, dict):
        asked = [[*arguments.values()] for arguments in asked.values()]
    target = sample["target"]
    if isinstance(target, str) and re.fullmatch(r"-?\d{1,9}", target):
        target = int(target)
    metrics = sample.get("metrics") or [key for key in sample if key not in _NOT_METRICS]
    ids = {"doc_hash": str(sample.get("doc_hash") or f"question {sample['doc_id']}")}
    return {**sample, **ids, "arguments": asked, "target": target, "metrics": metrics}


def _kind(sample: dict[str, Any]) -> str:
    """The task's output type, if no file says it: several choices have a log-likelihood each."""
    answers = sample["filtered_resps"]
    pairs = [
        a for a in answers if isinstance(a, list) and len(a) == 2 and a[1] in ("True", "False")
    ]
    return "multiple_choice" if len(pairs) == len(answers) > 1 else "generate_until"
