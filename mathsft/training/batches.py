"""Batches from the rows of `mathsft.training.rows`, for any objective and several processes.

If the rows do not fill the last batch of an epoch, accelerate repeats the first rows, so some are
trained twice. Here fillers complete the batch. They pass through the model, because each process
must do the same number of passes. But they count for nothing, neither in the loss nor in the
number that it is divided by.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor
from torch.utils.data import Dataset, Sampler, SequentialSampler

from mathsft.models.forest import IGNORE
from mathsft.objectives.base import Objective, Row
from mathsft.training.resumable import ResumableTrainer

# Columns with one value for each scored token of a row's sequences.
PER_TOKEN = ("reference", "old", "importance_weight")
OF_TEACHER = "teacher."  # begins the names of the tensors that only a teacher reads


@dataclass(frozen=True)
class Collator:
    """Make a batch of rows: the forest's tensors (`TokenForest.tensors`) and what the loss needs.

    ``labels`` (N,) comes first and has one entry per item of the batch. An empty row is a filler
    (`FilledSampler`): one token passes through the model for it, in the last rows of the forest,
    and the objective never sees it.
    """

    objective: Objective
    pad_token_id: int
    max_length: int = 512

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        real = [self.objective.passing(row) for row in rows if row]
        tensors = self.tensors(real, fillers=len(rows) - len(real))
        batch = {**self.objective.batch(real, tensors), **tensors}
        if other := self.objective.teacher_rows(real):
            read = self.tensors(other, fillers=len(rows) - len(real))
            batch |= {f"{OF_TEACHER}{name}": value for name, value in read.items()}
        for name in PER_TOKEN:
            if real and name in real[0]:
                batch[name] = _in_order(real, name, tensors["sequence"])
        return batch

    def tensors(self, rows: Sequence[Row], *, fillers: int = 0) -> dict[str, Tensor]:
        """The forest of the rows' sequences; if they have none, one filler passes instead."""
        laid_out = [row for row in rows if row["input_ids"]]
        tokens = [self.pad_token_id] * 2  # the second is only predicted
        filler = {"input_ids": [tokens], "labels": [[IGNORE] * 2]}
        laid_out += [filler] * (fillers or not laid_out)
        forest = self.objective.forest(laid_out, max_length=self.max_length)
        return forest.tensors(pad_token_id=self.pad_token_id)


def _in_order(rows: Sequence[Row], name: str, sequence: Tensor) -> Tensor:
    """(T,): the values that the rows keep for their scored tokens, in the forest's order."""
    values = [iter(tokens) for row in rows for tokens in row[name]]
    return torch.tensor([next(values[index]) for index in sequence.tolist()], dtype=torch.float32)


class FilledRows(Dataset[Mapping[str, Any]]):
    """The rows; an index beyond the last row gives a filler.

    A filler is an empty row (`Collator`).
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.rows[index] if index < len(self.rows) else {}

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch.

        If training resumes within an epoch, accelerate calls this method, but not the
        sampler's.
        """
        self.epoch = epoch


class FilledSampler(Sampler[int]):
    """All rows in the order in which one process would take them, then fillers.

    Together they are a multiple of ``batch``, the number of rows that all processes take at a
    time. ``seed`` and the epoch give accelerate's own order; without a seed the rows stay in order.
    """

    def __init__(self, rows: FilledRows, *, batch: int, seed: int | None = None) -> None:
        self._rows = rows
        self._fillers = range(len(rows), len(rows) + -len(rows) % batch)
        self._order: SequentialSampler | SeedableRandomSampler = SequentialSampler(rows)
        if seed is not None:
            self._order = SeedableRandomSampler(rows, data_seed=seed)

    def __iter__(self) -> Iterator[int]:
        if isinstance(self._order, SeedableRandomSampler):
            self._order.set_epoch(self._rows.epoch)
        yield from self._order
        yield from self._fillers

    def __len__(self) -> int:
        return len(self._rows) + len(self._fillers)

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch that starts with its first batch."""
        self._rows.set_epoch(epoch)


class PaddedTrainer(ResumableTrainer):
    """Divides the rows among several processes with `FilledSampler`."""

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        if self.args.world_size > 1:
            dataset = FilledRows(dataset)
        return super()._get_dataloader(dataset, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not isinstance(train_dataset, FilledRows):
            return super()._get_train_sampler(train_dataset)
        strategy = self.args.train_sampling_strategy
        if strategy not in ("random", "sequential"):
            raise ValueError(
                f"train_sampling_strategy={strategy!r} needs a single process: give 'random' or "
                "'sequential', or start only one process"
            )
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return self._filled(
            train_dataset,
            self.args.per_device_train_batch_size,
            seed=seed if strategy == "random" else None,
        )

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        if not isinstance(eval_dataset, FilledRows):
            return super()._get_eval_sampler(eval_dataset)
        return self._filled(eval_dataset, self.args.per_device_eval_batch_size)

    def _filled(self, rows: FilledRows, size: int, seed: int | None = None) -> FilledSampler:
        batch = 1 if self.args.dataloader_drop_last else size * self.args.world_size
        return FilledSampler(rows, batch=batch, seed=seed)
