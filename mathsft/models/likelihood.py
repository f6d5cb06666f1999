"""log p(continuation | context): how a choice is scored.

A choice is scored as in lm-evaluation-harness: the context is encoded, then context +
continuation, and the continuation's tokens are those that the second adds to the first.
The choices of a question share one pass over the question (`mathsft.models.forest`).
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mathsft.checks import at_least, check_number, check_numbers
from mathsft.data.columns import PROBLEM_COLUMNS, refuse_half
from mathsft.data.given import CHOICES_MADE_BY, check_column, check_rows, check_texts, is_texts
from mathsft.data.prompts import choice_context, choice_continuation
from mathsft.models.ahead import made_ahead
from mathsft.models.attention import position_limit
from mathsft.models.continued import encode_continued
from mathsft.models.encoding import encode_prompts, pad_token
from mathsft.models.forest import IGNORE, TokenForest, TokenSequence
from mathsft.models.isolation import check_isolation
from mathsft.models.logprobs import sequence_logprobs
from mathsft.models.modes import evaluating
from mathsft.told import advice


@torch.no_grad()
def option_scores(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return sums of `sequence_logprobs`, (S,), and if greedy decoding would write each, (S,).

    The latter means that every scored token is the most likely one at its position, which
    lm-evaluation-harness reports for each continuation.
    """
    found = sequence_logprobs(model, batch)
    return found.sum, found.greedy


def encode_continuation(
    tokenizer: Any, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Return token ids of the context and of the continuation, split as the harness does.

    Spaces at the end of the context go to the continuation. A tokenizer may merge across
    the boundary. The model then reads the context's own tokens, followed by the whole text's
    tokens after the same number of tokens, as in the harness.

    Raises:
        ValueError: the continuation adds no token (an empty choice).
    """
    ((context_ids, (continuation_ids,)),) = _encode(tokenizer, [(context, [continuation])])
    if not continuation_ids:
        raise ValueError(f"the continuation {continuation!r} adds no token to {context!r}")
    return context_ids, continuation_ids


def encode_choices(
    tokenizer: Any, problems: Sequence[Mapping[str, Any]]
) -> list[list[TokenSequence]]:
    """Return each problem's choices as sequences for a `TokenForest`, one list per problem.

    A sequence is the question with one choice; the choice's tokens are scored.

    Raises:
        ValueError: a problem without choices, a choice that adds no token to its question, or a
            part of the question in a column that is not read; the message names the problem.
    """
    problems = list(problems)
    for index, problem in enumerate(problems):
        where = f"problem {index}"
        check_column(problem, "choices", where=where, advice=f". {CHOICES_MADE_BY}")
        check_texts(problem, ["question"], where=where)
        refuse_half(problem, where=where, read=PROBLEM_COLUMNS)
        if not problem["choices"]:
            raise ValueError(
                f"problem {index} has no choices (add_choices makes some): {problem['question']}"
            )
        if not is_texts(problem["choices"]):
            raise ValueError(
                f"{where}, column 'choices': expected a list of texts, found "
                f"{problem['choices']!r:.60}"
            )
    texts = [
        (choice_context(p["question"]), [choice_continuation(choice) for choice in p["choices"]])
        for p in problems
    ]
    groups: list[list[TokenSequence]] = []
    for index, (context, choices) in enumerate(_encode(tokenizer, texts)):
        if not all(choices):
            raise ValueError(
                f"problem {index}: a choice adds no token to its question; its choices are "
                f"{problems[index]['choices']}"
            )
        groups.append(
            [
                {"input_ids": context + choice, "labels": [IGNORE] * len(context) + choice}
                for choice in choices
            ]
        )
    return groups


def _encode(
    tokenizer: Any, texts: Sequence[tuple[str, Sequence[str]]]
) -> list[tuple[list[int], list[list[int]]]]:
    """Return contexts with their continuations; the spaces at a context's end go to the latter."""
    if not texts:
        return []
    stripped = [
        (own, [context[len(own) :] + c for c in continuations])
        for context, own, continuations in ((c, c.rstrip(), some) for c, some in texts)
    ]
    encoded = encode_continued(tokenizer, stripped, encode=partial(encode_prompts, tokenizer))
    return [(ids, [whole[len(ids) :] for whole in wholes]) for ids, wholes in encoded]


@torch.no_grad()
def choice_logprobs(
    model: Any,
    tokenizer: Any,
    problems: Sequence[Mapping[str, Any]],
    *,
    batch_size: int = 32,
    max_length: int = 512,
) -> list[list[float]]:
    """Return the summed log-probability, in nats and float32, of every choice of every problem.

    Returns one list per problem, as long as its ``choices``. ``batch_size`` counts problems.
    The problems of a batch share rows of at most ``max_length`` tokens, or of as many as the
    longest problem has: no problem is cut or left out.

    Raises:
        ValueError: a problem without choices, an empty choice, one that needs more positions
            than the model has, or a score that is not finite; a model that does not keep the
            branches of a forest apart.
    """
    check_number("batch_size", batch_size, at_least(1))
    check_numbers({"max_length": max_length})
    check_rows(problems, name="choice_logprobs")
    groups = encode_choices(tokenizer, problems)
    limit = position_limit(model.config)
    for index, group in enumerate(groups):
        tokens = max(len(sequence["input_ids"]) for sequence in group) - 1
        if limit is not None and tokens > limit:
            raise ValueError(
                f"problem {index}: its question and longest choice have {tokens:,} tokens, but the "
                f"model has {limit:,} positions: leave the problem out"
            )
    parts = [groups[first : first + batch_size] for first in range(0, len(groups), batch_size)]
    pad_token_id = pad_token(tokenizer)
    laid_out = (
        TokenForest.from_groups(part, max_length=max_length, stretch=True).tensors(
            pad_token_id=pad_token_id
        )
        for part in parts
    )
    scores: list[list[float]] = []
    with evaluating(model):
        check_isolation(model)
        with made_ahead(laid_out, device=model.device) as batches:
            for part, batch in zip(parts, batches, strict=True):
                on_device = {key: tensor.to(model.device) for key, tensor in batch.items()}
                sums = iter(sequence_logprobs(model, on_device).sum.tolist())
                for group in part:
                    scores.append([next(sums) for _ in group])
                    _check_finite(scores[-1], where=f"problem {len(scores) - 1}")
    return scores


def _check_finite(scores: Sequence[float], *, where: str) -> None:
    if not all(map(math.isfinite, scores)):
        raise ValueError(
            f"{where}: a score is not finite ({scores}). Either the model's weights are not "
            "finite, or half precision overflows: load the model with "
            + advice(
                python="dtype='float32', or with attn_implementation='eager'",
                line="--model.dtype float32",
            )
        )
