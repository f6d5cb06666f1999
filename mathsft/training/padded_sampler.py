"""The last batch of an epoch, where several processes share rows that do not divide.

accelerate begins again with the first rows, so that some are trained twice. Here the batch is
filled up with fillers: they pass through the model, as each process has to do the same number
of passes, and count for nothing, neither in the loss nor in what the loss is divided by.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, Sampler, SequentialSampler

from mathsft.training.resumable import ResumableTrainer


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


class PaddedTrainer(ResumableTrainer):
    """Several processes share the rows out by `FilledSampler`."""

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
                f"train_sampling_strategy={strategy!r} in several processes: give 'random' or "
                "'sequential', or start one process"
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
