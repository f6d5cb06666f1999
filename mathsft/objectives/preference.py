"""Learning from pairs of a better and a worse answer to the same prompt.

For an answer y to a prompt x:

- s(y) is log p(y | x) in nats, summed over the answer's tokens and its stop token;
- m(y) is s(y) divided by the number of these tokens;
- r(y) is s(y) minus that of the reference, which is the model before training.

c is the chosen answer, j the rejected one. The losses below are for one pair; the loss of a step
is their mean over its pairs.

Some losses add -m(c), the negative log-likelihood of the chosen answer per token. TRL takes the
mean over all chosen tokens of a batch. Here it is the mean over pairs, as in the papers: so a pair
counts the same whatever batch it is in. For a batch of one pair the two are equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from mathsft.checks import AT_LEAST_0, Rule, check_number
from mathsft.models.logprobs import Scores
from mathsft.objectives.pairwise import Pairwise, log_ratio, mean_log_ratio

_NOISE = Rule(lambda value: 0 <= value < 0.5, "a share of wrong labels: 0 or more, below 0.5")


@dataclass(frozen=True)
class DPO(Pairwise):
    """Direct preference optimisation and its relatives; z = r(c) - r(j).

    - "sigmoid": -log sigmoid(beta z) (Rafailov et al. 2023, arXiv:2305.18290, eq. 7). A loss of
      ln 2 = 0.69 is chance. With ``label_smoothing`` e it is conservative DPO (Mitchell 2023):
      -(1 - e) log sigmoid(beta z) - e log sigmoid(-beta z).
    - "robust": [-(1 - e) log sigmoid(beta z) + e log sigmoid(-beta z)] / (1 - 2 e). If a share e
      of the labels is wrong, its mean is DPO's mean on right labels (Chowdhury et al. 2024,
      arXiv:2403.00409).
    - "ipo": (z' - 1 / (2 beta))², where z' is z with both ratios per token (Azar et al. 2023,
      arXiv:2310.12036, eq. 17; TRL divides by the tokens too, as the authors confirmed to it).
    - "hinge": max(0, 1 - beta z), the loss of SLiC (Zhao et al. 2023, arXiv:2305.10425).

    Args:
        beta: how strongly the model is kept near its reference; 0.1 is DPO's value.
        group_by_prompt: pairs of one prompt share a row; False: each row is one pair.
        loss_type: one of the above.
        label_smoothing: the share of pairs that may be labelled the wrong way round, below 0.5;
            for "sigmoid" and "robust".
        sft_weight: adds this times -m(c) (Pang et al. 2024, arXiv:2404.19733, with 1; in TRL
            ``loss_type=["sigmoid", "sft"]``). It keeps the chosen answers likely.
        reference_free: r(y) is s(y), as if the reference found all answers equally likely.
    """

    name = "dpo"

    loss_type: Literal["sigmoid", "ipo", "hinge", "robust"] = "sigmoid"
    label_smoothing: float = 0.0
    sft_weight: float = 0.0
    reference_free: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_type(self.loss_type, ("sigmoid", "ipo", "hinge", "robust"))
        _check_smoothing(self.label_smoothing, self.loss_type)
        check_number("sft_weight", self.sft_weight, AT_LEAST_0)
        if self.reference_free:
            object.__setattr__(self, "needs_reference", False)

    def pair_loss(self, chosen: Scores, rejected: Scores) -> Tensor:
        z = log_ratio(chosen) - log_ratio(rejected)
        if self.loss_type == "ipo":
            z = mean_log_ratio(chosen) - mean_log_ratio(rejected)
        loss = _compared(z, self.beta, self.loss_type, self.label_smoothing)
        return loss - self.sft_weight * chosen.mean

    def metrics(self, chosen: Scores, rejected: Scores) -> dict[str, Tensor]:
        found = super().metrics(chosen, rejected)
        return found | ({"nll_loss": -chosen.mean} if self.sft_weight else {})


@dataclass(frozen=True)
class CPO(Pairwise):
    """Contrastive preference optimisation (Xu et al. 2024, arXiv:2401.08417): no reference.

    -log sigmoid(beta (s(c) - s(j))) - cpo_alpha m(c). The names are TRL's.

    Args:
        beta: 0.1 is the paper's value.
        group_by_prompt: pairs of one prompt share a row; False: each row is one pair.
        loss_type: "sigmoid"; "hinge" and "ipo" as in `DPO`, with s (ipo: m) in place of r.
        cpo_alpha: the weight of -m(c). With 0 the loss is that of `DPO` without a reference.
        label_smoothing: as in `DPO`, for "sigmoid".
    """

    name = "cpo"
    needs_reference = False

    loss_type: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    cpo_alpha: float = 1.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_type(self.loss_type, ("sigmoid", "hinge", "ipo"))
        _check_smoothing(self.label_smoothing, self.loss_type)
        check_number("cpo_alpha", self.cpo_alpha, AT_LEAST_0)

    def compared(self, answer: Scores) -> Tensor:
        return answer.mean if self.loss_type == "ipo" else answer.sum

    def pair_loss(self, chosen: Scores, rejected: Scores) -> Tensor:
        difference = self.compared(chosen) - self.compared(rejected)
        loss = _compared(difference, self.beta, self.loss_type, self.label_smoothing)
        return loss - self.cpo_alpha * chosen.mean

    def metrics(self, chosen: Scores, rejected: Scores) -> dict[str, Tensor]:
        return {**super().metrics(chosen, rejected), "nll_loss": -chosen.mean}


@dataclass(frozen=True)
class SimPO(Pairwise):
    """Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734, eq. 6): no reference.

    -log sigmoid(beta (m(c) - m(j)) - simpo_gamma) - cpo_alpha m(c). With TRL it is
    ``CPOConfig(loss_type="simpo", cpo_alpha=0.0)``; TRL's defaults, beta 0.1 and cpo_alpha 1, are
    not SimPO's.

    Args:
        beta: 2 to 2.5 in the paper, because it weighs values per token.
        group_by_prompt: pairs of one prompt share a row; False: each row is one pair.
        simpo_gamma: by how much beta m(c) should be above beta m(j); 0.5 to 1.6 in the paper.
        cpo_alpha: the weight of -m(c), 0 in the paper; above 0 it is CPO-SimPO.
    """

    name = "simpo"
    needs_reference = False

    beta: float = 2.0
    simpo_gamma: float = 0.5
    cpo_alpha: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("simpo_gamma", self.simpo_gamma, AT_LEAST_0)
        check_number("cpo_alpha", self.cpo_alpha, AT_LEAST_0)

    def compared(self, answer: Scores) -> Tensor:
        return answer.mean

    def pair_loss(self, chosen: Scores, rejected: Scores) -> Tensor:
        difference = chosen.mean - rejected.mean
        loss = -logsigmoid(self.beta * difference - self.simpo_gamma)
        return loss - self.cpo_alpha * chosen.mean

    def metrics(self, chosen: Scores, rejected: Scores) -> dict[str, Tensor]:
        found = super().metrics(chosen, rejected)
        return found | ({"nll_loss": -chosen.mean} if self.cpo_alpha else {})


@dataclass(frozen=True)
class ORPO(Pairwise):
    """Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691, eq. 6 and 7).

    -m(c) - beta log sigmoid(log odds(c) - log odds(j)), where log odds(y) is
    m(y) - log(1 - exp(m(y))). There is no reference, and no supervised training before it is
    needed: -m(c) is that of SFT. TRL's ORPOTrainer puts this loss on the prompt's tokens as well.

    Args:
        beta: the weight of the odds ratio, the paper's lambda; 0.1 is its value.
        group_by_prompt: pairs of one prompt share a row; False: each row is one pair.
    """

    name = "orpo"
    needs_reference = False

    def compared(self, answer: Scores) -> Tensor:
        return answer.mean

    def pair_loss(self, chosen: Scores, rejected: Scores) -> Tensor:
        return -chosen.mean - self.beta * logsigmoid(_log_odds(chosen) - _log_odds(rejected))

    def metrics(self, chosen: Scores, rejected: Scores) -> dict[str, Tensor]:
        log_odds = _log_odds(chosen) - _log_odds(rejected)
        return {
            **super().metrics(chosen, rejected),
            "nll_loss": -chosen.mean,
            "log_odds_chosen": log_odds,
            "log_odds_ratio": logsigmoid(log_odds),
        }


def _log_odds(answer: Scores) -> Tensor:
    # An answer that is certain has infinite odds, and a gradient that is not a number.
    mean = answer.mean.clamp(max=-1e-6)
    return mean - torch.log(-torch.expm1(mean))


def _compared(z: Tensor, beta: float, loss_type: str, smoothing: float) -> Tensor:
    """The loss of each pair, from what its chosen answer has more than its rejected one."""
    if loss_type == "ipo":
        return (z - 1 / (2 * beta)) ** 2
    if loss_type == "hinge":
        return relu(1 - beta * z)
    if loss_type == "robust":
        wrong = (1 - smoothing) * logsigmoid(beta * z) - smoothing * logsigmoid(-beta * z)
        return -wrong / (1 - 2 * smoothing)
    return -(1 - smoothing) * logsigmoid(beta * z) - smoothing * logsigmoid(-beta * z)


def _check_type(loss_type: str, known: Sequence[str]) -> None:
    if loss_type not in known:
        raise ValueError(f"loss_type={loss_type!r}: give {', '.join(known[:-1])} or {known[-1]}")


def _check_smoothing(smoothing: float, loss_type: str) -> None:
    check_number("label_smoothing", smoothing, _NOISE)
    if smoothing and loss_type not in ("sigmoid", "robust"):
        raise ValueError(
            f"label_smoothing={smoothing}: loss_type={loss_type!r} has none; it belongs to "
            "'sigmoid' (conservative) and 'robust'"
        )
