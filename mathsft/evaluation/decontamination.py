"""Decontamination against the tests of lm-evaluation-harness's tasks."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from mathsft.data.decontamination import Decontaminated, remove_questions
from mathsft.data.row_parts import By
from mathsft.evaluation.requests import quiet_harness
from mathsft.evaluation.suites import in_full
from mathsft.evaluation.tasks import load_tasks, task_manager
from mathsft.models.modes import random_state_kept


def decontaminate(
    rows: Dataset | Iterable[Mapping[str, Any]],
    tasks: str | Sequence[str],
    *,
    by: By = "all",
    n: int = 13,
    threshold: float | None = None,
    templates: bool = False,
    batch_size: int = 1000,
    report: str | Path | None = None,
    test_file: str | Path | None = None,
    trust_task_code: bool = False,
) -> Decontaminated:
    """Leave out the rows that hold a test question of a task; print how many, and of which task.

    Args:
        rows: rows of any kind, as `mathsft.data.deduplication.deduplicate` reads them.
        tasks: names of tasks or groups of lm-evaluation-harness, such as ``["gsm8k", "mmlu"]``,
            ours (``mathqa_tiny``), paths of task files, or suites, as in `mathsft.evaluate`.
        by: "all" looks into everything that a row says, also its answers; "question" only into
            what it asks.
        n: words in a run. 13 is the number of GPT-3 and of lm-evaluation-harness.
        threshold: the share of a question's runs that a row must hold. Default: one run is enough.
            Questions made from templates share long runs with many others: for those, n=8 and
            threshold=0.7 (PaLM) tell a copy from a relative.
        templates: also leave out rows that equal a question except for its numbers.
        batch_size: rows that are read at once; the result does not depend on it.
        report: a file (.jsonl or .csv) for the matches, one line each
            (`mathsft.data.decontamination.Match`).
        test_file: a file of MathQA rows, which are the test of ``mathqa_file``.
        trust_task_code: run the code of task files that are given by path.

    Raises:
        ValueError: what `task_questions` and `mathsft.data.decontamination.remove_questions` raise.
        ConnectionError: the rows of a task are on the hub only, and the hub does not answer.
    """
    tests = task_questions(tasks, test_file=test_file, trust_task_code=trust_task_code)
    return remove_questions(
        rows,
        tests,
        by=by,
        n=n,
        threshold=threshold,
        templates=templates,
        batch_size=batch_size,
        report=report,
    )


def task_questions(
    tasks: str | Sequence[str],
    *,
    test_file: str | Path | None = None,
    trust_task_code: bool = False,
) -> dict[str, list[str]]:
    """The questions that tasks ask, by the name of the task; a group gives all of its tasks.

    They are those of the test split, or of the validation split for a task without a test, as the
    harness takes them. A question is the part of the prompt that comes from the row: the words that
    the task puts before and after it ("Question: ", "Answer:") do not belong to it.

    Args:
        tasks: as in `decontaminate`.
        test_file: a file of MathQA rows, which are the test of ``mathqa_file``.
        trust_task_code: run the code of task files that are given by path.

    Raises:
        ValueError: an unknown task, a task file that would run code, or a row that the task cannot
            make a prompt of.
        ConnectionError: the rows are on the hub only, and the hub does not answer.
    """
    names = in_full(tasks)
    manager = task_manager(names, file=test_file, trust_task_code=trust_task_code)
    with random_state_kept(), quiet_harness():
        loaded = load_tasks(manager, names)["tasks"]
        return {
            name: [_question(task, doc, f"{name}, question {at}") for at, doc in enumerate(docs)]
            for name, task in loaded.items()
            for docs in [task.eval_docs]
        }


def _question(task: Any, doc: Mapping[str, Any], where: str) -> str:
    """The part of the prompt that comes from the row.

    The harness's own ``doc_to_decontamination_query`` is used only if it names a column: a template
    in it makes the harness (0.4.13) fail.
    """
    column = task.config.doc_to_decontamination_query
    if isinstance(column, str) and isinstance(doc.get(column), str):
        return str(doc[column])
    try:
        prompt = task.doc_to_text(doc)
    except Exception as error:  # whatever the task's own code raises
        raise ValueError(f"{where}: the task cannot make its prompt ({error})") from error
    cells = [cell.strip() for cell in doc.values() if isinstance(cell, str) and cell.strip()]
    if not isinstance(prompt, str):  # a task may return a number, and ask in another way
        return max(cells, key=len, default="")
    held = [cell for cell in cells if len(cell.split()) > 1 and cell in prompt]
    if not held:
        return prompt
    begin = min(prompt.index(cell) for cell in held)
    end = max(prompt.rindex(cell) + len(cell) for cell in held)
    return prompt[begin:end]
