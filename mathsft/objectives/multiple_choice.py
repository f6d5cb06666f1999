"""Train what a multiple-choice test measures.

The test scores each choice by its log-probability after the question and takes the
likeliest. So the scores go through a softmax over the choices, and the loss is the
cross-entropy with the right one. The loss only compares choices: wrong choices may stay
likely, as long as the right one is likelier.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from datasets import List, Value
from torch import Tensor
from torch.nn import functional

from mathsft.checks import check_numbers
from mathsft.data.given import CHOICES_MADE_BY, check_column, given_row, is_texts, row_kind
from mathsft.data.schemas import UnusableRowError
from mathsft.models.likelihood import encode_choices
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.objectives.base import Group, Loss, Objective, Row

Normalization = Literal["none", "tokens", "characters"]


@dataclass(frozen=True)
class MultipleChoice(Objective):
    """Cross-entropy of a softmax over the choices' log-likelihoods, per question.

    For five choices, a loss of ln 5 = 1.61 is chance. ``accuracy`` is logged with the loss.

    Args:
        normalization: divide a choice's log-probability by its number of "tokens", or of
            "characters" as the harness's ``acc_norm`` does. The default "none" compares sums, as
            the harness's ``acc`` does.
        temperature: of the softmax over choices. Above 1, a question is still trained when the
            model answers it correctly by a wide margin.

    Raises ValueError for an unknown normalization, or a temperature that is not above 0.
    """

    name = "multiple_choice"
    kinds = ("problem",)
    sections = ("choices_train", "choices")
    writes = False
    columns: ClassVar = {"characters": List(Value("int32")), "label": Value("int32")}
    nouns = ("questions", "choices")
    hints: ClassVar = {"without choices": "add_choices makes choices for worked problems"}
    # MathQA's questions have about 60 tokens on average, an eighth of them in the choices. The
    # longest batch sets the peak: of 551 batches of eight, one had 1.67 times the average.
    group_tokens = 100
    scored_share = 0.2
    defaults: ClassVar = {
        "per_device_train_batch_size": 16,
        "lr_scheduler_type": "linear",
        "max_grad_norm": 1.0,
    }

    normalization: Normalization = "none"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.normalization not in ("none", "tokens", "characters"):
            raise ValueError(
                f"normalization={self.normalization!r}: give 'none', 'tokens' or 'characters'"
            )
        check_numbers({"temperature": self.temperature})

    def groups(
        self, rows: Sequence[Row], tokenizer: Any, *, first: int, arrow: bool
    ) -> list[Group]:
        """Each question with its choices; the choices' tokens are scored.

        A question is dropped if it has no choices or one, an empty choice, two equal ones, or no
        known label; or if the row says not to train it (`mathsft.data.given`). Raises ValueError
        if the label is not one of the choices, or the choices are not a list of texts.
        """
        groups = [Group() for _ in rows]
        for index, row in enumerate(rows):
            try:
                if fault := _unusable(row, index=first + index):
                    raise UnusableRowError(fault)
                where = f"problem {first + index}"
                counted = groups[index].unread
                given_row(row, where=where, counted=counted, arrow=arrow, texts=("question",))
            except UnusableRowError as reason:
                groups[index] = Group(dropped=str(reason))
        usable = [index for index, group in enumerate(groups) if not group.dropped]
        encoded = encode_choices(tokenizer, [rows[index] for index in usable])
        for index, sequences in zip(usable, encoded, strict=True):
            if len({tuple(sequence["input_ids"]) for sequence in sequences}) < len(sequences):
                groups[index].dropped = "with two equal choices"  # equal in tokens
                continue
            groups[index].sequences = sequences
            groups[index].columns = {
                "characters": [len(choice) for choice in rows[index]["choices"]],
                "label": rows[index]["label"],
            }
        return groups

    def batch(self, rows: Sequence[Row], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``labels`` (N,): the right choices; ``characters`` (S,): the length of each choice."""
        return {
            **super().batch(rows, tensors),
            "labels": torch.tensor([row["label"] for row in rows], dtype=torch.long),
            "characters": torch.tensor(
                [n for row in rows for n in row["characters"]], dtype=torch.long
            ),
        }

    def scores(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Tensor:
        """The scores that the softmax compares: (N, C), -inf for choices that do not exist.

        A score is the summed log-probability, as in the harness's ``acc``, divided by
        ``temperature``. ``normalization`` also divides it by the choice's number of characters
        (the harness's ``acc_norm``) or of tokens.
        """
        sums = logprobs.sum
        if self.normalization != "none":
            sums = sums / (
                batch["characters"] if self.normalization == "characters" else logprobs.tokens
            )
        scores = sums[batch["choice"]] / self.temperature
        return scores.masked_fill(batch["choice"] < 0, -torch.inf)

    def loss(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Loss:
        scores = self.scores(logprobs, batch)
        total = functional.cross_entropy(scores, batch["labels"], reduction="sum")
        right = scores.detach().argmax(-1) == batch["labels"]
        return Loss(total, {"accuracy": right})


def _unusable(problem: Mapping[str, Any], *, index: int) -> str:
    """Why a question cannot be trained on, "" if it can."""
    row_kind(problem, where=f"problem {index}")
    choices, label = problem.get("choices"), problem.get("label")
    if problem.get("question") is None:
        raise ValueError(
            f"problem {index} is a conversation or a prompt, which has no choices to train: "
            f"use sft_trainer for it. Found {problem!r:.80}"
        )
    for column in ("choices", "label"):
        check_column(problem, column, where=f"problem {index}", advice=f". {CHOICES_MADE_BY}")
    if choices is None or not is_texts(choices) or not isinstance(label, int):
        raise ValueError(
            f"problem {index}: expected choices, a list of texts, and label, a whole number; found "
            f"{choices!r:.60} and {label!r}: {problem.get('question')!r:.80}"
        )
    choices = [" ".join(choice.split()) for choice in choices]
    if not -1 <= label < max(1, len(choices)):
        raise ValueError(
            f"problem {index}: label {label}, but it has {len(choices)} choices (labels start "
            f"at 0; -1 means unknown): {problem['question']!r:.80}"
        )
    if len(choices) < 2:
        return "with one choice" if choices else "without choices"
    if not all(choices):
        return "with an empty choice"
    if len(set(choices)) < len(choices):
        return "with two equal choices"
    return "without a label" if label < 0 else ""
