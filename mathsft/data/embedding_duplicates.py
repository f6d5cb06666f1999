"""Rows whose embeddings point in nearly the same direction, found by FAISS.

The similarity is the cosine. It is computed exactly, with every row that is kept: so the work
grows with the square of the rows, unlike that of MinHash.
"""

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from itertools import chain, pairwise
from typing import Any, cast

import faiss
import numpy as np

from mathsft.data.text_blocks import Found, Prefer, TextBlocks

Embed = Callable[[Sequence[str]], Any]
Vectors = Any  # (rows, size), float32, each of length 1

_SIZE = 256  # numbers of a TF-IDF vector after the SVD
_MARGIN = 1e-4  # FAISS adds in another order for other numbers of rows; the last digits differ


def embedding_duplicates(
    texts: TextBlocks, *, prefer: Prefer, threshold: float, seed: int, embed: Any, **_unused: Any
) -> Found:
    """The rows to leave out; the settings are those of `mathsft.data.deduplication.deduplicate`.

    The vectors of all rows are in memory: with TF-IDF 1 kB each, and as much for the words.
    """
    if embed is None:
        words = (some for _, words, _ in texts.blocks() for some in words)
        vectors = tfidf_vectors(words, seed=seed)
    else:
        make = model_named(embed) if isinstance(embed, str) else embed
        blocks = (some for _, _, some in texts.blocks())
        vectors = joined([checked_vectors(make(some), rows=len(some)) for some in blocks])
    order = texts.order(prefer, seed)
    place = {row: at for at, row in enumerate(sorted(order))}
    vectors = vectors[[place[row] for row in order]]
    found = similar_rows(vectors, threshold=threshold, block=texts.size)
    return {order[row]: (order[kept], score) for row, (kept, score) in found.items()}


def tfidf_vectors(words: Iterable[Sequence[str]], *, seed: int) -> Vectors:
    """TF-IDF of all texts, reduced to 256 dimensions (latent semantic analysis).

    Args:
        words: the words of each text. Single words and pairs of neighbours count.
        seed: of the randomised SVD. Fewer different words than dimensions are not reduced.
    """
    texts = iter(words)
    first = next(texts, None)
    if first is None:
        return joined([])
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    table = TfidfVectorizer(analyzer=_with_pairs, dtype=np.float32).fit_transform(
        chain([first], texts)
    )
    if min(table.shape) <= _SIZE:
        return unit(table.toarray())
    return unit(TruncatedSVD(_SIZE, random_state=seed).fit_transform(table))


def _with_pairs(words: Sequence[str]) -> list[str]:
    return [*words, *(" ".join(pair) for pair in pairwise(words))]


def model_named(name: str) -> Embed:
    """The model of sentence-transformers with this name; raises ImportError without the package."""
    if find_spec("sentence_transformers") is None:
        raise ImportError(
            f"embed={name!r} needs the package sentence-transformers: pip install "
            "sentence-transformers. Without embed, TF-IDF is used; embed may also be a function"
        )
    from sentence_transformers import SentenceTransformer

    return cast(Embed, SentenceTransformer(name).encode)


def checked_vectors(found: Any, *, rows: int) -> Vectors:
    """What a function ``embed`` returned, as vectors of length 1.

    Raises ValueError unless it is one vector of finite numbers for each text.
    """
    try:
        vectors = np.asarray(found, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"embed returned no array of numbers ({error})") from None
    if vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1]:
        raise ValueError(
            f"embed must return one vector for each text, the shape ({rows}, size); found "
            f"{vectors.shape}"
        )
    if not np.isfinite(vectors).all():
        raise ValueError("embed returned a number that is not finite")
    return unit(vectors)


def joined(parts: Sequence[Vectors]) -> Vectors:
    """The vectors of all blocks in one table; raises ValueError if their sizes differ."""
    sizes = sorted({part.shape[1] for part in parts})
    if len(sizes) > 1:
        raise ValueError(f"embed returned vectors of several sizes: {sizes}")
    return np.concatenate(parts) if parts else np.zeros((0, 1), dtype=np.float32)


def unit(vectors: Any) -> Vectors:
    """Each vector divided by its length; a vector of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def similar_rows(vectors: Vectors, *, threshold: float, block: int) -> Found:
    """The global pass over rows in their order: keep a row unless a kept one is similar to it.

    Args:
        vectors: of the rows, the preferred ones first.
        threshold: the cosine from which on two rows are duplicates.
        block: rows that are compared at once; the result does not depend on it.
    """
    index = faiss.IndexFlatIP(vectors.shape[1])
    places: list[int] = []  # of the rows in the index
    found: Found = {}
    for start in range(0, len(vectors), block):
        part = vectors[start : start + block]
        own = faiss.IndexFlatIP(part.shape[1])
        own.add(part)
        earlier = _matches(index, part, threshold)
        within = _matches(own, part, threshold)
        kept = []
        for at in range(len(part)):
            row = start + at
            near = [places[i] for i in earlier[at]]
            near += [start + i for i in within[at] if i < at and start + i not in found]
            scores = [(_cosine(vectors, row, other), -other) for other in sorted(near)]
            best = max(scores, default=(-1.0, 0))
            if best[0] >= threshold:
                found[row] = (-best[1], best[0])
            else:
                kept.append(at)
        index.add(part[kept])
        places += [start + at for at in kept]
    return found


def _matches(index: Any, queries: Vectors, threshold: float) -> list[list[int]]:
    limits, _, places = index.range_search(queries, threshold - _MARGIN)
    return [places[a:b].tolist() for a, b in pairwise(limits)]


def _cosine(vectors: Vectors, one: int, other: int) -> float:
    """The same number in every block: the sum runs over the two vectors alone, in 64 bits."""
    product = vectors[one].astype(np.float64) @ vectors[other].astype(np.float64)
    return float(min(product, 1.0))
