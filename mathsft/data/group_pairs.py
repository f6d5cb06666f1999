"""Pairs of answers, made of groups of scored answers."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from datasets import Dataset

from mathsft.data.given import check_rows, given_row
from mathsft.data.pairs import pairs_from
from mathsft.data.schemas import UnusableRowError
from mathsft.processes import say


def pairs_from_groups(
    rows: Iterable[Mapping[str, Any]], *, keep: int | None = None, min_gap: float = 0.0
) -> list[dict[str, Any]]:
    """Make preference rows for `DPO` from groups: prompt, completions and rewards.

    The rows may come from `store_attempts`, from ``load_problems`` of its file, or from any other
    data set of groups. A line says how many pairs there are, and what made none.

    Args:
        rows: groups, as texts or as messages.
        keep: the most pairs of one group, as in `pairs_from`; default: all.
        min_gap: the chosen answer's reward must be higher by more than this.

    An answer that was cut (``ended`` is false) takes no part, because training would add a stop
    token to it; an empty text takes no part either. Raises ValueError for a row that is no group.
    """
    check_rows(rows, name="pairs_from_groups")
    pairs: list[dict[str, Any]] = []
    without: Counter[str] = Counter()
    count = 0
    for count, row in enumerate(rows, 1):
        where, unread = f"row {count - 1}", set[str]()
        arrow = isinstance(rows, Dataset)
        try:
            group = given_row(row, where=where, counted=unread, arrow=arrow, kinds=("group",))
        except UnusableRowError as reason:
            without[f"groups {reason}"] += 1
            continue
        without.update(f"values of {name} not read" for name in unread)
        answers = zip(group["completions"], group["rewards"], strict=True)
        ended = group.get("ended") or [True] * len(group["completions"])
        whole = [one for one, stopped in zip(answers, ended, strict=True) if stopped]
        kept = [(text, reward) for text, reward in whole if text.strip()] if _text(group) else whole
        without["answers cut"] += len(ended) - len(whole)
        without["answers empty"] += len(whole) - len(kept)
        completions, rewards = [one for one, _ in kept], [reward for _, reward in kept]
        made = pairs_from(completions, rewards, keep=keep, min_gap=min_gap)
        without["groups without a pair"] += not made
        shared = {n: v for n, v in group.items() if n not in ("completions", "rewards", "ended")}
        pairs += [{**shared, **pair} for pair in made]
    told = "".join(f"; {n:,} {name}" for name, n in without.items() if n)
    say(f"pairs: {len(pairs):,} from {count:,} groups{told}")
    return pairs


def _text(group: Mapping[str, Any]) -> bool:
    return isinstance(group["prompt"], str)
