"""The harness's log-likelihood requests, sorted into what shares a forest."""

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from mathsft.models.forest import IGNORE, TokenSequence, common_start

# (context, continuation) as text, None inside rolling requests; their token ids.
Request: TypeAlias = tuple[tuple[str, str] | None, list[int], list[int]]


def split_shared(
    requests: Sequence[Request], *, longest: int, row: int | None = None
) -> tuple[list[list[int]], list[int]]:
    """Groups of requests with one context, as indices, and the indices of all others.

    A request with more than ``longest`` tokens is among the others, and so is one without a
    continuation, or with no text to be known by (a window of a rolling log-likelihood), or in a
    group that has more tokens than a ``row`` may have.
    """
    by_context: dict[tuple[int, ...], list[int]] = {}
    for index, (text, context, continuation) in enumerate(requests):
        fits = len(continuation) > 0 and 0 < len(context) + len(continuation) - 1 <= longest
        if fits and context and text is not None:
            by_context.setdefault(tuple(context), []).append(index)
    groups = [
        group
        for group in by_context.values()
        if len(group) > 1 and (row is None or _size(requests, group) <= row)
    ]
    shared = {index for group in groups for index in group}
    return groups, [index for index in range(len(requests)) if index not in shared]


def sequences_of(requests: Sequence[Request], group: Sequence[int]) -> list[TokenSequence]:
    """The group's requests for a `TokenForest`: context and continuation, the latter scored."""
    return [
        {
            "input_ids": requests[i][1] + requests[i][2],
            "labels": [IGNORE] * len(requests[i][1]) + requests[i][2],
        }
        for i in group
    ]


def passes(
    requests: Sequence[Request], groups: Sequence[list[int]], *, pass_tokens: int
) -> Iterator[list[list[int]]]:
    """Groups for one pass through the model each: some ``pass_tokens`` tokens, or one group.

    Contexts that have half of themselves or more in common (the same few-shot examples, or
    those of one subject) keep to themselves where that saves enough: their rows then hold the
    common beginning once. All others go by length, as rows of one length need no padding.
    Longest first: where memory does not suffice, that shows at once.
    """
    kin: list[list[list[int]]] = []
    before: list[int] = []
    for group in sorted(groups, key=lambda group: requests[group[0]][1]):
        context = requests[group[0]][1]
        if kin and 2 * common_start(before, context) >= min(len(before), len(context)):
            kin[-1].append(group)
        else:
            kin.append([group])
        before = context
    apart, others = [], []
    for family in kin:
        # In sorted order the first and the last have in common what all have.
        trunk = common_start(requests[family[0][0]][1], requests[family[-1][0]][1])
        if trunk * (len(family) - 1) >= pass_tokens // 8:
            apart.append((trunk, family))
        else:
            others += family
    for trunk, family in [*apart, (0, others)]:
        sized = [(_size(requests, group) - trunk, group) for group in family]
        some: list[list[int]] = []
        total = trunk
        for size, group in sorted(sized, key=lambda pair: -pair[0]):
            if some and total + size > pass_tokens:
                yield some
                some, total = [], trunk
            some.append(group)
            total += size
        if some:
            yield some


def _size(requests: Sequence[Request], group: Sequence[int]) -> int:
    """Tokens of a group: its context once, its continuations as if they shared nothing."""
    return len(requests[group[0]][1]) + sum(len(requests[i][2]) - 1 for i in group)


def check_finite(requests: Sequence[Request], scores: Sequence[tuple[float, bool]]) -> None:
    """Raise ValueError, with the request's text, where a log-likelihood is not finite."""
    for (text, _, _), (score, _) in zip(requests, scores, strict=True):
        if not math.isfinite(score):
            asked = "" if text is None else f" of {text[1]!r} after {text[0][-80:]!r}"
            raise ValueError(
                f"the log-likelihood{asked} is {score}. Either the model's weights are not "
                "finite, or half precision overflows: load the model with dtype='float32', or "
                "with attn_implementation='eager'"
            )
