"""The losses over answers, written from the papers over one plain forward pass for each answer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Answer:
    """Log-probabilities of an answer's tokens, the stop last: the model's and the reference's."""

    tokens: Tensor
    before: Tensor

    @property
    def ratio(self) -> Tensor:
        return self.tokens.sum() - self.before.sum()


def read(model: Any, reference: Any, tokenizer: Any, prompt: str, answer: str) -> Answer:
    """The prompt and the answer as one text; without a reference, ``before`` is 0."""
    start = len(tokenizer(prompt).input_ids)
    ids = torch.tensor([*tokenizer(prompt + answer).input_ids, tokenizer.eos_token_id])

    def scored(by: Any) -> Tensor:
        logits = by(input_ids=ids[None, :-1]).logits[0].float()
        picked = logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        return picked[start - 1 :]

    tokens = scored(model)
    if reference is None:
        return Answer(tokens, torch.zeros_like(tokens))
    with torch.no_grad():
        return Answer(tokens, scored(reference))


def log_sigmoid(value: Tensor) -> Tensor:
    return -torch.log1p(torch.exp(-value))


def cdpo(chosen: Answer, rejected: Answer, *, beta: float, noise: float) -> Tensor:
    """Mitchell 2023, "A note on DPO with noisy preferences", equation 3."""
    z = beta * (chosen.ratio - rejected.ratio)
    return -(1 - noise) * log_sigmoid(z) - noise * log_sigmoid(-z)


def robust(chosen: Answer, rejected: Answer, *, beta: float, noise: float) -> Tensor:
    z = beta * (chosen.ratio - rejected.ratio)
    return (-(1 - noise) * log_sigmoid(z) + noise * log_sigmoid(-z)) / (1 - 2 * noise)


def ipo(chosen: Answer, rejected: Answer, *, beta: float) -> Tensor:
    z = chosen.ratio / len(chosen.tokens) - rejected.ratio / len(rejected.tokens)
    return (z - 1 / (2 * beta)).square()


def hinge(chosen: Answer, rejected: Answer, *, beta: float) -> Tensor:
    z = beta * (chosen.ratio - rejected.ratio)
    return torch.maximum(torch.zeros(()), 1 - z)


def simpo(chosen: Answer, rejected: Answer, *, beta: float, gamma: float) -> Tensor:
    return -log_sigmoid(beta * (chosen.tokens.mean() - rejected.tokens.mean()) - gamma)


def orpo(chosen: Answer, rejected: Answer, *, beta: float) -> Tensor:
    """Hong et al. 2024, equations 3 to 7, with p the geometric mean of the tokens."""
    odds = []
    for side in (chosen, rejected):
        p = side.tokens.double().mean().exp()
        odds.append(p / (1 - p))
    return (-chosen.tokens.mean() - beta * log_sigmoid((odds[0] / odds[1]).log())).float()


def kto(
    answers: Sequence[Answer], good: Sequence[bool], others: Sequence[Answer], *, beta: float,
    weights: tuple[float, float],
) -> Tensor:  # fmt: skip
    """The mean over the answers; ``others``: answers to other prompts. Equation 8."""
    moved = max(0.0, sum(other.ratio.item() for other in others) / len(others))
    values = []
    for answer, is_good in zip(answers, good, strict=True):
        z = beta * (answer.ratio - moved) if is_good else beta * (moved - answer.ratio)
        weight = weights[0] if is_good else weights[1]
        values.append(weight - weight * torch.sigmoid(z))
    return torch.stack(values).mean()


def quantile(values: Sequence[float], share: float) -> float:
    """With linear interpolation between the two nearest of the sorted values."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def smpo(
    pairs: Sequence[tuple[Answer, Answer]], *, beta: float, loss_type: str, sft: float,
    margin: float, floor: float, lower: float | None, upper: float | None,
) -> Tensor:  # fmt: skip
    """The mean over the pairs, token by token. A clipped token becomes a constant."""
    rejected = [[*side.tokens[:-1], -side.tokens[-1]] for _, side in pairs]
    chosen = [[*side.tokens] for side, _ in pairs]
    lowest, highest = floor, math.inf
    if lower is not None:
        lowest = max(floor, quantile([t.item() for one in rejected for t in one], lower))
    if upper is not None:
        highest = quantile([t.item() for one in chosen for t in one], upper)
    losses = []
    for (good, bad), above, below in zip(pairs, chosen, rejected, strict=True):
        kept = [t if t.item() <= highest else torch.tensor(highest) for t in above]
        raised = [t if t.item() >= lowest else torch.tensor(lowest) for t in below]
        d = beta * (torch.stack(kept).mean() - torch.stack(raised).mean() - margin)
        under = torch.maximum(torch.zeros(()), -d)
        preferred = {
            "smooth_lower_bound": under.square(),
            "hinge": under,
            "ipo": d.square(),
            "sigmoid": -log_sigmoid(d),
        }[loss_type]
        losses.append(preferred - sft * good.tokens.mean() - (1 - sft) * bad.tokens.mean())
    return torch.stack(losses).mean()
