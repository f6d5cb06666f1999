"""How the next token of an answer is chosen."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TopPLogitsWarper

# From logits (n, V), the answers' numbers (n,) and how many tokens each has already, (n,) or one
# number for all: tokens (n,).
Choose = Callable[[Tensor, Tensor, Tensor | int], Tensor]
Done = Callable[[int], object]  # is told how many answers have just been finished


def no_matter(finished: int) -> None:
    """For callers that do not follow the progress."""


def likeliest(logits: Tensor, answers: Tensor, step: Tensor | int) -> Tensor:
    """The token with the largest logit: greedy decoding."""
    return logits.argmax(dim=-1)


class Greedy:
    """Takes the token with the largest logit, and keeps the log-probability of each.

    Args:
        size: (N, T): answers and the most tokens of one.
        device: where the logits are.

    ``logprobs`` (N, T), in nats, are of the model itself (temperature 1).
    """

    def __init__(self, size: tuple[int, int], *, device: torch.device) -> None:
        self.logprobs = torch.zeros(size, device=device)

    def __call__(self, logits: Tensor, answers: Tensor, step: Tensor | int) -> Tensor:
        logits = logits.float()
        largest, token = logits.max(dim=-1)
        self.logprobs[answers, step] = largest - logits.logsumexp(dim=-1)
        return token


class Sampler:
    """Draws tokens with given random numbers, and keeps the log-probability of each.

    Each answer has random numbers of its own, so what it says depends neither on the other
    answers of the batch nor on the number of processes.

    Args:
        uniform: (N, T) in [0, 1): for each of N answers one number per token.
        temperature: the logits are divided by it.
        top_p: draw only from the likeliest tokens that together have this probability.

    ``logprobs`` (N, T), in nats, are of the model at this temperature; ``top_p`` does not change
    them.
    """

    def __init__(self, uniform: Tensor, *, temperature: float, top_p: float = 1.0) -> None:
        self._uniform = uniform
        self._temperature = temperature
        self._warper = TopPLogitsWarper(top_p) if top_p < 1 else None
        self.logprobs = torch.zeros_like(uniform)

    def __call__(self, logits: Tensor, answers: Tensor, step: Tensor | int) -> Tensor:
        logprobs = (logits.float() / self._temperature).log_softmax(dim=-1)
        kept: Any = logprobs
        if self._warper is not None:
            kept = self._warper(None, logprobs)
        below = kept.exp().cumsum(dim=-1)  # the probability of this token and of all before it
        place = self._uniform[answers, step][:, None] * below[:, -1:]
        token = torch.searchsorted(below, place, right=True)
        # Rounding may put the place at the very end, where no token is.
        token = torch.where(token < logits.shape[-1], token, kept.argmax(-1, keepdim=True))
        self.logprobs[answers, step] = logprobs.gather(-1, token)[:, 0]
        return token[:, 0]
