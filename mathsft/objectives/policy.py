"""Learning from answers with rewards: policy gradients. Names and conventions are TRL's.

Of G answers to a prompt, answer i has the reward r_i and n_i tokens, its stop token included.
lp_t is the log-probability of a token under the model, lp_old_t under the model that wrote the
answer, and lp_ref_t under the model before training; s, s_old and s_ref are their sums over an
answer. The ratio of a token is exp(lp_t - lp_old_t). In the first step after sampling it is 1, and
all losses here have the gradient of -A_i lp_t, each with its own advantage A_i and mean.

A penalty keeps the model near the one before training if beta is above 0 (`groupwise`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mathsft.checks import ABOVE_0, BELOW_1, at_least, check_number
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.objectives.advantages import Baseline, Scale
from mathsft.objectives.base import Group, Row
from mathsft.objectives.groupwise import Policy, one_of

LossType = Literal["grpo", "dr_grpo", "dapo", "cispo"]


@dataclass(frozen=True)
class Reinforce(Policy):
    """REINFORCE (Williams 1992): -A lp_t, a mean over tokens. It has no ratio.

    ``baseline="none"`` is its plainest form, A = r; "batch" or "group" reduces the noise.
    """

    name = "reinforce"
    ratios = False

    baseline: Baseline = "none"

    def surrogate(
        self, logprobs: SequenceLogprobs, old: Tensor, advantage: Tensor
    ) -> tuple[Tensor, Tensor]:
        loss = -advantage[logprobs.sequence] * logprobs.values
        return loss, torch.zeros_like(loss, dtype=torch.bool)


@dataclass(frozen=True)
class GRPO(Policy):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300) and its relatives.

    The loss of a token is -min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon_high) A).

    Args:
        scale_rewards: "group" is GRPO's; "none" does not favour prompts that are nearly solved, or
            nearly hopeless (Liu et al. 2025, arXiv:2503.20783).
        epsilon: how far below 1 the ratio may fall before it is clipped.
        epsilon_high: how far above 1 it may rise; None: as far as ``epsilon``. With
            loss_type="cispo" it is the largest ratio itself.
        loss_type: "grpo": the mean over answers of their means over tokens. "dr_grpo": the sum over
            an answer's tokens divided by ``max_completion_length``, so a long wrong answer weighs
            no less per token than a short one. "dapo": the mean over all tokens of the step.
            "cispo": -min(ratio, epsilon_high) A lp_t with a constant ratio, the mean over tokens
            (MiniMax 2025, arXiv:2506.13585).
        importance_sampling_level: "token"; "sequence": one ratio for an answer, the exponential of
            the mean of lp_t - lp_old_t (Zheng et al. 2025, arXiv:2507.18071).
        max_completion_length: for "dr_grpo"; `RolloutTrainer` sets it to ``max_new_tokens``.
    """

    name = "grpo"

    scale_rewards: Scale = "group"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    loss_type: LossType = "grpo"
    importance_sampling_level: Literal["token", "sequence"] = "token"
    max_completion_length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("epsilon", self.epsilon, BELOW_1)
        if self.epsilon_high is not None:
            check_number("epsilon_high", self.epsilon_high, ABOVE_0)
        one_of("loss_type", self.loss_type, ("grpo", "dr_grpo", "dapo", "cispo"))
        one_of("importance_sampling_level", self.importance_sampling_level, ("token", "sequence"))
        if self.max_completion_length is not None:
            check_number("max_completion_length", self.max_completion_length, at_least(1))
        if self.loss_type == "cispo" and self.epsilon_high is None:
            raise ValueError("loss_type='cispo' needs epsilon_high, the largest ratio, such as 5.0")

    @property
    def per(self) -> Literal["answer", "token"]:
        return "answer" if self.loss_type in ("grpo", "dr_grpo") else "token"

    def groups(self, rows: Sequence[Row], *args: Any, **kwargs: Any) -> list[Group]:
        if self.loss_type == "dr_grpo" and self.max_completion_length is None:
            raise ValueError("loss_type='dr_grpo' on stored answers: give max_completion_length")
        return super().groups(rows, *args, **kwargs)

    def surrogate(
        self, logprobs: SequenceLogprobs, old: Tensor, advantage: Tensor
    ) -> tuple[Tensor, Tensor]:
        sequence, log_ratio = logprobs.sequence, logprobs.values - old
        if self.importance_sampling_level == "sequence":
            tokens = logprobs.tokens.clamp(min=1)
            log_ratio = (logprobs.over_sequences(log_ratio) / tokens)[sequence]
        ratio, here = log_ratio.exp(), advantage[sequence]
        if self.loss_type == "cispo":
            assert self.epsilon_high is not None
            most = ratio.detach().clamp(max=self.epsilon_high)
            return -most * here * logprobs.values, (ratio > self.epsilon_high) & (here > 0)
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        return clipped(ratio, here, low=self.epsilon, high=high)

    def total(self, loss: Tensor, logprobs: SequenceLogprobs, batch: Any) -> Tensor:
        if self.loss_type == "grpo":
            return (logprobs.over_sequences(loss) / logprobs.tokens.clamp(min=1)).sum()
        if self.loss_type == "dr_grpo":
            assert self.max_completion_length is not None
            return loss.sum() / self.max_completion_length
        return loss.sum()


