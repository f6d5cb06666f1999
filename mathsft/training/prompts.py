"""The prompts of a training run on a model's own attempts, and the order in which they come."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, Features, List, Value

from mathsft.data.given import check_rows
from mathsft.data.schemas import UnusableRowError
from mathsft.models.computation import json_hash, plain
from mathsft.objectives.asked import asked
from mathsft.objectives.teacher_prompts import teacher_prompt
from mathsft.processes import say
from mathsft.training.arguments import reasons
from mathsft.training.batches import FilledRows, FilledSampler

# Cells of a row that are the prompt itself, or answers that are not the model's own.
_NOT_COLUMNS = ("prompt", "messages", "completion", "completions")


@dataclass(frozen=True)
class Prompts:
    """Rows as prompts: their tokens, and what a reward is told about each.

    ``table`` has the columns ``row`` (the number of the row), ``input_ids``, and ``about``, a hash
    of the whole row: another reference answer makes another run. ``teacher_ids``: for rows with a
    ``teacher_prompt`` its tokens, which a teacher reads in place of the prompt.
    """

    table: Dataset
    prompts: Mapping[int, Any]
    rows: Mapping[int, Mapping[str, Any]]
    teacher_ids: Mapping[int, list[int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        rows: Iterable[Mapping[str, Any]],
        tokenizer: Any,
        *,
        name: str,
        max_tokens: int,
        taught: bool = False,
    ) -> "Prompts":
        """Read the rows, with a printed line: counts, and what was dropped.

        Prompts of more than ``max_tokens`` leave no room for an answer and are dropped. ``taught``:
        a teacher reads them too. Raises ValueError if no row is left.
        """
        check_rows(rows, name=name)
        made: dict[str, list[Any]] = {"row": [], "input_ids": [], "about": []}
        prompts: dict[int, Any] = {}
        kept: dict[int, Mapping[str, Any]] = {}
        teacher_ids: dict[int, list[int]] = {}
        dropped: Counter[str] = Counter()
        for number, row in enumerate(rows):
            try:
                found = asked(row, tokenizer, where=f"row {number}", unanswered=True)
                other = teacher_prompt(row, tokenizer, where=f"row {number}") if taught else None
            except UnusableRowError as reason:
                dropped[str(reason)] += 1
                continue
            if len(found["input_ids"]) > max_tokens:
                dropped[f"with a prompt of more than {max_tokens} tokens"] += 1
                continue
            if other is not None and len(other) > max_tokens:
                dropped[f"with a teacher_prompt of more than {max_tokens} tokens"] += 1
                continue
            if other is not None:
                teacher_ids[number] = other
            made["row"].append(number)
            made["input_ids"].append(found["input_ids"])
            made["about"].append(json_hash(plain(dict(row))))
            prompts[number] = found["prompt"]
            kept[number] = {key: row[key] for key in row if key not in _NOT_COLUMNS}
        if not prompts and not dropped:
            raise ValueError(f"{name}: there are no rows")
        if not prompts:
            raise ValueError(f"{name}: no prompt is left; dropped: {reasons(dropped)}")
        say(f"{name}: {len(prompts):,} prompts; dropped: {reasons(dropped)}")
        features = Features(
            {"row": Value("int64"), "input_ids": List(Value("int32")), "about": Value("string")}
        )
        return cls(Dataset.from_dict(made, features=features), prompts, kept, teacher_ids)

    def columns(self, numbers: Iterable[int]) -> dict[str, list[Any]]:
        """The cells of these rows by column, as rewards take them; None if a row lacks one."""
        rows = [self.rows[number] for number in numbers]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name) for row in rows] for name in names}


class BlockSampler(FilledSampler):
    """The prompts of one optimiser step after the other, each step's as often as it is repeated.

    An epoch has whole blocks only: what is left over is not asked in this epoch.

    Args:
        rows: the prompts.
        block: how many prompts all processes take for one optimiser step.
        repeats: how many optimiser steps learn from the same attempts.
        seed: gives the order with the epoch's number; None: the rows stay in order.
    """

    def __init__(self, rows: FilledRows, *, block: int, repeats: int, seed: int | None) -> None:
        super().__init__(rows, batch=1, seed=seed)
        self._block = block
        self._repeats = repeats

    def __iter__(self) -> Iterator[int]:
        order = list(super().__iter__())
        for start in range(0, len(order) - self._block + 1, self._block):
            yield from order[start : start + self._block] * self._repeats

    def __len__(self) -> int:
        return len(self._rows) // self._block * self._block * self._repeats
