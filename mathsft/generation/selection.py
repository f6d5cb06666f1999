"""Rejection sampling: from several samples per prompt, the best and the worst one as a pair.

The results are written to a file of JSON lines while they are made: for each row its pair, or the
reason why it has none (`mathsft.generation.judged`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mathsft.checks import AT_LEAST_0, at_least, check_number
from mathsft.data.pairs import pairs_from
from mathsft.generation.judged import Judged, judged_lines, reward_about
from mathsft.generation.rollouts import Completion
from mathsft.processes import say

TIE = "all rewards are equal"
SMALL = "the best reward is above the worst by at most min_gap"
DISPUTED = "equal answers have different rewards"
FEW = "fewer than two answers are whole"
_PAIR_COLUMNS = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected", "id")


@dataclass(frozen=True)
class Selection:
    """Preference rows, which `DPO` can train on, and how many rows and answers became what.

    ``counts``: "rows" that were given, "pairs", each reason why a row has no pair, "answers cut"
    and "answers empty" (they take no part), "lines repaired" in this call, and "other rows in the
    file" (not given to this call). Except for the first two, a count of 0 is left out.
    """

    rows: list[dict[str, Any]]
    counts: dict[str, int]


def rejection_sampling(
    model: Any,
    tokenizer: Any,
    rows: Any,
    reward: Callable[..., list[float]],
    *,
    output: str | Path,
    num_generations: int = 8,
    min_gap: float = 0.0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    batch_size: int = 512,
    seed: int = 0,
) -> Selection:
    """Sample answers to each row's prompt, and pair the best with the worst one.

    Args:
        model: writes the answers.
        tokenizer: the model's tokenizer.
        rows: problems (the prompt is `sft_prompt` of ``question``), or rows with a ``prompt`` as
            text. An ``id`` (text or whole number) identifies a row in the file; default: the
            row's number.
        reward: scores answers, as in TRL (`mathsft.generation.reward_calls`). It gets the rows'
            other columns too, of a block of rows at a time: it must not depend on other rows.
        output: the file of JSON lines, such as ``pairs.jsonl``; missing folders are created.
        num_generations: answers per row, 2 or more.
        min_gap: the best reward must be above the worst by more than this, as in `pairs_from`.
        temperature: as in `sample_groups`. 1 gives the most different answers.
        top_p: as in `sample_groups`.
        max_new_tokens: as in `sample_groups`. An answer that is cut takes no part in a pair,
            because training would add a stop token to it.
        batch_size: answers that are written at once; it does not change them.
        seed: the same seed and rows give the same answers.

    Each line has ``id``, ``prompt``, all ``rewards``, and how many answers were ``cut`` or
    ``empty``; then ``chosen``, ``rejected`` and their scores, or ``skipped``, the reason why there
    is no pair. Of equal rewards the earlier answer is taken.

    If the file exists, its rows are kept and the others are sampled; a half last line is removed.
    In several processes (torchrun), call it in each.

    Raises ValueError for an impossible number; rows without a prompt, or two with the same id; a
    file that is in use, is broken elsewhere, was not written by this function, or has another
    setting (reward, weights and tokenizer count too) or another prompt for an id. An error of the
    reward is raised as it is; the rows before its block are in the file.
    """
    check_number("num_generations", num_generations, at_least(2))
    check_number("min_gap", min_gap, AT_LEAST_0)
    judged = judged_lines(
        model, tokenizer, rows, reward, partial(_pair, min_gap=min_gap),
        kind="rejection sampling", output=output,
        settings={"min_gap": min_gap, "reward": reward_about(reward)},
        num_generations=num_generations, temperature=temperature, top_p=top_p,
        max_new_tokens=max_new_tokens, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    found = _selection(judged)
    say(f"rejection sampling: {', '.join(f'{n:,} {name}' for name, n in found.counts.items())}")
    return found


def _pair(
    group: Sequence[Completion], rewards: Sequence[float], *, min_gap: float
) -> dict[str, Any]:
    """The best and the worst answer with their rewards, or the reason why there is no pair."""
    scored = [(answer, score) for answer, score in zip(group, rewards, strict=True) if answer.ended]
    whole = [(answer.text, score) for answer, score in scored if answer.text.strip()]
    texts, scores = [text for text, _ in whole], [score for _, score in whole]
    made: dict[str, Any] = {"cut": len(group) - len(scored), "empty": len(scored) - len(whole)}
    if len(whole) < 2:
        return {**made, "skipped": FEW}
    if max(scores) == min(scores):
        return {**made, "skipped": TIE}
    pairs = pairs_from(texts, scores, keep=1, min_gap=min_gap)
    if not pairs:
        return {**made, "skipped": SMALL if pairs_from(texts, scores, keep=1) else DISPUTED}
    given = {f"score_{side}": scores[texts.index(text)] for side, text in pairs[0].items()}
    return made | pairs[0] | given


def _selection(judged: Judged) -> Selection:
    lines = judged.lines
    rows = [{name: line[name] for name in _PAIR_COLUMNS} for line in lines if "chosen" in line]
    maybe = {
        **Counter(line["skipped"] for line in lines if "skipped" in line),
        "answers cut": sum(line["cut"] for line in lines),
        "answers empty": sum(line["empty"] for line in lines),
        "lines repaired": judged.repaired,
        "other rows in the file": judged.others,
    }
    counts = {name: n for name, n in maybe.items() if n}
    return Selection(rows, {"rows": len(lines), "pairs": len(rows), **counts})
