"""The leaderboard: submissions, compared question by question."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from mathsft.evaluation.capstone import QUESTIONS, ROWS, STEPS, TASK
from mathsft.evaluation.compare import Comparison, compare_some
from mathsft.sharing.submission import Submission, read_submission

_SURE = 0.05


def leaderboard_page(files: Sequence[str | Path], *, base: str) -> str:
    """The leaderboard as Markdown.

    All pairs are compared with McNemar's exact test on the same questions, and p is corrected for
    the number of pairs (Holm 1979). An entry's rank is 1 + the number of entries that are better
    with a corrected p below 0.05: entries that cannot be told apart may share a rank.

    Args:
        files: submissions (`submit`).
        base: the name of the entry that the others are compared with in the table.

    Raises ValueError for a submission that `read_submission` refuses, a name that is there twice,
    two entries with the same log-likelihoods, and a base that is not there.
    """
    entries = [read_submission(file) for file in files]
    names = [entry.name for entry in entries]
    for name, file in zip(names, files, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"{file}: another entry is called {name!r}: give it another name")
    if base not in names:
        raise ValueError(f"no entry is called {base!r}, which the others are compared with")
    entries = sorted(entries, key=lambda entry: (-entry.accuracy, entry.name))
    compared, refused = compare_some([entry.result for entry in entries])
    if refused:
        raise ValueError(f"an entry is there twice: {refused[0]}")
    pairs = {frozenset((one.a, one.b)): one for one in compared}
    lines = [*_head(base), *_table(entries, pairs, base), "", *_alike(entries, pairs)]
    return "\n".join(lines) + "\n"


def _head(base: str) -> list[str]:
    return [
        "# Leaderboard of the capstone",
        "",
        f"Made by `python docs/make_leaderboard.py` from the files in [leaderboard](leaderboard). "
        f"Task: `{TASK}`, {QUESTIONS:,} questions that no lesson asks. Each entry trained the "
        f"embedded model for {STEPS} optimiser steps of {ROWS} rows; a model without training is "
        "there for orientation. Lesson 11 says how to take part: `mathsft submit`.",
        "",
        "An interval is a 95 % interval. p is McNemar's exact p on the same questions, against "
        f"*{_text(base)}*; p (Holm) is corrected for all pairs of the page. Rank: 1 + the number "
        f"of entries that are better with p (Holm) below {_SURE}. So entries that cannot be told "
        "apart may share a rank.",
        "",
    ]


def _table(
    entries: Sequence[Submission], pairs: dict[frozenset[str], Comparison], base: str
) -> list[str]:
    lines = [
        "| rank | entry | accuracy | points against the baseline | p | p (Holm) | steps | what |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        better = [
            other
            for other in entries
            if other.accuracy > entry.accuracy
            and pairs[frozenset((other.name, entry.name))].p_holm < _SURE
        ]
        accuracy = entry.result.accuracy()
        shown = f"{accuracy.accuracy:.1%} [{accuracy.low:.1%}, {accuracy.high:.1%}]"
        told = ["baseline", "", ""]
        if entry.name != base:
            one = pairs[frozenset((base, entry.name))]
            sign = 1 if one.b == entry.name else -1
            ends = sorted((sign * one.low, sign * one.high))
            told = [
                f"{100 * sign * one.difference:+.1f} [{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]",
                f"{one.p:.2g}",
                f"{one.p_holm:.2g}",
            ]
        name = _text(f"{entry.name}, {entry.by}" if entry.by else entry.name)
        cells = [str(1 + len(better)), name, shown, *told, str(entry.steps), _text(entry.note)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _alike(entries: Sequence[Submission], pairs: dict[frozenset[str], Comparison]) -> list[str]:
    order = {entry.name: place for place, entry in enumerate(entries)}
    alike = [
        " and ".join(f"*{_text(name)}*" for name in sorted((one.a, one.b), key=order.__getitem__))
        + f" (p (Holm) = {one.p_holm:.2g})"
        for one in pairs.values()
        if one.p_holm >= _SURE
    ]
    if not alike:
        return ["All entries can be told apart: p (Holm) is below 0.05 for each pair."]
    return ["These entries cannot be told apart by these questions:", *(f"- {x}" for x in alike)]


def _text(text: str) -> str:
    """Words of somebody else as plain text in a table's cell."""
    plain = escape(" ".join(text.split()), quote=False)
    for sign in "\\|`*_[]":
        plain = plain.replace(sign, f"\\{sign}")
    return plain
