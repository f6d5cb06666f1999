"""Rows and batches of the objectives, made as the trainers make them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from mathsft.objectives.multiple_choice import MultipleChoice
from mathsft.objectives.sft import SFT
from mathsft.training.batches import Collator
from mathsft.training.rows import training_rows

Rows = Iterable[Mapping[str, Any]]


def sft_rows(rows: Rows, tokenizer: Any, *, packing: bool = True, **sizes: Any) -> Any:
    return training_rows(rows, tokenizer, SFT(packing=packing), **sizes)


def multiple_choice_rows(rows: Rows, tokenizer: Any, **sizes: Any) -> Any:
    return training_rows(rows, tokenizer, MultipleChoice(), **sizes)


def sft_batch(rows: Sequence[Mapping[str, Any]], **sizes: Any) -> dict[str, Tensor]:
    return Collator(SFT(), pad_token_id=0, **sizes)(rows)


def choice_batch(rows: Sequence[Mapping[str, Any]], **sizes: Any) -> dict[str, Tensor]:
    return Collator(MultipleChoice(), pad_token_id=0, **sizes)(rows)
