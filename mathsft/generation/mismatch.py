"""How far the log-probabilities of a server are from ours, and what to do about it.

A server computes with other kernels, often in another precision, and perhaps with other weights.
Then the answers are not samples of the model that is trained. Small differences are corrected with
truncated importance weights; large ones mean that something is wrong, and are refused.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mathsft.checks import ABOVE_0, at_least, check_number
from mathsft.generation.rollouts import Completion
from mathsft.models.encoding import encode_prompts, pad_token
from mathsft.models.forest import IGNORE, TokenForest
from mathsft.models.isolation import check_isolation
from mathsft.models.logprobs import sequence_logprobs
from mathsft.models.modes import evaluating


@dataclass(frozen=True)
class Mismatch:
    """The difference of two log-probabilities of each token, in nats, over all ``tokens``.

    ``mean`` and ``largest`` are of absolute values. The others are about w = exp(ours - served).
    ``mean_ratio`` is near 1, whatever our model is, if the server reports the distribution that
    it samples from; if it is not, the reported one has another temperature or top_p. ``effective``
    is (sum w)² / (tokens sum w²): the share of tokens that samples of our own model would be worth
    (Kish's effective sample size), 1 if all ratios are equal.
    """

    tokens: int
    mean: float
    largest: float
    mean_ratio: float
    effective: float

    @classmethod
    def of(cls, ours: Sequence[float], served: Sequence[float]) -> "Mismatch":
        """Compare log-probabilities of the same tokens, one or more."""
        difference = torch.tensor(ours, dtype=torch.float64)
        difference = difference - torch.tensor(served, dtype=torch.float64)
        ratio = difference.exp()
        return cls(
            tokens=len(ours),
            mean=float(difference.abs().mean()),
            largest=float(difference.abs().max()),
            mean_ratio=float(ratio.mean()),
            effective=float(ratio.sum() ** 2 / (len(ours) * ratio.square().sum())),
        )

    def __str__(self) -> str:
        return (
            f"{self.mean:.2g} nats per token (largest {self.largest:.2g}), mean ratio "
            f"{self.mean_ratio:.3f}, effective sample size {self.effective:.1%} of "
            f"{self.tokens:,} tokens"
        )


def answer_logprobs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    groups: Sequence[Sequence[Completion]],
    *,
    temperature: float = 1.0,
    max_length: int = 2048,
) -> list[list[list[float]]]:
    """Return our log-probability of each token of each answer, in nats, as training computes it.

    Args:
        model: the model that is trained; it comes back as it was.
        tokenizer: the model's tokenizer.
        prompts: the texts that were answered.
        groups: the answers to each prompt. Their token ids are used, never their text.
        temperature: that of the sampling: the logits are divided by it.
        max_length: tokens of a row. The answers to a prompt share it, in as many rows as needed.

    Raises ValueError for another number of groups than prompts, an impossible number, an answer
    without tokens, or a log-probability that is not finite.
    """
    check_number("temperature", temperature, ABOVE_0)
    check_number("max_length", max_length, at_least(2))
    if len(prompts) != len(groups):
        raise ValueError(f"{len(prompts)} prompts and {len(groups)} groups; expected one for each")
    encoded = encode_prompts(tokenizer, list(prompts))
    found: list[list[list[float]]] = []
    with torch.no_grad(), evaluating(model):
        check_isolation(model)
        for row, (prompt, group) in enumerate(zip(encoded, groups, strict=True)):
            found.append([])
            if not all(answer.input_ids for answer in group):
                raise ValueError(f"prompt {row}: an answer has no tokens")
            for part in _parts(group, room=max_length - len(prompt)):
                sequences = [
                    {
                        "input_ids": [*prompt, *answer.input_ids],
                        "labels": [IGNORE] * len(prompt) + answer.input_ids,
                    }
                    for answer in part
                ]
                batch = TokenForest(sequences).tensors(pad_token_id=pad_token(tokenizer))
                batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
                scored = sequence_logprobs(model, batch, temperature=temperature)
                if not scored.values.isfinite().all():
                    raise ValueError(f"prompt {row}: our log-probabilities are not finite")
                found[-1] += [values.tolist() for values in scored.by_sequence()]
    return found


def _parts(group: Sequence[Completion], *, room: int) -> Iterator[list[Completion]]:
    """Cut a group into parts of at most ``room`` tokens; each has at least one answer."""
    part: list[Completion] = []
    for answer in group:
        if part and sum(len(one.input_ids) for one in [*part, answer]) > room:
            yield part
            part = []
        part.append(answer)
    if part:
        yield part


def logprob_mismatch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    groups: Sequence[Sequence[Completion]],
    *,
    temperature: float = 1.0,
) -> Mismatch:
    """Compare the log-probabilities that came with the answers with our own.

    Args:
        model: the model that is trained.
        tokenizer: the model's tokenizer.
        prompts: the texts that were answered.
        groups: the answers to each prompt, as `mathsft.generation.served.served_groups` returns
            them. A few hundred tokens are enough to see a difference.
        temperature: that of the sampling.

    Raises ValueError as `answer_logprobs` does, if there is no answer, and if an answer has
    another number of log-probabilities than tokens.
    """
    every = answer_logprobs(model, tokenizer, prompts, groups, temperature=temperature)
    ours = [value for group in every for answer in group for value in answer]
    answers = [answer for group in groups for answer in group]
    for number, answer in enumerate(answers):
        if len(answer.logprobs) != len(answer.input_ids):
            raise ValueError(
                f"answer {number}: {len(answer.input_ids)} tokens and {len(answer.logprobs)} "
                "log-probabilities"
            )
    if not ours:
        raise ValueError("logprob_mismatch: there are no answers to compare")
    return Mismatch.of(ours, [value for answer in answers for value in answer.logprobs])


def check_mismatch(mismatch: Mismatch, *, limit: float = 0.02) -> None:
    """Raise ValueError, with what to look for, if the mean difference is above ``limit``.

    Args:
        mismatch: what `logprob_mismatch` measured.
        limit: nats per token. With the embedded model, rounding to bfloat16 alone gives 0.005, and
            log-probabilities at temperature 1 in place of 0.9 give 0.026, of 0.7 0.1. Give a
            higher limit only if you know where the difference comes from.
    """
    if limit != math.inf:
        check_number("limit", limit, ABOVE_0)
    if math.isfinite(mismatch.mean) and mismatch.mean <= limit:
        return
    raise ValueError(
        f"the server's log-probabilities differ from ours by {mismatch}; the limit is {limit} nats "
        "per token. Its answers are not samples of this model, so training on them would be wrong. "
        "Check on the server: the weights (is the adapter or the last checkpoint loaded?); the "
        "prompt (the same tokenizer and chat template); the dtype and quantisation; the "
        "temperature of the log-probabilities (vLLM: --logprobs-mode processed_logprobs; SGLang: "
        "SGLANG_RETURN_ORIGINAL_LOGPROB must not be set) and, with it, top_p, which must be 1"
    )


def truncated_weights(ours: Tensor, served: Tensor, *, cap: float = 2.0) -> Tensor:
    """Return min(exp(ours - served), cap) for each token: truncated importance weights.

    A token's loss times its weight is, up to the truncation, what samples of our own would give
    (Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training";
    Ionides 2008 for the truncation). The cap keeps the variance small: a token that the server
    found unlikely would otherwise outweigh all others.

    Args:
        ours: (T,) log-probabilities of the model as it was when the answers were sampled.
        served: (T,) those of the server.
        cap: the largest weight. 2 is the paper's; TRL's default is 3
            (``vllm_importance_sampling_clip_max``, earlier ``vllm_importance_sampling_cap``).

    The weights have no gradient. Raises ValueError for tensors of different shapes.
    """
    check_number("cap", cap, ABOVE_0)
    if ours.shape != served.shape:
        raise ValueError(f"truncated_weights: shapes {(*ours.shape,)} and {(*served.shape,)}")
    return (ours.detach() - served.detach()).exp().clamp(max=cap)
