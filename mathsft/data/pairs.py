"""Pairs of answers: made from scored answers, and told apart by what a reader sees."""

import heapq
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from numbers import Real
from typing import Any, TypeVar

from mathsft.checks import AT_LEAST_0, at_least, check_number
from mathsft.data.messages import REASONING, content_text
from mathsft.data.text import reader_text
from mathsft.files import parse_json

Answer = TypeVar("Answer")


def answer_key(answer: Any) -> str:
    """A prompt or an answer (text or messages) without details that a reader ignores.

    Case, spacing and the final full stop do not count (`mathsft.data.text.reader_text`);
    digits, words and signs do. Of messages, the roles, the reasoning and the tool calls
    count as well.
    """
    if isinstance(answer, str):
        return reader_text(answer)
    parts = []
    for turn in answer:
        said = content_text(turn["content"]) if turn.get("content") is not None else ""
        texts = [said, *(turn.get(key) or "" for key in REASONING)]
        calls = [_call(call) for call in turn.get("tool_calls") or ()]
        parts.append([turn.get("role"), *map(reader_text, texts), calls])
    return json.dumps(parts, ensure_ascii=False, default=str, sort_keys=True)


def _call(call: Any) -> Any:
    """A tool call whose arguments are an object, however they are written."""
    if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping):
        return {**call, "function": _call(call["function"])}
    if isinstance(call, Mapping) and isinstance(call.get("arguments"), str):
        with suppress(ValueError):
            return {**call, "arguments": parse_json(call["arguments"], "arguments")}
    return call


def pairs_from(
    completions: Sequence[Answer],
    rewards: Sequence[float],
    *,
    keep: int | None = None,
    min_gap: float = 0.0,
) -> list[dict[str, Answer]]:
    """Make pairs ``{"chosen", "rejected"}`` from the scored answers to one prompt.

    With rewards of 1 and 0, k right and m wrong answers are k * m pairs. All of them under one
    prompt pass through the model at the cost of k + m answers (`mathsft.TokenForest`).

    Args:
        completions: the answers, texts or messages.
        rewards: as many finite numbers.
        keep: the most pairs to keep; default: all. The pairs with the largest gap come first, and
            of equal gaps those whose answers were used least, so that many answers take part.
        min_gap: the chosen answer's reward must be higher by more than this.

    Answers that a reader cannot tell apart (`answer_key`) count once, the first of them; if they
    have different rewards, none is used, because the judge contradicts itself. No pair is made if
    all rewards are equal. Raises ValueError for another number of rewards than completions, a
    reward that is not a finite number, or a completion that is neither text nor messages.
    """
    check_number("min_gap", min_gap, AT_LEAST_0)
    if keep is not None:
        check_number("keep", keep, at_least(1))
    if len(completions) != len(rewards):
        raise ValueError(
            f"pairs_from: {len(completions)} completions and {len(rewards)} rewards; expected one "
            "reward for each completion"
        )
    for place, reward in enumerate(rewards):
        if not (isinstance(reward, Real) and math.isfinite(reward)):
            raise ValueError(
                f"pairs_from, rewards[{place}]: expected a finite number, found {reward!r:.40}"
            )
    first: dict[str, int] = {}
    disputed = set()
    for place, completion in enumerate(completions):
        if not (isinstance(completion, str) or _are_messages(completion)):
            raise ValueError(
                f"pairs_from, completions[{place}]: expected text or messages, found "
                f"{completion!r:.40}"
            )
        known = first.setdefault(answer_key(completion), place)
        if rewards[known] != rewards[place]:
            disputed.add(known)
    used = dict.fromkeys([place for place in first.values() if place not in disputed], 0)
    waiting = [
        (rewards[b] - rewards[a], 0, a, b)
        for a in used
        for b in used
        if rewards[a] - rewards[b] > min_gap
    ]
    heapq.heapify(waiting)
    pairs: list[dict[str, Answer]] = []
    while waiting and (keep is None or len(pairs) < keep):
        gap, uses, a, b = heapq.heappop(waiting)
        if used[a] + used[b] > uses:  # used since it was put here: others may come first
            heapq.heappush(waiting, (gap, used[a] + used[b], a, b))
            continue
        pairs.append({"chosen": completions[a], "rejected": completions[b]})
        used[a] += 1
        used[b] += 1
    return pairs


def _are_messages(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(turn, Mapping) for turn in given)
