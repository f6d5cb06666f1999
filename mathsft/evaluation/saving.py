"""Find out before an evaluation whether its result can be saved, and never lose one after it."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lm_eval.utils import handle_non_serializable, hash_string

from mathsft.evaluation.result import Result, check_place
from mathsft.processes import in_first


def question_ids(
    task: Any, *, limit: int | None = None, samples: Sequence[int] | None = None
) -> list[str] | None:
    """The ids that a result of this task will have: the harness's hashes of its rows.

    None if the task has its own Python function for results, which may change a row before the
    harness makes its hash.

    Args:
        task: a task that the harness has loaded.
        limit: only the first questions.
        samples: only the questions with these numbers.
    """
    if callable(task.get_config("process_results")):
        return None
    return [
        hash_string(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False))
        for _, doc in task.doc_iterator(rank=0, limit=limit, world_size=1, samples=samples)
    ]


class Places:
    """Where the results of an evaluation will be saved; checked before the work.

    Args:
        folder: where results go; None: nowhere.
        tasks: the loaded tasks, by name.
        num_fewshot: as it was given; a task's own number may win, as in the harness.
        limit: as it was given.
        samples: the harness's argument, for each task the numbers of its questions.
        base: the base's result, whose questions must be the same.

    Raises ValueError if ``base`` has other questions or another number of examples.
    """

    def __init__(
        self,
        folder: str | Path | None,
        tasks: Mapping[str, Any],
        *,
        num_fewshot: int | None = None,
        limit: int | None = None,
        samples: Mapping[str, Sequence[int]] | None = None,
        base: Result | None = None,
    ) -> None:
        self.folder = folder
        self.shots: dict[str, int] = {}
        self.limit = None if limit is None else int(limit)
        for name, task in tasks.items():
            own = task.get_config("num_fewshot")
            self.shots[name] = own or 0 if num_fewshot is None or own == 0 else int(num_fewshot)
        if base is not None:
            chosen = (samples or {}).get(base.task)
            ids = question_ids(tasks[base.task], limit=limit, samples=chosen)
            check_base(base, self.shots[base.task], ids)

    def check(self, name: str) -> None:
        """Raise unless the results of a run with this name can be saved.

        Raises ValueError as `check_place` does.
        """
        if self.folder is None:
            return
        for task, shots in self.shots.items():
            check_place(self.folder, name, task, shots, self.limit)

    def save(self, result: Result, *, device: str) -> None:
        """Save a result in process 0. If that fails, save it elsewhere and raise OSError."""
        if self.folder is not None:
            in_first(partial(_save, result, self.folder), device=device)


def check_base(base: Result, shots: int, ids: Sequence[str] | None) -> None:
    """Raise ValueError unless the base's result has these questions and examples."""
    if base.num_fewshot != shots:
        raise ValueError(
            f"base has {base.num_fewshot} examples per question, this run {shots}: give both the "
            "same num_fewshot"
        )
    if ids is None or base.ids == list(ids):
        return
    if len(base.ids) != len(ids):
        what = f"base has {len(base.ids):,} questions, this run {len(ids):,}"
    else:
        at = next(i for i, (a, b) in enumerate(zip(base.ids, ids, strict=True)) if a != b)
        what = f"question {at} of the base and of this run differ"
    raise ValueError(
        f"not comparable: {what}. A difference is measured on the same questions: evaluate both "
        "on the same task and rows (file, limit)"
    )


def _save(result: Result, folder: str | Path) -> Path:
    try:
        return result.save(folder)
    except (OSError, ValueError) as error:
        try:
            spare = result.save(tempfile.mkdtemp(prefix="mathsft-results-"))
        except OSError:
            raise OSError(f"{folder}: {error}. The result could not be saved: {result}") from error
        raise OSError(
            f"{folder}: {error}. The result was saved as {spare}: move that file, nothing needs "
            "to be evaluated again"
        ) from error
