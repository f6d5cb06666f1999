"""Batches from the rows of `mathsft.training.rows`, for any objective."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mathsft.models.forest import IGNORE
from mathsft.objectives.base import Objective, Row


@dataclass(frozen=True)
class Collator:
    """Rows to a batch: the forest's tensors (`TokenForest.tensors`) and what the loss needs.

    ``labels`` (N,) stands first and has the batch's items. A row without anything in it is a filler
    (`mathsft.training.padded_sampler`): one token passes the model for it, in the last rows of the
    forest, and the objective never sees it.
    """

    objective: Objective
    pad_token_id: int
    max_length: int = 512

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        real = [row for row in rows if row]
        tokens = [self.pad_token_id] * 2  # the second is only predicted
        filler = {"input_ids": [tokens], "labels": [[IGNORE] * 2]}
        laid_out = [*real, *[filler] * (len(rows) - len(real))]
        forest = self.objective.forest(laid_out, max_length=self.max_length)
        tensors = forest.tensors(pad_token_id=self.pad_token_id)
        batch = {**self.objective.batch(real, tensors), **tensors}
        if real and "reference" in real[0]:
            batch["reference"] = _in_order(real, tensors["sequence"])
        return batch


def _in_order(rows: Sequence[Mapping[str, Any]], sequence: Tensor) -> Tensor:
    """(T,) the values that rows keep for their sequences' scored tokens, as the forest has them."""
    values = [iter(tokens) for row in rows for tokens in row["reference"]]
    return torch.tensor([next(values[index]) for index in sequence.tolist()], dtype=torch.float32)
