"""What an objective is: which token sequences a row becomes, and what loss they give.

All objectives share everything else: packing, masks, accumulation, precision, several processes,
evaluation and checkpoints (`mathsft.training`). A new objective is one file in this folder: a
frozen dataclass. Its fields are its settings in YAML, on the command line and in the identity of
a checkpoint.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor

from mathsft.compat import dataset_fingerprint, without_progress_bars
from mathsft.models.computation import json_hash
from mathsft.models.forest import TokenForest, TokenSequence
from mathsft.models.logprobs import SequenceLogprobs

Row = Mapping[str, Any]


@dataclass
class Group:
    """What a row becomes: sequences that pass through the model together, or why it has none.

    ``columns`` are stored with the sequences and passed to `Objective.batch`. ``dropped`` says why
    the row cannot be used, or is "". ``unread`` names the parts of the row that are not read.
    ``length`` is filled in later (`Objective.length`).
    """

    sequences: Sequence[TokenSequence] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    dropped: str = ""
    unread: set[str] = field(default_factory=set)
    length: int = 0


@dataclass(frozen=True)
class RowCounts:
    """Totals over the rows of a data set: groups, sequences and tokens.

    ``passed``: tokens that pass through the model; ``separate``: the same with a separate pass
    for each sequence; ``trained``: tokens that carry a loss.
    """

    groups: int
    sequences: int
    passed: int
    separate: int
    trained: int


@dataclass(frozen=True)
class Loss:
    """``total``: the loss in nats, summed over the batch's items (as many as its ``labels``).

    ``metrics``: for each name one value per item, (N,); their means are logged with the loss.
    """

    total: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """Base class of the objectives. A subclass defines ``groups`` and ``loss``.

    Class attributes:
        name: the name of the command-line option, the YAML section and the run's folder.
        kinds: the kinds of rows that it reads (`mathsft.data.rows`).
        sections: the names of two recipe sections: the training rows and the test rows.
        writes: whether it trains text as a model writes it, so that sample answers are useful.
        columns: the columns that its rows keep besides ``input_ids`` and ``labels``: name and
            Arrow type, as `datasets.Features` takes them.
        unshown: those of ``columns`` that ``--check`` does not show.
        nouns: what a group and its sequences are called in the log.
        hints: for each reason to drop rows, what to do if no row is left.
        defaults: for `transformers.TrainingArguments`, from its authors or our measurements.
        needs_reference: whether it compares with the model as it was before training.
        attempts: answers that the model writes in training are "judged" by a reward, or "compared"
            with a teacher; "": it does not learn from them.
        needs_teacher: whether it compares distributions with a second model's.
        needs_hidden: whether it reads the hidden state after each sequence, not log-probabilities.
        ratios: whether it compares with the model that wrote the answers (`SequenceLogprobs.old`).
        dropout: whether the model's dropout is on during training.
        divisible: whether a step's loss is the same however its rows are divided into batches.
        group_tokens, scored_share: what `mathsft.recipes.estimate` assumes about rows: the tokens
            of a group (None: as many as a row has), and the share of its positions that predict a
            scored token.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    sections: ClassVar[tuple[str, str]] = ("train", "test")
    writes: ClassVar[bool] = True
    columns: ClassVar[Mapping[str, Any]] = {}
    unshown: ClassVar[frozenset[str]] = frozenset()
    nouns: ClassVar[tuple[str, str]] = ("groups", "sequences")
    hints: ClassVar[Mapping[str, str]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    needs_reference: ClassVar[bool] = False
    attempts: ClassVar[str] = ""
    needs_teacher: ClassVar[bool] = False
    needs_hidden: ClassVar[bool] = False
    ratios: ClassVar[bool] = False
    dropout: ClassVar[bool] = True
    divisible: ClassVar[bool] = True
    group_tokens: ClassVar[int | None] = None
    scored_share: ClassVar[float] = 0.6

    def groups(
        self, rows: Sequence[Row], tokenizer: Any, *, first: int, arrow: bool
    ) -> list[Group]:
        """Return a `Group` for each row. ``first`` is the first row's number in the data set.

        ``arrow``: the rows come from an Arrow table, in which missing values are None. Raises
        ValueError, naming the row, if a row holds something that its kind does not allow.
        """
        raise NotImplementedError

    def loss(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Loss:
        """The loss of a batch (`batch`), from the log-probabilities of its sequences."""
        raise NotImplementedError

    def length(self, sequences: Sequence[TokenSequence]) -> int:
        """How many of a row's ``max_length`` tokens a group takes: all that the model reads."""
        return TokenForest(sequences).tokens

    def drop_long(self, groups: Sequence[Group], *, max_length: int, positions: int | None) -> None:
        """Drop groups longer than ``max_length``, or with a sequence longer than ``positions``."""
        for group in groups:
            if group.dropped:
                continue
            group.length = self.length(group.sequences)
            longest = max(len(sequence["input_ids"]) for sequence in group.sequences)
            if group.length > max_length:
                group.dropped = f"longer than {max_length} tokens"
            elif positions is not None and longest - 1 > positions:  # the last is only predicted
                group.dropped = f"longer than the model's {positions:,} positions"

    def drop_among(self, groups: Any) -> Mapping[int, str]:
        """Reasons to drop groups that only all of them together show, by index (a data set)."""
        return {}

    def rows(self, groups: Any, *, max_length: int) -> tuple[Any, str]:
        """Return the rows made from the groups (a data set), and a text about them for the log.

        ``per_device_train_batch_size`` counts these rows. Here each row is one group, and the
        batch lays the groups out in as few rows of ``max_length`` as they need.
        """
        return groups, ""

    def told(self, counts: RowCounts, layout: str) -> str:
        """Describe the rows for the log; ``layout`` is the text that `rows` returned."""
        group, sequence = self.nouns
        return (
            f"{counts.groups:,} {group} with {counts.sequences:,} {sequence}, {counts.passed:,} "
            f"tokens in the forest ({counts.separate:,} with a pass for each "
            f"{sequence.removesuffix('s')}, {counts.separate / counts.passed:.1f} times as many)"
            f"{layout}"
        )

    @property
    def logits_temperature(self) -> float:
        """What the logits are divided by before the loss sees log-probabilities."""
        return 1.0

    def passing(self, row: Row) -> Row:
        """The row with the sequences that have to pass through the model; it may have none."""
        return row

    def forest(self, rows: Sequence[Row], *, max_length: int) -> TokenForest:
        """Lay out the rows' sequences as a forest; they are numbered row after row."""
        return TokenForest.from_groups(
            [list(sequences_of(row)) for row in rows], max_length=max_length
        )

    def teacher_rows(self, rows: Sequence[Row]) -> list[Row]:
        """The rows as a teacher reads them; [] if it reads the same."""
        return []

    def batch(self, rows: Sequence[Row], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the loss needs besides the forest's ``tensors``; ``labels`` (N,): one per item.

        Here an item is a group; ``choice`` (N, C) holds the numbers of its sequences, filled up
        with -1 if it has fewer than C.
        """
        return {"labels": torch.zeros(len(rows), dtype=torch.long), "choice": numbered(rows)}


def sequences_of(row: Row) -> Iterator[TokenSequence]:
    """The token sequences of a data set's row."""
    for ids, labels in zip(row["input_ids"], row["labels"], strict=True):
        yield {"input_ids": ids, "labels": labels}


def answers_forest(rows: Sequence[Row], *, max_length: int) -> TokenForest:
    """Lay out each row's answers with their prompt once, and again for each row that it takes."""
    groups: list[list[TokenSequence]] = []
    for row in rows:
        groups.append([])
        for sequence in sequences_of(row):
            if groups[-1] and TokenForest([*groups[-1], sequence]).tokens > max_length:
                groups.append([])
            groups[-1].append(sequence)
    kept = [group for group in groups if group]
    return TokenForest.from_groups(kept, max_length=max_length, stretch=True)


def numbered(rows: Sequence[Row]) -> Tensor:
    """(N, C): for each row the numbers of its sequences, filled up with -1 if fewer than C."""
    sizes = [len(row["input_ids"]) for row in rows]
    numbers = iter(range(sum(sizes)))
    most = max(sizes, default=1)
    table = [[next(numbers) for _ in range(n)] + [-1] * (most - n) for n in sizes]
    return torch.tensor(table, dtype=torch.long).reshape(len(rows), most)


def joined(groups: Dataset, members: list[list[int]]) -> Dataset:
    """Join several groups into each row; stored on disk next to ``groups`` if those are."""
    arrow = groups.with_format("arrow")

    def join(batch: Mapping[str, list[list[int]]]) -> pa.Table:
        taken = arrow[[index for row in batch["members"] for index in row]]
        starts = [0, *accumulate(pc.list_value_length(taken.column("input_ids")).to_pylist())]
        offsets = [0, *(starts[end] for end in accumulate(map(len, batch["members"])))]
        return pa.table(
            {
                key: pa.ListArray.from_arrays(offsets, pc.list_flatten(column).combine_chunks())
                for key, column in zip(taken.column_names, taken.columns, strict=True)
            }
        )

    where = {}
    if groups.cache_files:
        name = f"packed-{json_hash([dataset_fingerprint(groups), members])}.arrow"
        where = {"cache_file_name": str(Path(groups.cache_files[0]["filename"]).with_name(name))}
    with without_progress_bars():
        return Dataset.from_dict({"members": members}).map(
            join, batched=True, remove_columns=["members"], features=groups.features, **where
        )
