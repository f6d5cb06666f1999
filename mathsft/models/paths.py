"""Token sequences as paths of a tree: two that begin alike share the tree's tokens up to a fork.

In sorted order, the paths are a depth-first walk of the tree, and a path shares most with the one
just before it. So a sort and comparisons of neighbours are enough to know the whole tree
(`mathsft.models.forest`).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any


def common_start(a: list[Any], b: list[Any]) -> int:
    """Return how many elements two lists share at their start.

    Found by halving: Python compares two slices much faster than element after element.
    """
    least, most = 0, min(len(a), len(b))
    while least < most:
        middle = (least + most + 1) // 2
        if a[least:middle] == b[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least


def common_trunk(paths: Sequence[list[int]]) -> int:
    """Return how many tokens all paths share at their start.

    In sorted order, all of them begin with what the first and the last have in common.
    """
    return common_start(min(paths), max(paths))


def walk(paths: Iterable[list[int]]) -> Iterator[int]:
    """Yield, for each path, how many tokens it shares with the one before it; 0 for the first.

    If the paths are sorted, its other tokens are those that it adds to the tree.
    """
    before: list[int] = []
    for path in paths:
        yield common_start(before, path)
        before = path


def tree_size(paths: Iterable[list[int]]) -> int:
    """Return how many tokens the tree of these paths has: each shared beginning counts once."""
    ordered = sorted(paths)
    return sum(map(len, ordered)) - sum(walk(ordered))
