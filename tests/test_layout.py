"""The layout of a token forest, against the rule written out token by token."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.models.forest import IGNORE, TokenForest
from mathsft.models.paths import common_start, common_trunk, tree_size

PAD = 9


@st.composite
def sequence(draw: st.DrawFn) -> dict[str, list[int]]:
    """Few different tokens, so many sequences begin alike; any of them may be scored."""
    ids = draw(st.lists(st.integers(0, 2), min_size=1, max_size=7))
    return {"input_ids": ids, "labels": [t if draw(st.booleans()) else IGNORE for t in ids]}


@st.composite
def forests(draw: st.DrawFn) -> tuple[list[dict[str, list[int]]], list[list[int]]]:
    """Sequences, and which of them share each of up to three rows."""
    longer = sequence().filter(lambda s: len(s["input_ids"]) > 1)
    found = draw(st.lists(longer, min_size=1, max_size=9))
    order = draw(st.permutations(range(len(found))))
    row_of = [draw(st.integers(0, 2)) for _ in order]
    return found, [row for r in range(3) if (row := [i for i in order if row_of[i] == r])]


def plain(
    sequences: list[dict[str, list[int]]], rows: list[list[int]], share: bool
) -> dict[str, list[Any]]:
    """The tensors as lists: each row is a tree whose nodes are (what is before, token)."""
    laid: list[list[Any]] = []  # for each row its nodes; a node is the tuple of tokens to it
    where: dict[int, list[int]] = {}  # for each sequence the places of its tokens
    walked: list[tuple[int, int]] = []  # (row, sequence), in the order of the layout
    for r, row in enumerate(rows):
        nodes: list[Any] = []
        order = sorted(row, key=lambda i: sequences[i]["input_ids"][:-1]) if share else row
        for i in order:
            ids = sequences[i]["input_ids"][:-1]
            where[i] = []
            for depth in range(len(ids)):
                node = (None if share else i, *ids[: depth + 1])
                if node not in nodes:
                    nodes.append(node)
                where[i].append(nodes.index(node))
            walked.append((r, i))
        laid.append(nodes)
    length = max(map(len, laid))
    table: dict[str, list[Any]] = {"input_ids": [], "position_ids": [], "end": []}
    for nodes in laid:
        padding = range(len(nodes), length)
        below = [[n for n in nodes if n[: len(node)] == node] for node in nodes]
        table["input_ids"].append([node[-1] for node in nodes] + [PAD for _ in padding])
        table["position_ids"].append([len(node) - 2 for node in nodes] + [0 for _ in padding])
        ends = [nodes.index(some[-1]) + 1 for some in below]
        table["end"].append(ends + [place + 1 for place in padding])
    scored = [
        (r * length + where[i][depth - 1], token, i)
        for r, i in walked
        for depth, token in enumerate(sequences[i]["labels"])
        if depth > 0 and token != IGNORE
    ]
    edges = sorted({(place, token) for place, token, _ in scored})
    places = sorted({place for place, _ in edges})
    row_of = {i: r for r, i in walked}
    return {
        **table,
        "row_tokens": [*map(len, laid)],
        "predictor": places,
        "branch": [places.index(place) for place, _ in edges],
        "token": [token for _, token in edges],
        "scored": [edges.index((place, token)) for place, token, _ in scored],
        "sequence": [i for _, _, i in scored],
        "scored_tokens": [sum(s == i for _, _, s in scored) for i in range(len(sequences))],
        "last": [row_of[i] * length + where[i][-1] for i in range(len(sequences))],
    }


@settings(max_examples=300, deadline=None)
@given(forests(), st.booleans())
def test_the_layout_is_the_rule_token_by_token(forest, share):
    sequences, rows = forest
    batch = TokenForest(sequences, rows=rows, share=share).tensors(pad_token_id=PAD)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == plain(
        sequences, rows, share
    )
    assert {str(tensor.dtype) for tensor in batch.values()} == {"torch.int64"}


@given(st.lists(sequence(), min_size=1, max_size=9))
def test_a_tree_is_as_large_as_its_forest_and_a_trunk_is_what_all_share(found):
    paths = [s["input_ids"][:-1] for s in found]
    assert tree_size(paths) == TokenForest(found).tokens
    shared = [n for n in range(8) if len({tuple(p[:n]) for p in paths}) == 1]
    assert common_trunk(paths) == min(max(shared), *map(len, paths))


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_lists_share_what_is_equal_before_the_first_difference(a, b):
    differs = (n for n, (one, other) in enumerate(zip(a, b, strict=False)) if one != other)
    assert common_start(a, b) == next(differs, min(len(a), len(b)))


def test_a_group_that_is_too_long_is_an_error_or_makes_longer_rows():
    short, other = ([{"input_ids": ids, "labels": ids}] for ids in ([1, 2, 3], [4, 5, 6]))
    long = [{"input_ids": [*range(10)], "labels": [*range(10)]}]
    with pytest.raises(ValueError, match="group 1 has 9 tokens; a row holds at most 4"):
        TokenForest.from_groups([short, long], max_length=4)
    forest = TokenForest.from_groups([short, long, other], max_length=4, stretch=True)
    assert sorted(map(len, forest.input_ids)) == [4, 9]


def test_a_negative_label_is_an_error():
    forest = TokenForest([{"input_ids": [1, 2], "labels": [IGNORE, -1]}])
    with pytest.raises(ValueError, match="label -1: a label is a token, or -100"):
        forest.tensors(pad_token_id=PAD)
