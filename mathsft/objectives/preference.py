"""Learning from pairs of a better and a worse answer to the same prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from mathsft.models.logprobs import Scores, SequenceLogprobs
from mathsft.numbers import Rule, check_number
from mathsft.objectives.base import Group, Loss, Objective, Row
from mathsft.objectives.documents import documents


@dataclass(frozen=True)
class Pairwise(Objective):
    """Base of losses over pairs. A subclass gives ``pair_loss``; the prompt passes once."""

    kinds = ("preference",)
    nouns = ("pairs", "answers")
    needs_reference = True

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_number("beta", self.beta, Rule(lambda beta: 0 < beta < float("inf"), "above 0"))

    def groups(
        self, rows: Sequence[Row], tokenizer: Any, *, first: int, arrow: bool
    ) -> list[Group]:
        """``prompt`` with ``chosen`` and with ``rejected``: texts, or lists of messages.

        The tokens of an answer and its stop token are scored, as SFT trains them. A pair is
        dropped if one of its answers is, or if both become the same tokens.
        """
        better, worse = (
            documents(
                [_side(row, side, number) for number, row in enumerate(rows, first)],
                tokenizer,
                first=first,
                arrow=arrow,
            )
            for side in ("chosen", "rejected")
        )
        pairs = []
        for chosen, rejected in zip(better, worse, strict=True):
            dropped = chosen.dropped or rejected.dropped
            sequences = [*chosen.sequences, *rejected.sequences]
            if not dropped and sequences[0] == sequences[1]:
                dropped = "with two equal answers"
            unread = chosen.unread | rejected.unread
            pairs.append(Group(sequences, dropped=dropped, unread=unread))
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

    ``-log sigmoid(beta * (r(chosen) - r(rejected)))`` with r the answer's log-probability less the
    reference's. ln 2 = 0.69 is chance.

    Args:
        beta: how strongly the model is held to its reference; 0.1 is the paper's.
    """

    name = "dpo"
    defaults: ClassVar = {"per_device_train_batch_size": 8}

    def pair_loss(self, chosen: Scores, rejected: Scores) -> Tensor:
        return -logsigmoid(self.beta * (log_ratio(chosen) - log_ratio(rejected)))


def log_ratio(answer: Scores) -> Tensor:
    """log p(answer) less the reference's, (N,) in nats."""
    assert answer.reference is not None
    return answer.sum - answer.reference.sum


def _side(row: Row, side: str, number: int) -> dict[str, Any]:
    """The row as a prompt with one of its answers as the completion."""
    for column in ("prompt", side):
        if row.get(column) is None:
            raise ValueError(
                f"row {number}: a preference has prompt, chosen, rejected; there is no {column!r} "
                f"in {row!r:.80}"
            )
    rest = {key: value for key, value in row.items() if key not in ("chosen", "rejected")}
    return {**rest, "completion": row[side]}
