"""Functions that the task files in this folder call. Rows keep MathQA's published schema."""

import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset

from mathsft.data.columns import refuse_half
from mathsft.data.local_files import read_rows
from mathsft.data.mathqa import clean_choices, official_choices
from mathsft.data.readers import columns_of
from mathsft.data.schemas import UnusableRowError, from_mathqa
from mathsft.data.synthetic.multiple_choice import tiny_mathqa_rows
from mathsft.evaluation.capstone import capstone_questions
from mathsft.processes import say

_COLUMNS = {"Problem", "options", "correct"}


def rows_of_file(file: str | None = None, examples: str | None = None, **_: Any) -> DatasetDict:
    """The rows of ``file`` as the test, and those of ``examples`` for few-shot prompts.

    Default: the variable ``MATHSFT_MATHQA``, and for the examples the file itself (the harness
    never uses a question as its own example).

    Raises:
        ValueError: no file is named, its rows lack a column of MathQA's, or a part of the question
            is in a column that is not read.
        FileNotFoundError: there is no such file.
    """
    file = file or os.environ.get("MATHSFT_MATHQA")
    if not file:
        raise ValueError(
            "which file? give evaluate(..., file='dev.json'), on the harness's command line "
            '--metadata \'{"file": "dev.json"}\', or set the variable MATHSFT_MATHQA'
        )
    test = _rows(file)
    others = test if examples is None else _rows(examples)
    return DatasetDict({"train": others, "validation": others, "test": test})


def _rows(file: str) -> Dataset:
    rows = read_rows(Path(file).expanduser())
    for place, row in rows:
        if missing := sorted(_COLUMNS - row.keys()):
            raise ValueError(
                f"{file}, row {place}: no {', '.join(missing)}; the task reads MathQA's published "
                f"columns {', '.join(sorted(_COLUMNS))}"
            )
        refuse_half(row, where=f"{file}, row {place}", read=columns_of(from_mathqa))
    return Dataset.from_list([row for _, row in rows])


def generated_rows(**_: Any) -> DatasetDict:
    """The splits of the tiny MathQA source: 4,000, 500 and 1,000 rows."""
    return _generated()


@cache  # making them takes some seconds, and gives the same every time
def _generated() -> DatasetDict:
    splits = ("train", "validation", "test")
    return DatasetDict({split: Dataset.from_list(tiny_mathqa_rows(split)) for split in splits})


def capstone_rows(**_: Any) -> DatasetDict:
    """The capstone's test: rows of the tiny MathQA source that no lesson asks, and its training."""
    return DatasetDict({**_generated(), "test": Dataset.from_list(capstone_questions())})


def official(doc: dict[str, Any]) -> list[str]:
    """The choices as the harness's own task reads them, by its own function."""
    return official_choices(doc["options"])


def clean(doc: dict[str, Any]) -> list[str]:
    """The choices as a person reads them."""
    return clean_choices(doc["options"])


def clean_rows_of_file(
    file: str | None = None, examples: str | None = None, **_: Any
) -> DatasetDict:
    """As `rows_of_file`, without the rows that the clean reading cannot read."""
    return _readable(rows_of_file(file, examples))


def clean_hub_rows(**_: Any) -> DatasetDict:
    """The hub's splits, without the rows that the clean reading cannot read."""
    return _readable(load_dataset("regisss/math_qa"))


def _readable(splits: DatasetDict) -> DatasetDict:
    """Keep rows whose choices a person can read; print how many test rows are left out, and why."""
    reasons: dict[str, Counter[str]] = {split: Counter() for split in splits}
    kept: dict[str, list[int]] = {split: [] for split in splits}
    for split, docs in splits.items():
        for index, doc in enumerate(docs):
            try:
                from_mathqa(doc, where=f"row {index + 1}", source="mathqa", reading="clean")
                kept[split].append(index)
            except UnusableRowError as reason:
                reasons[split][str(reason)] += 1
    if found := reasons["test"]:
        told = ", ".join(f"{count} ({reason})" for reason, count in found.most_common())
        say(f"clean reading: {found.total()} of {len(splits['test']):,} left out: {told}")
    return DatasetDict({split: docs.select(kept[split]) for split, docs in splits.items()})
