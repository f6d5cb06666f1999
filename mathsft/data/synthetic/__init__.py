"""Problems made by rule, so that every lesson has real input without a network.

``grade_school`` has GSM8K's schema and voice, ``multiple_choice`` has MathQA's. Both go through
the parsers that read the real files. ``python -m mathsft.models.tiny.pretrain`` draws its text
from the split ``pretrain``, which no lesson uses. The question alone decides to which split it
belongs.
"""

import hashlib
import random
from collections.abc import Callable

# Shares of the 256 values of the hash's first byte. A question text has one hash, so no
# two splits can share a question, whatever the seeds and sizes.
_SHARES = {"pretrain": range(0, 128), "train": range(128, 208), "validation": range(208, 224)}
_SHARES["test"] = range(224, 256)
SPLITS = tuple(_SHARES)
SIZES = {"train": 4000, "validation": 500, "test": 1000}


def split_of(question: str) -> str:
    """The split of a question text: ``pretrain``, ``train``, ``validation`` or ``test``."""
    first = hashlib.sha256(question.encode()).digest()[0]
    return next(name for name, share in _SHARES.items() if first in share)


def rows_of_split(
    make_row: Callable[[random.Random], dict[str, str]],
    *,
    question_key: str,
    split: str,
    limit: int | None,
    seed: str,
) -> list[dict[str, str]]:
    """The first ``limit`` different questions of ``split``; ``limit=None`` takes ``SIZES[split]``.

    Rows come in a fixed order: a smaller limit is a prefix of a larger one. The global
    random state is neither read nor changed.

    Raises:
        ValueError: unknown split, or no limit for the endless split ``pretrain``.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; there are {', '.join(SPLITS)}")
    if limit is None and split not in SIZES:
        raise ValueError(f"split {split!r} has no natural size: give limit=")
    wanted = SIZES[split] if limit is None else limit
    rng = random.Random(f"{seed} {split}")
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    while len(rows) < wanted:
        row = make_row(rng)
        question = row[question_key]
        if question not in seen and split_of(question) == split:
            seen.add(question)
            rows.append(row)
    return rows
