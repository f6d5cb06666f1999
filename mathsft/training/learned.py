"""What an objective learns from a step's attempts, and how a checkpoint keeps it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mathsft.files import write_whole
from mathsft.objectives.base import Objective
from mathsft.objectives.groupwise import Policy
from mathsft.objectives.teacher_prompts import after
from mathsft.training.attempts import Attempts, CollapseWatch, kept_attempts
from mathsft.training.trainer import ForestTrainer

_ATTEMPTS = "attempts-{process}.json"  # in a checkpoint


def learned_rows(
    groups: Sequence[Attempts], objective: Objective, *, teacher_ids: Mapping[int, list[int]]
) -> list[dict[str, Any]]:
    """The rows that an objective learns from, with what it needs of all groups, or of a teacher.

    ``teacher_ids``: for the numbers of some prompts what the teacher reads in their place.
    """
    if isinstance(objective, Policy):
        advantages = objective.advantages([group.rewards for group in groups])
        return [group.as_row(own) for group, own in zip(groups, advantages, strict=True)]
    rows = [group.as_row() for group in groups]
    for row, group in zip(rows, groups, strict=True):
        prompt = teacher_ids.get(group.row)
        row["teacher_ids"] = [
            after(prompt, {"input_ids": ids, "labels": labels}) if prompt else []
            for ids, labels in zip(row["input_ids"], row["labels"], strict=True)
        ]
    return rows


class AttemptsTrainer(ForestTrainer):
    """Keeps the rows of a step in checkpoints: several optimiser steps may learn from them."""

    _rows: list[dict[str, Any]]  # what this process learns from in this step
    _watch: CollapseWatch

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        kept = {"rows": self._rows, "watch": self._watch.state()}
        name = _ATTEMPTS.format(process=self.args.process_index)
        write_whole(Path(output_dir) / name, json.dumps(kept))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            path = Path(checkpoint) / _ATTEMPTS.format(process=self.args.process_index)
            self._rows, self._watch = kept_attempts(path)
