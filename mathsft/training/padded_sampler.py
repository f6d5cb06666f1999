"""The last batch of an epoch, where several processes share rows that do not divide.

accelerate begins again with the first rows, so that some are trained twice. Here the batch is
filled up with fillers: they pass through the model, as each process has to do the same number
of passes, and count for nothing, neither in the loss nor in what the loss is divided by.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, Sampler, SequentialSampler


class FilledRows(Dataset[Mapping[str, Any]]):
    """The rows, as many as there are; an index from their number on is a filler.

    A filler is a row without anything in it (`mathsft.training.collation`).
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

        Where a training goes on amid an epoch it finds the rows, but not the sampler.
        """
        self.epoch = epoch


class FilledSampler(Sampler[int]):
    """All rows in the order in which one process would take them, then fillers.

    Their number becomes a multiple of ``batch``, the rows that all processes take at a time.
    ``seed`` and the rows' epoch give accelerate's own order; None keeps the rows' order.
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
        """Called by accelerate, before each epoch that begins at its beginning."""
        self._rows.set_epoch(epoch)
