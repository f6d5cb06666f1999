"""A batch as a forest of tokens: a shared beginning passes through the model once.

The tokens of a row are laid out depth first. A token's position is its depth, and ``end``
is the index just past its last descendant. Token i sees token j exactly when
``j <= i < end[j]``: when j is i itself or one of its ancestors. The ancestors are the tokens
before i in its own sequence (`mathsft.models.attention`).

Packed documents are chains side by side; `pack` decides which ones share a row. The choices of a
question are branches of one trunk. The last token of a sequence only has to be predicted: its
log-probability is read at the token before it. It is not part of a row, unless another sequence
continues after it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mathsft.checks import at_least, check_number
from mathsft.models.paths import common_start, common_trunk, tree_size, walk

IGNORE = -100  # the label that PyTorch's and transformers' losses ignore
# {"input_ids": tokens, "labels": the same if a token is scored, else IGNORE}
TokenSequence = Mapping[str, Sequence[int]]


def pack(lengths: Sequence[int], *, max_length: int) -> list[list[int]]:
    """Pack documents into rows of ``max_length`` tokens, as few as best-fit decreasing finds.

    Longest documents first, each goes into the fullest row that still has room, or into a
    new row if none has. That takes at most 11/9 of the optimum (Johnson et al., 1974), and
    less if short documents fill the gaps that long ones leave: GSM8K's train split fills
    97 % of its rows of 512 tokens (a test keeps it above 95 %). It looks at the whole data
    set, not at blocks of it.

    A table keeps the rows by free space, and the bits of one integer say which spaces
    occur. So "the smallest space that is large enough" is one bit operation:
    O(n log n) for the sort and O(n) such look-ups.

    Returns rows of indices into ``lengths``; the same input gives the same rows.
    Raises ValueError for a length that is not in 1..max_length: nothing is ever cut.
    """
    check_number("max_length", max_length, at_least(1))
    rows: list[list[int]] = []
    rows_by_space: dict[int, list[list[int]]] = defaultdict(list)
    spaces = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[index]
        if not 1 <= length <= max_length:
            raise ValueError(
                f"document {index} has {length} tokens; a row holds 1 to {max_length}. "
                "Drop it, or give a larger max_length."
            )
        roomy = spaces >> length
        if roomy:
            space = length + (roomy & -roomy).bit_length() - 1
            row = rows_by_space[space].pop()
            if not rows_by_space[space]:
                spaces ^= 1 << space
        else:
            space, row = max_length, []
            rows.append(row)
        row.append(index)
        rows_by_space[space - length].append(row)
        spaces |= 1 << (space - length)
    return rows


def even_rows(lengths: Sequence[int], *, max_length: int, trunk: int = 0) -> list[list[int]]:
    """Return rows of at most ``max_length`` tokens for one batch that should take the least time.

    ``trunk`` is the number of tokens that every row holds once besides its documents, because
    all of them begin with it. A batch is padded only to its longest row, so its rows may be
    shorter than ``max_length``: `pack` is tried at about 24 lengths between the longest
    document and ``max_length``, and the cheapest wins. A padding token costs as much as any
    other. Attention, which grows with the row, costs a share of L / 3000 in addition
    (measured on a CPU at the shape of Qwen2.5-0.5B). No document may be longer than
    ``max_length - trunk``.
    """
    shortest = max(lengths)
    longest = min(max_length - trunk, sum(lengths))
    step = max(1, -(-(longest - shortest) // 24))
    tried = [*range(shortest, longest, step), longest]

    def cost(rows: list[list[int]]) -> float:
        length = trunk + max(sum(lengths[index] for index in row) for row in rows)
        return len(rows) * length * (1 + length / 3000)

    return min((pack(lengths, max_length=length) for length in tried), key=cost)


class TokenForest:
    """Token sequences in rows; a beginning that several sequences share is in the row once.

    Args:
        sequences: each ``{"input_ids", "labels"}``, both of the same length; ``labels`` holds
            the token if it is scored, else `IGNORE`. The first token of a sequence has no
            token before it that could predict it and is never scored.
        rows: the indices into ``sequences`` that share a row; default: all in one row.
        share: False lays the sequences of a row side by side in the given order, each as its
            own chain, even if they begin alike: plain packing.

    ``input_ids``, ``position_ids`` and ``end`` are lists of rows, without padding;
    `tensors` makes the batch. The layout of a row does not depend on the order of its
    sequences (if ``share``). Raises ValueError if labels and tokens differ in number.
    """

    def __init__(
        self,
        sequences: Sequence[TokenSequence],
        *,
        rows: Sequence[Sequence[int]] | None = None,
        share: bool = True,
    ) -> None:
        self.input_ids: list[list[int]] = []
        self.position_ids: list[list[int]] = []
        self.end: list[list[int]] = []
        # For each scored token: the row and place of its predecessor, itself, and its sequence.
        self._scored: tuple[list[int], ...] = ([], [], [], [])
        self._last = [(0, 0)] * len(sequences)  # row and place of the token before the last
        for row in [range(len(sequences))] if rows is None else rows:
            self._plant(sequences, row, share)

    @classmethod
    def from_groups(
        cls, groups: Sequence[Sequence[TokenSequence]], *, max_length: int, stretch: bool = False
    ) -> "TokenForest":
        """Lay groups (a question's choices), each within one row, of at most ``max_length`` tokens.

        Sequences are numbered group after group. ``stretch``: a group that is longer makes all
        rows as long as itself. Raises ValueError if there is no group, if a group is empty, or,
        without ``stretch``, if one alone is longer than ``max_length``.
        """
        check_number("max_length", max_length, at_least(1))
        if not groups or not all(groups):
            raise ValueError("there is no group to lay out, or a group has no sequence")
        sizes = [tree_size(map(_path, group)) for group in groups]
        for index, size in enumerate(sizes):
            if size > max_length and not stretch:
                raise ValueError(
                    f"group {index} has {size} tokens; a row holds at most {max_length}. "
                    "Drop it, or give a larger max_length."
                )
        sequences = [*chain.from_iterable(groups)]
        paths = [*map(_path, sequences)]
        # At most all but the shortest path's last token, so no group has a length of 0.
        trunk = min(common_trunk(paths), min(map(len, paths)) - 1)
        lengths = [size - trunk for size in sizes]
        rows = even_rows(lengths, max_length=max(max_length, *sizes), trunk=trunk)
        first = [0, *accumulate(map(len, groups))]
        planted = [[i for g in row for i in range(first[g], first[g + 1])] for row in rows]
        return cls(sequences, rows=planted)

    @property
    def tokens(self) -> int:
        """The number of tokens that pass through the model, without padding."""
        return sum(map(len, self.input_ids))

    def _plant(self, sequences: Sequence[TokenSequence], row: Sequence[int], share: bool) -> None:
        """Lay out one row. Sorted sequences are a depth-first walk of the tree that they form."""
        number = len(self.input_ids)
        paths = {index: _path(sequences[index]) for index in row}
        order = sorted(row, key=paths.__getitem__) if share else row
        starts = walk(paths[index] for index in order) if share else [0] * len(row)
        columns = (self.input_ids, self.position_ids, self.end)
        for column in columns:
            column.append([])
        input_ids, position_ids, end = (column[-1] for column in columns)
        path: list[int] = []  # places in the row of the current sequence's tokens
        for index, shared in zip(order, starts, strict=True):
            ids, labels = paths[index], [*sequences[index]["labels"]]
            if len(labels) != len(sequences[index]["input_ids"]):
                raise ValueError(
                    f"sequence {index} has {len(sequences[index]['input_ids'])} input_ids "
                    f"and {len(labels)} labels: give one label per token"
                )
            for place in path[shared:]:
                end[place] = len(input_ids)
            path[shared:] = range(len(input_ids), len(input_ids) + len(ids) - shared)
            input_ids += ids[shared:]
            position_ids += range(shared, len(ids))
            end += [0] * (len(ids) - shared)
            if path:
                self._last[index] = (number, path[-1])
            unscored = max(1, common_start(labels, [IGNORE] * len(labels)))
            scored = [n for n in range(unscored, len(labels)) if labels[n] != IGNORE]
            places, tokens = [path[n - 1] for n in scored], [labels[n] for n in scored]
            found = ([number] * len(scored), places, tokens, [index] * len(scored))
            for kept, values in zip(self._scored, found, strict=True):
                kept += values
        for place in path:
            end[place] = len(input_ids)

    def tensors(self, *, pad_token_id: int) -> dict[str, Tensor]:
        """Return the batch as int64 tensors: B rows, padded to the longest of them, L tokens.

        - ``input_ids, position_ids, end`` (B, L). Padding tokens are trees of one token: they
          see only themselves, because a softmax over nothing would be NaN.
        - ``row_tokens`` (B,): how many tokens of each row are not padding.
        - ``predictor`` (P,): the places, in the flattened (B L), whose hidden states are
          projected onto the vocabulary: those that predict a scored token, each once.
        - ``branch``, ``token`` (E,): the distinct scored tokens, each as an index into
          ``predictor`` (ascending) and the token's id.
        - ``scored``, ``sequence`` (T,): sequence ``sequence[t]`` has the scored token
          ``scored[t]``, an index into ``branch``. Choices that begin alike share entries.
        - ``scored_tokens`` (S,): how many scored tokens each sequence has.
        - ``last`` (S,): the place, in the flattened (B L), of the token before each
          sequence's last one.

        Raises ValueError for a label that is neither a token nor `IGNORE`.
        """
        length = max(map(len, self.input_ids))

        def padded(rows: list[list[int]], padding: Any) -> Any:
            table = np.full((len(rows), length), padding)
            for place, row in zip(table, rows, strict=True):
                place[: len(row)] = row
            return table

        row, place, token, sequence = (np.array(each, dtype=np.int64) for each in self._scored)
        if token.min(initial=0) < 0:
            raise ValueError(f"label {token.min()}: a label is a token, or {IGNORE}")
        # One number for each edge, in the order of (row, place, token).
        words = token.max(initial=0) + 1
        edges, scored = np.unique((row * length + place) * words + token, return_inverse=True)
        predictor, branch = np.unique(edges // words, return_inverse=True)
        found = {
            "input_ids": padded(self.input_ids, pad_token_id),
            "position_ids": padded(self.position_ids, 0),
            "end": padded(self.end, np.arange(1, length + 1)),
            "row_tokens": np.array([*map(len, self.input_ids)]),
            "predictor": predictor,
            "branch": branch,
            "token": edges % words,
            "scored": scored,
            "sequence": sequence,
            "scored_tokens": np.bincount(sequence, minlength=len(self._last)),
            "last": np.array([r * length + p for r, p in self._last]),
        }
        return {name: torch.from_numpy(values.astype(np.int64)) for name, values in found.items()}


def _path(sequence: TokenSequence) -> list[int]:
    """The sequence's tokens in its row: all but the last."""
    return list(sequence["input_ids"][:-1])
