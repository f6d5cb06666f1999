"""Deduplication: of rows that say the same, or nearly the same, one is kept.

Rows are read in blocks, which bounds the memory. The decision is one pass over all rows, so a
duplicate in another block is found as well, and the result does not depend on the blocks.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from datasets import Dataset

from mathsft.checks import check_numbers, unknown_name
from mathsft.data.duplicate_groups import Deduplicated
from mathsft.data.row_parts import By
from mathsft.data.row_reports import check_report
from mathsft.data.text_blocks import Found, Prefer, TextBlocks, listed, without
from mathsft.files import check_writable
from mathsft.processes import say

Method = Literal["exact", "near", "embedding"]
Embed = Callable[[Sequence[str]], Any]

_THRESHOLDS = {"near": 0.8, "embedding": 0.95}


def deduplicate(
    rows: Dataset | Iterable[Mapping[str, Any]],
    *,
    method: Method = "near",
    by: By = "question",
    threshold: float | None = None,
    n: int = 3,
    prefer: Prefer = "first",
    seed: int = 0,
    embed: Embed | str | None = None,
    batch_size: int = 1000,
    report: str | Path | None = None,
) -> Deduplicated:
    """Keep one of the rows that are the same, or nearly the same; print how many are left out.

    Texts are compared in normal form: case, spacing, Unicode spelling and final punctuation do not
    count; numbers and signs do. Every row that is left out is a duplicate of a row that is kept,
    and no two kept rows are known duplicates of each other.

    Args:
        rows: rows of any kind (problems, conversations, prompts, pairs, groups), as `load_problems`
            returns them or as they are published, or rows with a column ``text``.
        method: "exact" finds equal texts. "near" finds texts that share most of their runs of
            ``n`` words (MinHash with datatrove's signatures); at the threshold 0.8 it finds 92 of
            100 pairs with exactly this similarity, and more of the pairs above it. "embedding"
            compares the directions of vectors (FAISS, cosine); its time grows with the square of
            the rows.
        by: "question" compares what rows ask: of a question with several answers one is kept.
            "all" compares everything that they say.
        threshold: two rows are duplicates from this similarity on, above 0 and at most 1. Default:
            0.8 for "near" (the share of common runs of words), 0.95 for "embedding". At these, two
            long problems that differ in one number only are duplicates.
        n: words in a run, for "near". 3 suits questions of 20 to 60 words: one changed word among
            40 leaves them similar. For web pages 5 is usual.
        prefer: which row of a group is kept: the "first", the "longest" (in words; the first of
            equally long ones), or a "random" one.
        seed: of the random choice, of MinHash's hash functions and of the SVD.
        embed: for "embedding": a function that gives a list of texts their vectors, (texts, size),
            or the name of a model of sentence-transformers, if that package is installed. Default:
            TF-IDF of words and pairs of words, reduced to 256 dimensions. It knows no meaning, only
            common words.
        batch_size: rows that are read at once. The result does not depend on it, unless
            ``embed`` itself gives a text other vectors beside other texts.
        report: a file (.jsonl or .csv) for the groups, one line for each of their rows: the number
            of the group, the index of the row (from 0), whether it is kept, its similarity to the
            row that is kept, and its text.

    A row without a word, or one that `load_problems` would drop, is kept and counted.

    Raises:
        ValueError: no rows, a stream, a row that is not readable (the message names it); an unknown
            method or choice; a threshold or ``embed`` that the method does not use; a report with
            another suffix, or vectors that are not usable.
        ImportError: a package is missing that the method needs.
    """
    given = _check(rows, method=method, by=by, prefer=prefer, threshold=threshold, embed=embed)
    check_numbers({"threshold": threshold, "n": n, "seed": seed, "batch_size": batch_size})
    if report is not None:
        check_writable(check_report(report).parent)
    limit = threshold or _THRESHOLDS.get(method, 1.0)
    texts = TextBlocks(given, by=by, size=batch_size, name="deduplicate")
    removed = _finder(method)(texts, prefer=prefer, threshold=limit, n=n, seed=seed, embed=embed)
    measure = {
        "exact": "equal",
        "near": f"{limit:g} or more of their runs of {n} words in common",
        "embedding": f"a cosine of {limit:g} or more",
    }
    found = Deduplicated(
        rows=without(given, removed),
        read=len(given),
        removed=removed,
        how=f"{method} by {by} ({measure[method]}; the {prefer} one of a group is kept)",
        not_compared=texts.odd,
        _given=given,
        _by=by,
    )
    say(str(found))
    if report is not None:
        say(f"the groups: {found.save(report)}")
    return found


def _exact(
    texts: TextBlocks, *, prefer: Prefer, seed: int, **_unused: Any
) -> dict[int, tuple[int, float]]:
    keys = {
        row: hashlib.blake2b(" ".join(some).encode(), digest_size=16).digest()
        for rows, words, _ in texts.blocks()
        for row, some in zip(rows, words, strict=True)
    }
    first: dict[bytes, int] = {}
    found = {}
    for row in texts.order(prefer, seed):
        if (kept := first.setdefault(keys[row], row)) != row:
            found[row] = (kept, 1.0)
    return found


def _finder(method: Method) -> Callable[..., Found]:
    """The function of a method; what it needs is imported now."""
    if method == "exact":
        return _exact
    try:
        from mathsft.data.embedding_duplicates import embedding_duplicates
        from mathsft.data.near_duplicates import near_duplicates
    except ImportError as error:
        raise ImportError(
            f'method={method!r} needs more packages: pip install "mathsft[data]" ({error})'
        ) from error
    return near_duplicates if method == "near" else embedding_duplicates


def _check(
    rows: Any, *, method: str, by: str, prefer: str, threshold: Any, embed: Any
) -> Dataset | list[Any]:
    kinds = (("method", method, Method), ("by", by, By), ("prefer", prefer, Prefer))
    for name, value, known in kinds:
        if value not in get_args(known):
            raise ValueError(f"deduplicate: {unknown_name(name, str(value), get_args(known))}")
    if threshold is not None and method == "exact":
        raise ValueError("deduplicate: method 'exact' has no threshold: leave it out")
    if embed is not None and method != "embedding":
        raise ValueError(f"deduplicate: embed is for method 'embedding', and this is {method!r}")
    if not (embed is None or isinstance(embed, str) or callable(embed)):
        raise ValueError(f"deduplicate: embed={embed!r:.60}: give a function or a model's name")
    return listed(rows, name="deduplicate")
