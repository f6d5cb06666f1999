"""SMPO: pairs without a reference, whose margin grows during training, on clipped tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from mathsft.checks import AT_LEAST_0, SHARE, Rule, check_number
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.objectives.base import Loss
from mathsft.objectives.pairwise import Pairwise
from mathsft.processes import gathered

_NOT_ABOVE_0 = Rule(lambda value: value <= 0, "0 or less: it is a log-probability in nats")
_TYPES = ("smooth_lower_bound", "hinge", "ipo", "sigmoid")


@dataclass(frozen=True)
class SMPO(Pairwise):
    """A margin between mean log-probabilities, with both answers trained a little.

    From github.com/VikhrModels/effective_llm_alignment (``src/trainers/smpo_trainer.py``), as it
    is meant there: the published code writes the clipped values into a copy, so nothing is ever
    clipped. With d = m(c) - m(j) - margin, after clipping, the loss of a pair is

    - "smooth_lower_bound": max(0, -beta d)²; "hinge": max(0, -beta d); "ipo": (beta d)²;
      "sigmoid": -log sigmoid(beta d);
    - plus -chosen_sft_ratio m(c) - (1 - chosen_sft_ratio) m(j), without clipping.

    The margin grows with the share of the steps that are done, from ``target_margin`` to
    ``final_margin``. Clipping, in this order:

    1. the stop token of a rejected answer has its log-probability negated, so that lowering m(j)
       makes stopping likelier;
    2. a rejected token is not below the ``lower_clip_percentile`` of all rejected tokens of the
       batch (of all processes), nor below ``min_log_prob``; a clipped token has no gradient: what
       is unlikely already is not made less likely;
    3. a chosen token is not above the ``upper_clip_percentile`` of all chosen ones.

    Args:
        beta: 1.2 is that of its authors, like all other defaults.
        group_by_prompt: pairs of one prompt share a row; False: each row is one pair.
        loss_type: one of the above.
        chosen_sft_ratio: the weight of the chosen answer's likelihood against the rejected one's.
        target_margin: the margin at the first step, in nats per token.
        final_margin: the margin that the last step all but reaches.
        min_log_prob: see 2, in nats.
        lower_clip_percentile: see 2, a share; None: no such clipping.
        upper_clip_percentile: see 3.
    """

    name = "smpo"
    needs_reference = False
    divisible = False  # the percentiles are those of the batch

    beta: float = 1.2
    loss_type: Literal["smooth_lower_bound", "hinge", "ipo", "sigmoid"] = "smooth_lower_bound"
    chosen_sft_ratio: float = 0.8
    target_margin: float = 0.01
    final_margin: float = 0.35
    min_log_prob: float = -2.3
    lower_clip_percentile: float | None = 0.02
    upper_clip_percentile: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss_type not in _TYPES:
            raise ValueError(f"loss_type={self.loss_type!r}: give one of {', '.join(_TYPES)}")
        share = Rule(lambda value: 0 <= value <= 1, "a share from 0 to 1")
        check_number("chosen_sft_ratio", self.chosen_sft_ratio, share)
        check_number("target_margin", self.target_margin, AT_LEAST_0)
        check_number("final_margin", self.final_margin, AT_LEAST_0)
        check_number("min_log_prob", self.min_log_prob, _NOT_ABOVE_0)
        for name in ("lower_clip_percentile", "upper_clip_percentile"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), SHARE)

    def loss(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Loss:
        choice = batch["choice"]
        plain = [logprobs.of(choice[:, side]) for side in (0, -1)]
        clipped = self.clipped(logprobs, choice)
        means = [clipped.of(choice[:, side]).mean for side in (0, -1)]
        margin = self.target_margin + batch["progress"] * (self.final_margin - self.target_margin)
        d = self.beta * (means[0] - means[1] - margin)
        losses = {
            "smooth_lower_bound": relu(-d) ** 2,
            "hinge": relu(-d),
            "ipo": d**2,
            "sigmoid": -logsigmoid(d),
        }[self.loss_type]
        share = self.chosen_sft_ratio
        likely = share * plain[0].mean + (1 - share) * plain[1].mean
        with torch.no_grad():
            metrics = self.metrics(*plain)
            metrics |= {"nll_loss": -likely, "margin": margin.expand(len(likely))}
        return Loss((losses - likely).sum(), metrics)

    def compared(self, answer: Any) -> Tensor:
        return answer.mean

    def clipped(self, logprobs: SequenceLogprobs, choice: Tensor) -> SequenceLogprobs:
        """``logprobs`` with the clipped tokens; ``choice`` (N, 2) as in `Pairwise.batch`."""
        values, sequence = logprobs.values, logprobs.sequence
        is_chosen = torch.zeros(len(logprobs.tokens), dtype=torch.bool, device=values.device)
        is_chosen[choice[:, 0]] = True
        of_chosen = is_chosen[sequence]
        # A sequence's tokens are side by side, in order: its last one is its stop token.
        last = torch.ones_like(of_chosen)
        last[:-1] = sequence[1:] != sequence[:-1]
        rejected = torch.where(last, -values, values)
        if (low := _quantile(rejected[~of_chosen], self.lower_clip_percentile)) is not None:
            rejected = rejected.maximum(low)
        rejected = rejected.clamp(min=self.min_log_prob)
        chosen = values
        if (high := _quantile(values[of_chosen], self.upper_clip_percentile)) is not None:
            chosen = values.minimum(high)
        return replace(logprobs, values=torch.where(of_chosen, chosen, rejected))


def _quantile(values: Tensor, share: float | None) -> Tensor | None:
    """The quantile of the values of all processes, without a gradient; None if there is none."""
    if share is None:
        return None
    every = gathered(values.detach().float())
    return torch.quantile(every, share) if len(every) else None
