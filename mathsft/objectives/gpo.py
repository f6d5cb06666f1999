"""Learning from stored groups of scored answers: group policy optimisation (GPO).

Of the G answers to a prompt, answer i has the reward r_i. With the mean and the population's
standard deviation (G in the denominator) of its group's rewards, and lp_t the log-probability of a
token, the stop token included:

    A_i = (r_i - mean) / (deviation + 1e-4)
    loss of a group = 1/G sum_i mean_t [-exp(lp_t) A_i + beta k3_t]

The loss of a step is the mean over its groups. The gradient of a token is -A p(token) times that of
lp: a token that the model finds unlikely is hardly pushed up or down. So the loss needs no model
that wrote the answers, and it has a floor for bad answers. It also learns little from a good answer
that the model would not give.

This is the GPO of effective_llm_alignment (github.com/VikhrModels/effective_llm_alignment). What
differs from its code: a prompt gets no stop token; 1/G counts the whole group, also if it is
divided over several rows or batches; a batch may hold several groups, of different sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mathsft.checks import BELOW_1, check_number
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.objectives.advantages import Scale
from mathsft.objectives.base import Row
from mathsft.objectives.groupwise import Policy
from mathsft.objectives.policy import clipped


@dataclass(frozen=True)
class GPO(Policy):
    """Group policy optimisation on stored answers, or on those that `RolloutTrainer` samples.

    Args:
        scale_rewards: "group_population" is GPO's; with "group" (G - 1) the advantages are smaller
            by the factor sqrt((G - 1) / G).
        ratio: use -min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon) A) in place of -exp(lp) A, as
            `GRPO` does; ratio = exp(lp - lp_old), with lp_old computed once, before training.
        epsilon: with ``ratio``: how far from 1 the ratio may be before it is clipped.
    """

    name = "gpo"
    per: ClassVar = "group"

    scale_rewards: Scale = "group_population"
    ratio: bool = False
    epsilon: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("epsilon", self.epsilon, BELOW_1)
        object.__setattr__(self, "ratios", self.ratio)

    def passing(self, row: Row) -> Row:
        found = super().passing(row)
        return {**found, "share": [1 / len(row["input_ids"])] * len(found["input_ids"])}

    def batch(self, rows: Sequence[Row], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Also ``share`` (S,): 1/G of each answer's group."""
        made = super().batch(rows, tensors)
        share = torch.zeros_like(made["advantages"])
        values = [value for row in rows for value in row["share"]]
        share[: len(values)] = torch.tensor(values)
        return {**made, "share": share}

    def surrogate(
        self, logprobs: SequenceLogprobs, old: Tensor, advantage: Tensor
    ) -> tuple[Tensor, Tensor]:
        here = advantage[logprobs.sequence]
        if self.ratio:
            ratio = (logprobs.values - old).exp()
            return clipped(ratio, here, low=self.epsilon, high=self.epsilon)
        loss = -logprobs.values.exp() * here
        return loss, torch.zeros_like(loss, dtype=torch.bool)

    def total(self, loss: Tensor, logprobs: SequenceLogprobs, batch: Any) -> Tensor:
        means = logprobs.over_sequences(loss) / logprobs.tokens.clamp(min=1)
        return (means * batch["share"]).sum()
