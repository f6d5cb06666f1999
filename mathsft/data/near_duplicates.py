"""Rows that are nearly the same, found by MinHash with the signatures of datatrove.

The *shingles* of a text are its runs of n words. Two texts are as similar as the share of their
shingles that both have (Jaccard). MinHash (Broder 1997) makes a signature from the shingles: the
probability that two signatures have the same number at one place is this similarity. The numbers
are put into bands. Only rows with an equal band are compared, so the work does not grow with the
square of the rows.

datatrove is used without its own normalisation, which writes every number as 0 and drops all
signs: "3 + 2" and "7 - 5" would be one text. Its tokenizer of English needs spaCy; here the words
are those of `mathsft.data.row_parts`.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import TextNormConfig
from datatrove.utils.word_tokenizers import WordTokenizer

from mathsft.data.text_blocks import Found, Prefer, TextBlocks

HASHES = 112  # of a signature; as FineWeb (https://arxiv.org/abs/2406.17557), 14 bands of 8
_RECALL = 0.9
_END = "<end>"  # fills short texts; no word, since a word with letters holds no signs
_AT_ONCE = 4096  # shingles; a long text has millions, and each takes a number for every hash

Words = list[str]
Shingles = Any  # a sorted array of numbers, each once


class _Words(WordTokenizer):
    """The words of a text that is normalised already."""

    def word_tokenize(self, text: str) -> Words:
        return text.split()

    def sent_tokenize(self, text: str) -> Words:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


class Signature(MinhashDedupSignature):  # type: ignore[misc]
    """datatrove's first step. A text of fewer than n words has one shingle, and not none."""

    def get_shingles(self, text: str) -> Any:
        """The hashes of the runs of n words of a normalised text: (shingles, 1), uint64."""
        words = text.split()
        missing = self.config.n_grams - len(words) if words else 0
        return super().get_shingles(" ".join([*words, *[_END] * missing]))

    def get_signature(self, shingles: Any) -> list[list[int]]:
        """For each band its hashes; long texts are hashed piece by piece."""
        pieces = range(0, len(shingles), _AT_ONCE)
        found = [super(Signature, self).get_signature(shingles[p : p + _AT_ONCE]) for p in pieces]
        return np.min(np.array(found, dtype=np.uint64), axis=0).tolist()  # type: ignore[no-any-return]


def bands(threshold: float) -> tuple[int, int]:
    """How many bands a signature has, and how many hashes each.

    Two rows of similarity s have an equal band with the probability ``1 - (1 - s**r)**b``, for b
    bands of r hashes. r is the largest that finds rows at the threshold with probability 0.9: at
    0.8 these are datatrove's usual 14 bands of 8, which find 92 %.
    """
    for r in range(HASHES, 1, -1):
        if 1 - (1 - threshold**r) ** (HASHES // r) >= _RECALL:
            return HASHES // r, r
    return HASHES, 1


def config(*, n: int, threshold: float, seed: int = 0) -> MinhashConfig:
    """datatrove's settings: the same for a function call and for a pipeline on a cluster."""
    count, each = bands(threshold)
    return MinhashConfig(
        n_grams=n,
        num_buckets=count,
        hashes_per_bucket=each,
        seed=seed,
        norm_config=TextNormConfig(
            lowercase=False,
            norm_whitespace=False,
            remove_punctuation=False,
            norm_unicode_diacritics=False,
            norm_numbers=False,
        ),
        # datatrove 0.10's xxhash does not work with the package xxhash 4.
        hash_config=HashConfig(precision=64, hash_fc="sha1"),
    )


def signature_step(
    folder: str = "memory://", *, n: int, threshold: float, seed: int = 0
) -> Signature:
    """datatrove's step that makes signatures; ``folder`` is where a pipeline writes them."""
    return Signature(folder, config(n=n, threshold=threshold, seed=seed), language=_Words())


def shingles_of(step: Signature, words: Words) -> Shingles:
    """The shingles of a text, sorted, each once."""
    return np.unique(step.get_shingles(" ".join(words)))


def removed_rows(
    order: Iterable[int],
    buckets: Callable[[int], Sequence[Hashable]],
    shingles: Callable[[int], Shingles],
    *,
    threshold: float,
) -> Found:
    """The global pass: keep a row unless a row that is kept already is similar to it.

    So no row is removed without a similar one that stays. (The connected groups of datatrove's own
    third step can hold rows that are not similar at all, only joined by others.)

    Args:
        order: the rows that share a bucket with another, in the order in which they are preferred.
        buckets: the buckets of a row; rows of no common bucket are not compared.
        shingles: the shingles of a row (`shingles_of`).
        threshold: rows that are at least as similar as this are duplicates.
    """
    kept: dict[Hashable, list[int]] = {}
    known: dict[int, tuple[int, Shingles]] = {}
    found: Found = {}
    for row in order:
        own, near = buckets(row), shingles(row)
        best = (0.0, 0, -1)
        for other in {one for bucket in own for one in kept.get(bucket, ())}:
            rank, its = known[other]
            both = len(np.intersect1d(near, its, assume_unique=True))
            # Of equally similar rows the preferred one counts.
            best = max(best, (both / (len(near) + len(its) - both), -rank, other))
        if best[0] >= threshold:
            found[row] = (best[2], best[0])
            continue
        known[row] = (len(known), near)
        for bucket in own:
            kept.setdefault(bucket, []).append(row)
    return found


def near_duplicates(
    texts: TextBlocks, *, prefer: Prefer, threshold: float, n: int, seed: int, **_unused: Any
) -> Found:
    """The rows to leave out; the settings are those of `mathsft.data.deduplication.deduplicate`.

    In memory are 8 bytes for each band of each row, and the shingles of the rows that share a band
    with another. The texts are read twice.
    """
    step = signature_step(n=n, threshold=threshold, seed=seed)
    rows: list[int] = []
    signed: list[Any] = []
    for block, words, _texts in texts.blocks():
        rows += block
        for some in words:
            found = step.get_signature(step.get_shingles(" ".join(some)))
            signed.append(np.array([_hashed(band) for band in found], dtype=np.uint64))
    if not rows:
        return {}
    table = np.stack(signed)
    shared = np.zeros(table.shape, dtype=bool)
    for band in range(table.shape[1]):
        _values, place, count = np.unique(table[:, band], return_inverse=True, return_counts=True)
        shared[:, band] = count[place] > 1
    where = {rows[at]: at for at in np.flatnonzero(shared.any(axis=1)).tolist()}
    shingles: dict[int, Shingles] = {}

    def in_order() -> Iterator[int]:
        order = [row for row in texts.order(prefer, seed) if row in where]
        for row, some in texts.again(order):
            shingles[row] = shingles_of(step, some)
            yield row

    def buckets(row: int) -> list[tuple[int, int]]:
        at = where[row]
        return [(int(band), int(table[at, band])) for band in np.flatnonzero(shared[at])]

    return removed_rows(in_order(), buckets, shingles.pop, threshold=threshold)


def _hashed(band: Sequence[int]) -> int:
    packed = np.array(band, dtype="<u8").tobytes()
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")