@dataclass(frozen=True)
class DrGRPO(GRPO):
    """`GRPO` "done right" (Liu et al. 2025, arXiv:2503.20783): no spread, no length divides."""

    name = "dr_grpo"

    scale_rewards: Scale = "none"
    loss_type: LossType = "dr_grpo"


@dataclass(frozen=True)
class DAPO(GRPO):
    """`GRPO` per token, with more room upwards (Yu et al. 2025, arXiv:2503.14476).

    Its dynamic sampling is ``resample`` of `RolloutTrainer`; its overlong filter is
    ``mask_truncated_completions``; its soft penalty is the reward ``soft_overlong``.
    """

    name = "dapo"

    epsilon_high: float | None = 0.28
    loss_type: LossType = "dapo"


@dataclass(frozen=True)
class GSPO(GRPO):
    """`GRPO` with one ratio for an answer (Zheng et al. 2025, arXiv:2507.18071).
    The clipping range is the paper's.
    """

    name = "gspo"

    epsilon: float = 3e-4
    epsilon_high: float | None = 4e-4
    importance_sampling_level: Literal["token", "sequence"] = "sequence"


@dataclass(frozen=True)
class CISPO(GRPO):
    """`GRPO` that clips the ratio's weight, not its gradient (arXiv:2506.13585).
    The largest ratio of 5 is that of TRL's documentation.
    """

    name = "cispo"

    epsilon_high: float | None = 5.0
    loss_type: LossType = "cispo"


@dataclass(frozen=True)
class PPO(GRPO):
    """PPO's clipped loss without a critic (Schulman et al. 2017, arXiv:1707.06347, eq. 7).

    The baseline is the mean reward of the batch; the loss is a mean over tokens.
    """

    name = "ppo"

    baseline: Baseline = "batch"
    scale_rewards: Scale = "none"
    loss_type: LossType = "dapo"


@dataclass(frozen=True)
class ReinforcePlusPlus(PPO):
    """REINFORCE++ (Hu et al. 2025, arXiv:2501.03262): `PPO` with advantages scaled by the batch.

    With ``baseline="group"`` it is the paper's variant for several answers to a prompt. The KL is
    in the reward ("k1"), for a whole answer at once.
    """

    name = "reinforce_pp"

    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    scale_rewards: Scale = "batch"


@dataclass(frozen=True)
class RLOO(Policy):
    """REINFORCE with the mean of the other answers as baseline (Ahmadian et al., arXiv:2402.14740).

    An answer's loss is -min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon) A) with the ratio
    exp(s - s_old) of the whole answer, the mean over answers. In TRL, beta is 0.05 by default.

    Args:
        epsilon: how far from 1 the ratio may be before it is clipped.
    """

    name = "rloo"

    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    baseline: Baseline = "leave_one_out"
    epsilon: float = 0.2
    per: ClassVar = "answer"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("epsilon", self.epsilon, BELOW_1)

    def surrogate(
        self, logprobs: SequenceLogprobs, old: Tensor, advantage: Tensor
    ) -> tuple[Tensor, Tensor]:
        ratio = logprobs.over_sequences(logprobs.values - old).exp()
        loss, out = clipped(ratio, advantage, low=self.epsilon, high=self.epsilon)
        # Spread over the answer's tokens, whose sum is taken.
        shared = loss / logprobs.tokens.clamp(min=1)
        return shared[logprobs.sequence], out[logprobs.sequence]


def clipped(ratio: Tensor, advantage: Tensor, *, low: float, high: float) -> tuple[Tensor, Tensor]:
    """PPO's clipped loss, and whether it is clipped and so has no gradient."""
    loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    out = ((ratio < 1 - low) & (advantage < 0)) | ((ratio > 1 + high) & (advantage > 0))
    return loss, out
