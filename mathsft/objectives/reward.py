"""Reward models: a number for an answer, learned from pairs of a better and a worse answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from datasets import List, Value
from torch import Tensor
from torch.nn.functional import logsigmoid

from mathsft.checks import AT_LEAST_0, check_number
from mathsft.models.forest import IGNORE, TokenSequence
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.objectives.base import Group, Loss, Row
from mathsft.objectives.pairwise import Pairs


@dataclass(frozen=True)
class RewardModel(Pairs):
    """A Bradley-Terry reward model (Bradley and Terry 1952; Ouyang et al. 2022, arXiv:2203.02155).

    v(y) is the output of the model's head ``score`` at the last token of prompt and answer, which
    is the stop token or what a chat template writes after it. The loss of a pair with the chosen
    answer c and the rejected answer j is

    -log sigmoid(v(c) - v(j) - margin) + center_rewards_coefficient (v(c) + v(j))².

    A loss of ln 2 = 0.69 is chance. ``margin`` is a column of the rows: by how much the chosen
    answer should be better (Touvron et al. 2023, arXiv:2307.09288, eq. 2). Rows without it have 0.
    Only differences of rewards are trained, so their level may drift; the second term keeps it
    near 0 (Eisenstein et al. 2023, arXiv:2312.09244).

    The model has one output: `mathsft.models.reward_head.load_reward_model` loads it. The logged
    metrics have TRL's names: ``accuracy``, ``margin`` (v(c) - v(j)), ``mean_reward``, and those of
    a batch, ``min_reward`` and ``max_reward``.

    Args:
        group_by_prompt: pairs of one prompt share a row; False: each row is one pair.
        center_rewards_coefficient: the weight of the second term; 0.01 is usual.
    """

    name = "reward_model"  # a recipe's section "reward" is a judge for policies
    writes = False
    needs_hidden = True
    columns: ClassVar = {**Pairs.columns, "margin": List(Value("float64"))}
    scored_share = 0.0  # nothing is projected onto the vocabulary
    # The rate is TRL's. A new head starts near 0, and must move far.
    defaults: ClassVar = {
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-4,
        "warmup_steps": 0.1,
    }

    center_rewards_coefficient: float = 0.0

    def __post_init__(self) -> None:
        check_number("center_rewards_coefficient", self.center_rewards_coefficient, AT_LEAST_0)

    def head(self, rows: Any) -> dict[str, Any]:
        """Arguments of `load_reward_model` that fit: a reward is one number."""
        return {"num_labels": 1}

    def kept(self, read: Row, unread: set[str]) -> dict[str, Any]:
        """``margin``: what is subtracted from the reward of the chosen, and of the rejected."""
        return {"margin": [read.get("margin", 0.0), 0.0]}

    def groups(
        self, rows: Sequence[Row], tokenizer: Any, *, first: int, arrow: bool
    ) -> list[Group]:
        """As in `Pairs`; each answer's last token is marked, because the reward is read there."""
        groups = super().groups(rows, tokenizer, first=first, arrow=arrow)
        for group in groups:
            group.sequences = [read_at_end(sequence) for sequence in group.sequences]
        return groups

    def batch(self, rows: Sequence[Row], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        margins = [margin for row in rows for margin in row["margin"][::2]]
        return {
            **super().batch(rows, tensors),
            "margin": torch.tensor(margins, dtype=torch.float32),
        }

    def loss(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Loss:
        """Summed over the pairs."""
        values = head_values(logprobs.value, outputs=1)[:, 0]
        chosen, rejected = values[batch["choice"]].unbind(1)
        total = -logsigmoid(chosen - rejected - batch["margin"]).sum()
        if self.center_rewards_coefficient:
            centre = (chosen + rejected).square().sum()
            total = total + self.center_rewards_coefficient * centre
        with torch.no_grad():
            return Loss(total, _metrics(chosen, rejected))


def read_at_end(sequence: TokenSequence) -> TokenSequence:
    """The sequence with its last token marked as the one at which the head's output is read.

    A sequence's last token does not go through the model, so one more is put after it. Which one
    it is does not matter: nothing reads it.
    """
    ids = list(sequence["input_ids"])
    return {"input_ids": [*ids, ids[-1]], "labels": [*[IGNORE] * (len(ids) - 1), ids[-1], IGNORE]}


def head_values(value: Tensor | None, *, outputs: int | None = None) -> Tensor:
    """Return ``value`` (S, labels), what the head ``score`` says about each sequence.

    Raises ValueError if the model has no such head, or not as many ``outputs`` as expected.
    """
    if value is None:
        raise ValueError(
            "the model has no head 'score', so it gives no reward and no class: load it with "
            "load_reward_model, or with transformers' AutoModelForSequenceClassification"
        )
    found = value.shape[-1]
    if outputs not in (None, found):
        raise ValueError(
            f"the model's head has {found} outputs, and a reward is one number: load it with "
            "load_reward_model, or with num_labels=1"
        )
    return value


def _metrics(chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    both = torch.stack([chosen, rejected])
    return {
        "accuracy": (chosen > rejected).float(),
        "margin": chosen - rejected,
        "mean_reward": both.mean(0),
        # An empty batch (only fillers) has no smallest reward, and counts for nothing.
        "min_reward": both.min().expand(len(chosen)) if both.numel() else chosen,
        "max_reward": both.max().expand(len(chosen)) if both.numel() else chosen,
    }
