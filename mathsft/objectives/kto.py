"""Learning from single answers, each labelled as good or bad."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from datasets import List, Value
from torch import Tensor

from mathsft.checks import ABOVE_0, check_number
from mathsft.data.chat import answered
from mathsft.data.given import given_row
from mathsft.data.schemas import UnusableRowError
from mathsft.models.forest import IGNORE, TokenSequence
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.objectives.base import Group, Loss, Objective, Row
from mathsft.objectives.documents import documents
from mathsft.objectives.pairwise import Pairwise, answer_hash
from mathsft.processes import gathered


@dataclass(frozen=True)
class KTO(Objective):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8).

    With r(y), the answer's log-probability minus the reference's, the loss of a good answer is
    desirable_weight (1 - sigmoid(beta (r(y) - k))), and that of a bad one
    undesirable_weight (1 - sigmoid(beta (k - r(y)))). k estimates how far the model has moved from
    its reference: the mean r over answers to *other* prompts of the batch, at least 0, without a
    gradient. Each answer is stored with one of a row before it that has another prompt (in pairs: a
    chosen answer with a chosen one, a rejected one with a rejected one). That one passes through
    the model as one more branch of the answer's prompt.

    k is the mean over a batch of all processes. If gradients are accumulated, each batch has its
    own, as in TRL. A batch should have four or more rows.

    Rows: prompt, completion and label (`mathsft.data.scored`), or pairs, which count as a good
    and a bad answer.

    Args:
        beta: how strongly the model is kept near its reference; 0.1 is the paper's value.
        desirable_weight: the weight of good answers. If one kind is much more frequent, choose
            the weights so that both have about the same weight in total.
        undesirable_weight: the weight of bad answers.
    """

    name = "kto"
    kinds = ("unpaired", "preference")
    nouns = ("rows", "answers")
    needs_reference = True
    dropout = False
    divisible = False  # k is a mean over the batch
    columns: ClassVar = {"desirable": List(Value("bool")), "answers": List(Value("string"))}
    unshown = frozenset({"answers"})  # hashes
    defaults = Pairwise.defaults

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("beta", "desirable_weight", "undesirable_weight"):
            check_number(name, getattr(self, name), ABOVE_0)

    def groups(
        self, rows: Sequence[Row], tokenizer: Any, *, first: int, arrow: bool
    ) -> list[Group]:
        """The row's answers, then for each of them one of another prompt (if there is one)."""
        groups = [Group() for _ in rows]
        answers: list[Row] = []
        owners: list[int] = []
        for index, row in enumerate(rows):
            unread, where = groups[index].unread, f"row {first + index}"
            try:
                read = given_row(row, where=where, counted=unread, arrow=arrow, kinds=self.kinds)
            except UnusableRowError as reason:
                groups[index] = Group(dropped=str(reason))
                continue
            if "chosen" in read:
                labelled = [(read["chosen"], True), (read["rejected"], False)]
            else:
                labelled = [(read["completion"], read["label"])]
            groups[index].columns = {
                "desirable": [label for _, label in labelled],
                "answers": [answer_hash(read["prompt"], answer) for answer, _ in labelled],
            }
            answers += [answered(read, answer) for answer, _ in labelled]
            owners += [index] * len(labelled)
        made = documents(answers, tokenizer)
        for owner, document in zip(owners, made, strict=True):
            groups[owner].dropped = groups[owner].dropped or document.dropped
        whole = [
            (owner, document.sequences[0])
            for owner, document in zip(owners, made, strict=True)
            if not groups[owner].dropped
        ]
        sides = [n for group in groups for n in range(len(group.columns.get("desirable", [])))]
        sides = [
            side for side, owner in zip(sides, owners, strict=True) if not groups[owner].dropped
        ]
        others = _of_other_prompts([sequence for _, sequence in whole], sides)
        for (owner, sequence), _ in zip(whole, others, strict=True):
            groups[owner].sequences = [*groups[owner].sequences, sequence]
        for (owner, _), other in zip(whole, others, strict=True):
            groups[owner].sequences = [*groups[owner].sequences, *other]
        return groups

    def drop_among(self, groups: Any) -> dict[int, str]:
        """Rows with an answer that one row calls good and another bad: none of them is trained."""
        rows = list(zip(groups["answers"], groups["desirable"], strict=True))
        labels: dict[str, set[bool]] = {}
        for answers, desirable in rows:
            for answer, label in zip(answers, desirable, strict=True):
                labels.setdefault(answer, set()).add(label)
        reason = "whose answer is labelled good in one row and bad in another"
        return {
            index: reason
            for index, (answers, _) in enumerate(rows)
            if any(len(labels[answer]) > 1 for answer in answers)
        }

    def batch(self, rows: Sequence[Row], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """An item is an answer.

        ``desirable`` (N,): whether it is good; ``own`` (N,): its sequence; ``other`` (M,): the
        sequences that are answers to other prompts.
        """
        desirable = [label for row in rows for label in row["desirable"]]
        own: list[int] = []
        other: list[int] = []
        for row in rows:
            first, count = len(own) + len(other), len(row["desirable"])
            own += range(first, first + count)
            other += range(first + count, first + len(row["input_ids"]))
        return {
            "labels": torch.zeros(len(own), dtype=torch.long),
            "desirable": torch.tensor(desirable, dtype=torch.bool),
            "own": torch.tensor(own, dtype=torch.long),
            "other": torch.tensor(other, dtype=torch.long),
        }

    def loss(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Loss:
        assert logprobs.reference is not None
        ratios = logprobs.sum - logprobs.reference.sum
        moved = gathered(ratios[batch["other"]].detach())
        kl = moved.mean().clamp(min=0) if len(moved) else ratios.new_zeros(())
        own, good = ratios[batch["own"]], batch["desirable"]
        gain = torch.where(good, own - kl, kl - own)
        weight = torch.where(good, self.desirable_weight, self.undesirable_weight)
        total = (weight * (1 - torch.sigmoid(self.beta * gain))).sum()
        with torch.no_grad():
            rewards, logps = self.beta * own, logprobs.sum[batch["own"]]
            metrics = {
                "rewards/chosen": rewards[good],
                "rewards/rejected": rewards[~good],
                "logps/chosen": logps[good],
                "logps/rejected": logps[~good],
                "kl": kl.expand(len(own)),
            }
        return Loss(total, metrics)


def _of_other_prompts(
    sequences: Sequence[TokenSequence], sides: Sequence[int]
) -> list[list[TokenSequence]]:
    """For each sequence its prompt with the nearest answer before it to another prompt.

    Only answers of the same side (1: rejected in a pair) count; the list wraps around. An entry is
    empty if there is none.
    """
    starts = [next(i for i, n in enumerate(one["labels"]) if n != IGNORE) for one in sequences]
    prompts = [tuple(one["input_ids"][:n]) for one, n in zip(sequences, starts, strict=True)]
    found: list[list[TokenSequence]] = []
    for index, prompt in enumerate(prompts):
        others = (place for place in range(index - 1, index - len(prompts), -1))
        fits = (n for n in others if prompts[n] != prompt and sides[n] == sides[index])
        place = next(fits, None)
        if place is None:
            found.append([])
            continue
        answer, start = sequences[place], starts[place]
        labels = [IGNORE] * len(prompt) + list(answer["labels"][start:])
        ids = [*prompt, *answer["input_ids"][start:]]
        found.append([{"input_ids": ids, "labels": labels}])
    return found
