"""log p(continuation | context): the one score of multiple-choice questions.

A choice is scored as lm-evaluation-harness scores it: the context is encoded, then
context + continuation, and the continuation's tokens are what the second adds to the
first. This version passes every choice with its question, padded; a pass that shares
the question among its choices takes its place in lesson 02.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mathsft.data.prompts import choice_context, choice_continuation
from mathsft.models.modes import evaluating


def encode_continuation(
    tokenizer: Any, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Token ids of the context and of the continuation, as the harness splits them.

    Raises:
        ValueError: the continuation adds no token (an empty choice).
    """
    context_ids = tokenizer(context).input_ids
    whole_ids = tokenizer(context + continuation).input_ids
    continuation_ids = whole_ids[len(context_ids) :]
    if not continuation_ids:
        raise ValueError(f"the continuation {continuation!r} adds no token to {context!r}")
    return whole_ids[: len(context_ids)], continuation_ids


def _left_padded(sequences: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    longest = max(map(len, sequences))
    input_ids = torch.tensor([[pad] * (longest - len(s)) + list(s) for s in sequences])
    mask = torch.tensor([[0] * (longest - len(s)) + [1] * len(s) for s in sequences])
    return input_ids, mask


@torch.no_grad()
def choice_logprobs(
    model: Any, tokenizer: Any, problems: Sequence[Mapping[str, Any]], *, batch_size: int = 16
) -> list[list[float]]:
    """Summed log-probability, in nats and float32, of every choice of every problem.

    Returns one list per problem, as long as its ``choices``. Sequences are padded on the
    left, so that the scored tokens of all stand at the end and only those positions are
    projected onto the vocabulary. ``batch_size`` counts problems.

    Raises:
        ValueError: a problem without choices, an empty choice, or a score that is not finite.
    """
    scores: list[list[float]] = []
    with evaluating(model):
        for first in range(0, len(problems), batch_size):
            batch = [problems[i] for i in range(first, min(first + batch_size, len(problems)))]
            scores += _batch_logprobs(model, tokenizer, batch, first=first)
    return scores


def _batch_logprobs(
    model: Any, tokenizer: Any, batch: Sequence[Mapping[str, Any]], *, first: int
) -> list[list[float]]:
    """The scores of one batch; ``first`` is the index of its first problem, for errors."""
    for index, problem in enumerate(batch, first):
        if not problem["choices"]:
            raise ValueError(f"problem {index} has no choices: {problem['question']}")
    pairs = [
        encode_continuation(
            tokenizer, choice_context(problem["question"]), choice_continuation(choice)
        )
        for problem in batch
        for choice in problem["choices"]
    ]
    input_ids, mask = _left_padded([c + k for c, k in pairs], tokenizer.pad_token_id)
    longest = max(len(continuation) for _, continuation in pairs)
    logits = model(
        input_ids=input_ids.to(model.device),
        attention_mask=mask.to(model.device),
        position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(model.device),
        logits_to_keep=longest + 1,
        use_cache=False,
    ).logits[:, :-1]
    targets = input_ids[:, -longest:].to(model.device)
    logprobs = logits.float().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    sums = iter(
        logprobs[row, -len(continuation) :].sum().item()
        for row, (_, continuation) in enumerate(pairs)
    )
    scores = [[next(sums) for _ in problem["choices"]] for problem in batch]
    for index, found in enumerate(scores, first):
        if not all(map(math.isfinite, found)):
            raise ValueError(
                f"problem {index}: a score is not finite ({found}). Either the model's weights "
                "are not, or half precision overflows: load the model with dtype='float32', or "
                "with attn_implementation='eager'"
            )
    return scores
