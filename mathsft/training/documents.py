"""Rows of worked solutions and conversations: which documents share a row, and its labels."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset
from torch import Tensor

from mathsft.models.forest import IGNORE, TokenForest
from mathsft.models.packing import pack
from mathsft.processes import say
from mathsft.training.arguments import reasons
from mathsft.training.tokens import tokenize_problems


def sft_rows(
    problems: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    max_length: int = 512,
    positions: int | None = None,
    packing: bool = True,
    train_on_prompt: bool = False,
    name: str = "train",
) -> Dataset:
    """Rows to train on, with one printed line: rows, fill, trained share, drops by reason.

    Columns ``input_ids, labels``: for each row the lists of its documents' tokens. Documents
    are packed over the whole data set; with ``packing=False`` each has its own row.
    A document that is longer than the model has ``positions`` is dropped and counted.
    The fill, the share of a row that is not padding, is shown for packed rows.

    Raises ValueError where no problem is left, saying why.
    """
    documents, dropped = tokenize_problems(
        problems,
        tokenizer,
        max_length=max_length,
        positions=positions,
        train_on_prompt=train_on_prompt,
    )
    if not documents:
        raise ValueError(f"{name}: nothing to train on; dropped: {reasons(dropped)}")
    tokens = sum(len(document["input_ids"]) for document in documents)
    trained = trained_tokens([[document["labels"] for document in documents]])
    layout = f"one a row of at most {max_length}"  # padded to the longest of a batch only
    rows = [[index] for index in range(len(documents))]
    if packing:
        rows, fill = packed_rows(documents, max_length=max_length)
        layout = f"in {len(rows):,} rows of {max_length} ({fill:.1%} full)"
    say(
        f"{name}: {len(documents):,} documents of {tokens:,} tokens {layout}, "
        f"{trained / tokens:.1%} of tokens trained; dropped: {reasons(dropped)}"
    )
    return Dataset.from_list(
        [{key: [documents[i][key] for i in row] for key in ("input_ids", "labels")} for row in rows]
    )


def packed_rows(
    documents: Sequence[Mapping[str, Sequence[int]]], *, max_length: int
) -> tuple[list[list[int]], float]:
    """Which documents share a row, and the share of all rows that is not padding, 0 to 1.

    A document takes one token less than it has: its last one is only predicted.
    """
    lengths = [len(document["input_ids"]) - 1 for document in documents]
    rows = pack(lengths, max_length=max_length)
    return rows, sum(lengths) / (max_length * len(rows))


def collate(rows: Sequence[Mapping[str, Any]], *, pad_token_id: int) -> dict[str, Tensor]:
    """A batch from rows of `sft_rows`: the forest's tensors, and the trained tokens as labels."""
    documents = [
        {"input_ids": input_ids, "labels": labels}
        for row in rows
        for input_ids, labels in zip(row["input_ids"], row["labels"], strict=True)
    ]
    numbers = iter(range(len(documents)))
    planted = [[next(numbers) for _ in row["input_ids"]] for row in rows]
    batch = TokenForest(documents, rows=planted, share=False).tensors(pad_token_id=pad_token_id)
    return {**batch, "labels": batch["token"][batch["scored"]]}


def trained_tokens(rows: Iterable[Sequence[Sequence[int]]]) -> int:
    """How many tokens carry a loss; the first of a document has nothing to be predicted from."""
    return sum(label != IGNORE for row in rows for labels in row for label in labels[1:])
