"""What all losses over pairs of a better and a worse answer share: rows, trees and metrics."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, ClassVar

import torch
from datasets import List, Value
from torch import Tensor

from mathsft.checks import ABOVE_0, check_number
from mathsft.data.chat import answered
from mathsft.data.given import given_row
from mathsft.data.pairs import answer_key
from mathsft.data.schemas import UnusableRowError
from mathsft.models.forest import TokenForest
from mathsft.models.logprobs import Scores, SequenceLogprobs
from mathsft.objectives.base import Group, Loss, Objective, Row, joined, sequences_of
from mathsft.objectives.documents import documents


@dataclass(frozen=True)
class Pairs(Objective):
    """Base class of all objectives over pairs: the rows, and the trees that they share.

    The pairs of one prompt share one tree: the prompt passes through the model once, and so does
    an answer that is in several pairs.

    Args:
        group_by_prompt: put the pairs of one prompt into one row, as many as ``max_length``
            allows; ``per_device_train_batch_size`` then counts prompts. The loss is per pair
            either way. False: each row is one pair, as in TRL.
    """

    kinds = ("preference",)
    nouns = ("pairs", "answers")
    dropout = False  # as in TRL
    columns: ClassVar = {"asked": Value("string"), "sides": List(Value("string"))}
    unshown = frozenset({"asked", "sides"})  # hashes

    group_by_prompt: bool = field(default=True, kw_only=True)

    def groups(
        self, rows: Sequence[Row], tokenizer: Any, *, first: int, arrow: bool
    ) -> list[Group]:
        """``prompt`` with ``chosen`` and with ``rejected``: texts, or lists of messages.

        An answer's tokens and its stop token are scored: those that SFT would train. A pair is
        dropped if SFT would drop one of its answers, or if both become the same tokens.
        """
        pairs = [Group() for _ in rows]
        kept: dict[int, list[Row]] = {}
        for index, row in enumerate(rows):
            unread, where = pairs[index].unread, f"row {first + index}"
            try:
                read = given_row(row, where=where, counted=unread, arrow=arrow, kinds=self.kinds)
                kept[index] = [answered(read, read[side]) for side in ("chosen", "rejected")]
            except UnusableRowError as reason:
                pairs[index] = Group(dropped=str(reason))
                continue
            pairs[index].columns = {
                "asked": _hash(read["prompt"]),
                "sides": [answer_hash(read["prompt"], read[s]) for s in ("chosen", "rejected")],
                **self.kept(read, unread),
            }
        made = [documents([pair[side] for pair in kept.values()], tokenizer) for side in (0, 1)]
        for index, (chosen, rejected) in zip(kept, zip(*made, strict=True), strict=True):
            pairs[index].dropped = chosen.dropped or rejected.dropped
            pairs[index].sequences = [*chosen.sequences, *rejected.sequences]
            if not pairs[index].dropped and chosen.sequences == rejected.sequences:
                pairs[index].dropped = "whose chosen and rejected answers are equal"
        return pairs

    def kept(self, read: Row, unread: set[str]) -> dict[str, Any]:
        """What a row keeps besides its answers, in columns with one entry for each answer.

        ``unread`` collects the names of the columns that this objective does not use.
        """
        if "margin" in read:
            unread.add("column 'margin'")
        return {}

    def drop_among(self, groups: Any) -> dict[int, str]:
        """Pairs that another row has the other way round: neither of the two is trained."""
        sides = [tuple(pair) for pair in groups["sides"]]
        there = set(sides)
        reason = "whose chosen and rejected answers another row has swapped"
        return {index: reason for index, pair in enumerate(sides) if pair[::-1] in there}

    def rows(self, groups: Any, *, max_length: int) -> tuple[Any, str]:
        asked = groups["asked"]
        groups = groups.remove_columns(["asked", "sides"])
        shared = {prompt for prompt, count in Counter(asked).items() if count > 1}
        if not self.group_by_prompt or not shared:
            return groups, ""
        members: list[list[int]] = []
        trees: dict[str, tuple[list[int], list[Any], int]] = {}  # the open row of each prompt
        saved = 0
        for index, prompt in enumerate(asked):
            if prompt in shared:
                pair = list(sequences_of(groups[index]))
                tokens = TokenForest(pair).tokens
                if prompt in trees:
                    row, sequences, before = trees[prompt]
                    together = TokenForest([*sequences, *pair]).tokens
                    if together <= max_length:
                        row.append(index)
                        trees[prompt] = (row, [*sequences, *pair], together)
                        saved += before + tokens - together
                        continue
                members.append([index])
                trees[prompt] = (members[-1], pair, tokens)
            else:
                members.append([index])
        rows = joined(groups, members)
        told = f"; pairs of one prompt together in {len(rows):,} rows, {saved:,} tokens fewer"
        return rows, told

    def batch(self, rows: Sequence[Row], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """An item is a pair; ``choice`` (N, 2): its chosen and its rejected sequence."""
        count = sum(len(row["input_ids"]) for row in rows)
        choice = torch.arange(count).reshape(-1, 2)
        return {"labels": torch.zeros(len(choice), dtype=torch.long), "choice": choice}


@dataclass(frozen=True)
class Pairwise(Pairs):
    """Base class of losses over the log-probabilities of pairs: a subclass defines ``pair_loss``.

    Args:
        beta: the weight of the compared log-probabilities.
        group_by_prompt: pairs of one prompt share a row; False: each row is one pair.
    """

    needs_reference = True
    # The rate is TRL's advice for adapters; a much larger one makes both answers unlikely.
    defaults: ClassVar = {
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-5,
        "warmup_steps": 0.1,
    }

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_number("beta", self.beta, ABOVE_0)

    def pair_loss(self, chosen: Scores, rejected: Scores) -> Tensor:
        """The loss of each pair, (N,)."""
        raise NotImplementedError

    def compared(self, answer: Scores) -> Tensor:
        """What is logged as an answer's reward, divided by ``beta``: (N,)."""
        return log_ratio(answer)

    def metrics(self, chosen: Scores, rejected: Scores) -> dict[str, Tensor]:
        """The metrics that TRL logs, one value per pair.

        ``logps`` are summed if the model is compared with a reference; otherwise they are what
        the loss compares, summed or per token.
        """
        better, worse = (self.beta * self.compared(side) for side in (chosen, rejected))
        logps = [
            self.compared(side) if side.reference is None else side.sum
            for side in (chosen, rejected)
        ]
        return {
            "rewards/chosen": better,
            "rewards/rejected": worse,
            "rewards/margins": better - worse,
            "rewards/accuracies": (better > worse).float(),
            "logps/chosen": logps[0],
            "logps/rejected": logps[1],
        }

    def loss(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Loss:
        """Summed over the pairs."""
        chosen, rejected = (logprobs.of(batch["choice"][:, side]) for side in (0, -1))
        with torch.no_grad():
            metrics = self.metrics(chosen, rejected)
        return Loss(self.pair_loss(chosen, rejected).sum(), metrics)


def log_ratio(answer: Scores) -> Tensor:
    """log p(answer), (N,) in nats, minus the reference's if there is one."""
    return answer.sum if answer.reference is None else answer.sum - answer.reference.sum


def mean_log_ratio(answer: Scores) -> Tensor:
    """`log_ratio` per token of the answer: (N,)."""
    return answer.mean if answer.reference is None else answer.mean - answer.reference.mean


def answer_hash(prompt: Any, answer: Any) -> str:
    """The same for answers to one prompt that a reader cannot tell apart (`answer_key`)."""
    return _hash([answer_key(prompt), answer_key(answer)])


def _hash(value: Any) -> str:
    return blake2b(repr(value).encode(), digest_size=8).hexdigest()
