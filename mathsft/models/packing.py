"""Packing: which documents, or questions, share a row."""

from collections.abc import Sequence

from mathsft.checks import at_least, check_number


def pack(lengths: Sequence[int], *, max_length: int) -> list[list[int]]:
    """Put documents into as few rows of ``max_length`` tokens as best-fit decreasing finds.

    Longest first, each into the fullest row that still has room; a new row where none
    has. At most 11/9 of the optimum (Johnson et al., 1974), and better where short
    documents fill the gaps that long ones leave: GSM8K's train split fills 97 % of its
    rows of 512 tokens (a test holds it above 95 %). It looks at the whole data set, not
    at blocks of it.

    Rows by free space are kept in a table, and the occupied spaces in the bits of one
    integer, so that "the smallest space that is large enough" is one bit operation:
    O(n log n) for the sort and O(n) such look-ups.

    Returns rows of indices into ``lengths``; the same input gives the same rows.
    Raises ValueError for a length that is not in 1..max_length: nothing is ever cut.
    """
    check_number("max_length", max_length, at_least(1))
    rows: list[list[int]] = []
    rows_by_space: list[list[list[int]]] = [[] for _ in range(max_length + 1)]
    spaces = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
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
    """Rows for one batch, at most ``max_length`` long, that should take the least time.

    ``trunk`` is the number of tokens that every row has once besides its documents, because
    all of them begin with it. A batch is padded to its longest row only, so its rows may as
    well be shorter than ``max_length``: `pack` is tried at some 24 lengths between the
    longest document and ``max_length``, and the cheapest wins. A padded token costs as much
    as another one; attention, which grows with the row, costs a share of L / 3000 on top
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
