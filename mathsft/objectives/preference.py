"""Learning from pairs of a better and a worse answer to the same prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from mathsft.checks import Rule, check_number
from mathsft.data.given import given_row
from mathsft.data.rows import answered
from mathsft.data.schemas import UnusableRowError
from mathsft.models.logprobs import Scores, SequenceLogprobs
from mathsft.objectives.base import Group, Loss, Objective, Row
from mathsft.objectives.documents import documents


@dataclass(frozen=True)
class Pairwise(Objective):
    """Base class of pair losses: a subclass defines ``pair_loss``.

    A pair's prompt passes through the model once.
    """

    kinds = ("preference",)
    nouns = ("pairs", "answers")
    needs_reference = True
    dropout = False  # as in TRL: the reference has none

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_number("beta", self.beta, Rule(lambda beta: 0 < beta < float("inf"), "above 0"))

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
        sides = [documents([pair[side] for pair in kept.values()], tokenizer) for side in (0, 1)]
        for index, (chosen, rejected) in zip(kept, zip(*sides, strict=True), strict=True):
            pairs[index].dropped = chosen.dropped or rejected.dropped
            pairs[index].sequences = [*chosen.sequences, *rejected.sequences]
            if not pairs[index].dropped and chosen.sequences == rejected.sequences:
                pairs[index].dropped = "whose chosen and rejected answers are equal"
        return pairs

    def pair_loss(self, chosen: Scores, rejected: Scores) -> Tensor:
        """The loss of each pair, (N,)."""
        raise NotImplementedError

    def loss(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Loss:
        """Summed over the pairs, with the metrics that TRL logs."""
        chosen, rejected = (logprobs.of(batch["choice"][:, side]) for side in (0, -1))
        better, worse = (self.beta * log_ratio(side).detach() for side in (chosen, rejected))
        metrics = {
            "rewards/chosen": better,
            "rewards/rejected": worse,
            "rewards/margins": better - worse,
            "rewards/accuracies": (better > worse).float(),
            "logps/chosen": chosen.sum.detach(),
            "logps/rejected": rejected.sum.detach(),
        }
        return Loss(self.pair_loss(chosen, rejected).sum(), metrics)


@dataclass(frozen=True)
class DPO(Pairwise):
    """Direct preference optimisation, the sigmoid loss (Rafailov et al. 2023, arXiv:2305.18290).

    ``-log sigmoid(beta * (r(chosen) - r(rejected)))``, in which r is the answer's log-probability
    minus the reference's. A loss of ln 2 = 0.69 is chance.

    Args:
        beta: how strongly the model is kept near its reference; 0.1 is the paper's value.
    """

    name = "dpo"
    defaults: ClassVar = {"per_device_train_batch_size": 8}

    def pair_loss(self, chosen: Scores, rejected: Scores) -> Tensor:
        return -logsigmoid(self.beta * (log_ratio(chosen) - log_ratio(rejected)))


def log_ratio(answer: Scores) -> Tensor:
    """log p(answer), (N,) in nats, minus the reference's if there is one."""
    return answer.sum if answer.reference is None else answer.sum - answer.reference.sum
