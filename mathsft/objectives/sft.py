"""Supervised fine-tuning: the negative log-likelihood of worked solutions and answers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow.compute as pc
from datasets import Dataset
from torch import Tensor

from mathsft.data.row_counts import not_read
from mathsft.models.forest import TokenForest, TokenSequence, pack
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.objectives.base import Group, Loss, Objective, Row, RowCounts, joined, sequences_of
from mathsft.objectives.documents import documents
from mathsft.processes import say


@dataclass(frozen=True)
class SFT(Objective):
    """Cross-entropy of the trained tokens: -log p(token | the text before it), per token.

    Args:
        packing: put several documents into a row, isolated from each other; False: one per row.
        train_on_prompt: put a loss on the question as well.
    """

    name = "sft"
    kinds = ("problem", "chat", "prompt")
    # QLoRA's settings (Dettmers et al. 2023, appendix B).
    defaults: ClassVar = {
        "per_device_train_batch_size": 4,
        "lr_scheduler_type": "cosine",
        "max_grad_norm": 0.3,
    }

    packing: bool = True
    train_on_prompt: bool = False

    def groups(
        self, rows: Sequence[Row], tokenizer: Any, *, first: int, arrow: bool
    ) -> list[Group]:
        return documents(
            rows, tokenizer, first=first, arrow=arrow, train_on_prompt=self.train_on_prompt
        )

    def length(self, sequences: Sequence[TokenSequence]) -> int:
        (document,) = sequences
        return len(document["input_ids"])

    def rows(self, groups: Any, *, max_length: int) -> tuple[Any, str]:
        """Pack over the whole data set; with ``packing=False`` each document has its own row.

        For packed rows the log shows the fill, the share of a row that is not padding.
        """
        if not self.packing:  # padded only to the longest of a batch
            return groups, f"one per row of at most {max_length}"
        tokens = pc.list_value_length(pc.list_flatten(groups.with_format("arrow")["input_ids"][:]))
        lengths = [length - 1 for length in tokens.to_pylist()]  # the last token is only predicted
        members = pack(lengths, max_length=max_length)
        fill = sum(lengths) / (max_length * len(members))
        rows = joined(groups, members)
        return rows, f"in {len(rows):,} rows of {max_length} ({fill:.1%} full)"

    def told(self, counts: RowCounts, layout: str) -> str:
        return (
            f"{counts.groups:,} documents of {counts.passed:,} tokens {layout}, "
            f"{counts.trained / counts.passed:.1%} of tokens trained"
        )

    def forest(self, rows: Sequence[Row], *, max_length: int) -> TokenForest:
        """Documents stay separate chains, even if they begin alike: plain packing."""
        numbers = iter(range(sum(len(row["input_ids"]) for row in rows)))
        planted = [[next(numbers) for _ in row["input_ids"]] for row in rows]
        chains = [sequence for row in rows for sequence in sequences_of(row)]
        return TokenForest(chains, rows=planted, share=False)

    def batch(self, rows: Sequence[Row], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """An item is a trained token."""
        return {"labels": tensors["token"][tensors["scored"]]}

    def loss(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Loss:
        return Loss(-logprobs.sum.sum())


def tokenize_problems(
    problems: Iterable[Row],
    tokenizer: Any,
    *,
    max_length: int = 512,
    positions: int | None = None,
    train_on_prompt: bool = False,
) -> tuple[list[TokenSequence], Counter[str]]:
    """Return `SFT`'s documents as ``{"input_ids", "labels"}``, and the dropped rows by reason.

    Args:
        problems: rows of `load_problems`, of any kind that `SFT` trains on.
        tokenizer: its stop token ends each document (`mathsft.objectives.documents`).
        max_length: longer documents are dropped whole: cutting one would cut its answer.
        positions: the most that the model can read (`mathsft.models.attention.position_limit`).
        train_on_prompt: train the whole text instead of the answer alone.

    A printed line counts the rows that hold an unused column.
    """
    objective = SFT(train_on_prompt=train_on_prompt)
    arrow = isinstance(problems, Dataset)
    groups = objective.groups(list(problems), tokenizer, first=0, arrow=arrow)
    objective.drop_long(groups, max_length=max_length, positions=positions)
    for line in not_read(Counter(name for group in groups for name in group.unread)):
        say(line)
    kept = [group.sequences[0] for group in groups if not group.dropped]
    return kept, Counter(group.dropped for group in groups if group.dropped)
