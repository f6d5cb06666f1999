"""What an objective is: which token sequences a row becomes, and what loss they give.

Everything else exists once, for all of them: packing, masks, accumulation, precision, several
processes, evaluation, checkpoints (`mathsft.training`). A new objective is one file in this
folder: a frozen dataclass whose fields are its settings, in YAML, on the command line and in the
identity of a checkpoint.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from mathsft.models.forest import TokenForest, TokenSequence
from mathsft.models.logprobs import SequenceLogprobs

Row = Mapping[str, Any]


@dataclass
class Group:
    """What a row becomes: sequences that pass the model together, or the reason for none.

    ``columns`` are kept with the sequences and come to `Objective.batch`. ``dropped`` is why the
    row cannot be used, "" if it can. ``unread`` names what the row holds and nobody reads.
    ``length`` is filled in afterwards (`Objective.length`).
    """

    sequences: Sequence[TokenSequence] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    dropped: str = ""
    unread: set[str] = field(default_factory=set)
    length: int = 0


@dataclass(frozen=True)
class RowCounts:
    """What the rows of a data set hold together, in groups, sequences and tokens.

    ``passed``: tokens that pass the model; ``separate``: the same with a pass for each sequence;
    ``trained``: those that carry a loss.
    """

    groups: int
    sequences: int
    passed: int
    separate: int
    trained: int


@dataclass(frozen=True)
class Loss:
    """``total``: the loss in nats, summed over the batch's items (as many as its ``labels``).

    ``metrics``: by name a value for each item, (N,); their means are logged beside the loss.
    """

    total: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """Base of the objectives. A subclass gives ``groups`` and ``loss``.

    Class attributes:
        name: of the command-line option, the YAML section and the run's folder.
        kinds: the kinds of rows that it reads (`mathsft.data.rows`).
        sections: of a recipe, with the rows to train on and with those of the test.
        writes: it trains text as a model writes it, so that sample answers show something.
        columns: the columns beside ``input_ids`` and ``labels`` that its rows keep: name and
            Arrow type, as `datasets.Features` takes them.
        nouns: what a group and its sequences are called in the log.
        hints: by reason for which rows are dropped, what to do if no row is left.
        defaults: of `transformers.TrainingArguments`, if its authors or our measurements say so.
        needs_reference: it compares with the model as it was before training.
        needs_hidden: it reads the hidden state after each sequence, and no log-probabilities.
        dropout: whether the model's dropout is on in training.
        group_tokens, scored_share: what `mathsft.recipes.estimate` expects of rows: the tokens of
            a group (None: as many as a row has), and of its positions those that predict a scored
            token.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    sections: ClassVar[tuple[str, str]] = ("train", "test")
    writes: ClassVar[bool] = True
    columns: ClassVar[Mapping[str, Any]] = {}
    nouns: ClassVar[tuple[str, str]] = ("groups", "sequences")
    hints: ClassVar[Mapping[str, str]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    needs_reference: ClassVar[bool] = False
    needs_hidden: ClassVar[bool] = False
    dropout: ClassVar[bool] = True
    group_tokens: ClassVar[int | None] = None
    scored_share: ClassVar[float] = 0.6

    def groups(
        self, rows: Sequence[Row], tokenizer: Any, *, first: int, arrow: bool
    ) -> list[Group]:
        """A `Group` for each row. The first is the data set's row number ``first``.

        ``arrow``: the rows are of an Arrow table, in which what a row lacks is None. Raises
        ValueError, naming the row, for what no row of the kind may hold.
        """
        raise NotImplementedError

    def loss(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Loss:
        """The loss of a batch (`batch`), from the log-probabilities of its sequences."""
        raise NotImplementedError

    def length(self, sequences: Sequence[TokenSequence]) -> int:
        """How many tokens of a row of ``max_length`` a group takes: those that pass the model."""
        return TokenForest(sequences).tokens

    def drop_long(self, groups: Sequence[Group], *, max_length: int, positions: int | None) -> None:
        """Drop what is longer than a row, or has a sequence that the model has no positions for."""
        for group in groups:
            if group.dropped:
                continue
            group.length = self.length(group.sequences)
            longest = max(len(sequence["input_ids"]) for sequence in group.sequences)
            if group.length > max_length:
                group.dropped = f"longer than {max_length} tokens"
            elif positions is not None and longest - 1 > positions:  # the last is only predicted
                group.dropped = f"longer than the model's {positions:,} positions"

    def rows(self, groups: Any, *, max_length: int) -> tuple[Any, str]:
        """The data set's rows from its groups (a data set), and words about them for the log.

        A row is what ``per_device_train_batch_size`` counts: here a group, and the batch lays
        groups out in as few rows of ``max_length`` as they need.
        """
        return groups, ""

    def told(self, counts: RowCounts, layout: str) -> str:
        """The rows in words, for the log; ``layout`` is what `rows` said of them."""
        group, sequence = self.nouns
        return (
            f"{counts.groups:,} {group} with {counts.sequences:,} {sequence}, {counts.passed:,} "
            f"tokens in the forest ({counts.separate:,} with a pass for each "
            f"{sequence.removesuffix('s')}, {counts.separate / counts.passed:.1f} times as many)"
        )

    def forest(self, rows: Sequence[Row], *, max_length: int) -> TokenForest:
        """The rows' sequences laid out; they are numbered row after row."""
        return TokenForest.from_groups(
            [list(sequences_of(row)) for row in rows], max_length=max_length
        )

    def batch(self, rows: Sequence[Row], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the loss needs beside the forest's ``tensors``; ``labels`` (N,) has the items.

        Here: an item is a group; ``choice`` (N, C) has the numbers of its sequences, -1 where it
        has fewer than C.
        """
        return {"labels": torch.zeros(len(rows), dtype=torch.long), "choice": numbered(rows)}


def sequences_of(row: Row) -> Iterator[TokenSequence]:
    """The token sequences of a data set's row."""
    for ids, labels in zip(row["input_ids"], row["labels"], strict=True):
        yield {"input_ids": ids, "labels": labels}


def numbered(rows: Sequence[Row]) -> Tensor:
    """(N, C): for each row the numbers of its sequences, -1 where it has fewer than C."""
    sizes = [len(row["input_ids"]) for row in rows]
    numbers = iter(range(sum(sizes)))
    most = max(sizes, default=1)
    table = [[next(numbers) for _ in range(n)] + [-1] * (most - n) for n in sizes]
    return torch.tensor(table, dtype=torch.long).reshape(len(rows), most)
