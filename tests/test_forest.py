"""The token forest: each beginning once, and each token sees exactly what comes before it."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask

from mathsft.models.attention import forest_mask, forest_rule
from mathsft.models.blockwise import Window
from mathsft.models.forest import IGNORE, TokenForest

pytestmark = pytest.mark.same_everywhere


def scored_from(ids: list[int], start: int) -> dict[str, list[int]]:
    return {"input_ids": ids, "labels": [IGNORE] * start + ids[start:]}


# With a small alphabet many sequences are equal, begin alike, or one begins with another.
sequence = st.lists(st.integers(0, 2), min_size=2, max_size=7).flatmap(
    lambda ids: st.integers(1, len(ids) - 1).map(lambda start: scored_from(ids, start))
)
sequences = st.lists(sequence, min_size=1, max_size=8)


def paths(batch: dict[str, torch.Tensor]) -> list[list[tuple[int, ...]]]:
    """For each position of each row, the tokens that it sees, itself included: path from root."""
    mask = forest_mask(batch["end"])[:, 0]
    return [
        [tuple(ids[seen].tolist()) for seen in row]
        for ids, row in zip(batch["input_ids"], mask, strict=True)
    ]


@given(sequences, st.data())
def test_a_row_holds_each_distinct_beginning_once_and_each_token_sees_its_own(found, data):
    count = len(found)
    row_of = [data.draw(st.integers(0, 2)) for _ in range(count)]
    rows = [row for r in range(3) if (row := [i for i in range(count) if row_of[i] == r])]
    batch = TokenForest(found, rows=rows).tensors(pad_token_id=9)
    for r, (row, seen) in enumerate(zip(rows, paths(batch), strict=True)):
        passed = [tuple(found[i]["input_ids"][:-1]) for i in row]
        beginnings = {ids[: n + 1] for ids in passed for n in range(len(ids))}
        length = int(batch["row_tokens"][r])
        assert len(seen[:length]) == len(set(seen[:length]))
        assert set(seen[:length]) == beginnings
        assert (
            batch["position_ids"][r, :length].tolist() == [len(path) - 1 for path in seen][:length]
        )
        assert set(seen[length:]) <= {(9,)}  # padding sees itself


@given(sequences)
def test_each_scored_token_is_predicted_by_what_stands_before_it(found):
    batch = TokenForest(found).tensors(pad_token_id=9)
    seen = paths(batch)[0]
    told = [
        (int(s), (*seen[batch["predictor"][batch["branch"][e]]], int(batch["token"][e])))
        for s, e in zip(batch["sequence"], batch["scored"], strict=True)
    ]
    wanted = [
        (n, tuple(s["input_ids"][: depth + 1]))
        for n, s in enumerate(found)
        for depth, label in enumerate(s["labels"])
        if label != IGNORE
    ]
    assert sorted(told) == sorted(wanted)
    assert batch["scored_tokens"].tolist() == [
        sum(label != IGNORE for label in s["labels"]) for s in found
    ]
    pairs = list(zip(batch["branch"].tolist(), batch["token"].tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert batch["predictor"].tolist() == sorted(set(batch["predictor"].tolist()))


@given(sequences, st.randoms(use_true_random=False))
def test_the_layout_does_not_depend_on_the_order_of_the_sequences(found, rng: random.Random):
    order = list(range(len(found)))
    rng.shuffle(order)
    one = TokenForest(found).tensors(pad_token_id=9)
    other = TokenForest(found, rows=[order]).tensors(pad_token_id=9)
    for key in ("input_ids", "position_ids", "end", "predictor", "branch", "token"):
        assert torch.equal(one[key], other[key]), key
    assert set(zip(one["sequence"].tolist(), one["scored"].tolist(), strict=True)) == set(
        zip(other["sequence"].tolist(), other["scored"].tolist(), strict=True)
    )


@given(st.lists(sequences, min_size=1, max_size=10), st.integers(25, 60))
def test_groups_stay_whole_share_rows_and_none_is_longer_than_asked(groups, max_length):
    groups = [[scored_from([7, *s["input_ids"]], 1) for s in group] for group in groups]
    sizes = [TokenForest(group).tokens for group in groups]
    if max(sizes) > max_length:
        with pytest.raises(ValueError, match=f"group .* has .* tokens.*at most {max_length}"):
            TokenForest.from_groups(groups, max_length=max_length)
        return
    forest = TokenForest.from_groups(groups, max_length=max_length)
    assert max(map(len, forest.input_ids)) <= max_length
    assert forest.tokens <= sum(sizes)
    batch = forest.tensors(pad_token_id=9)
    row_of_edge = batch["predictor"][batch["branch"]] // batch["input_ids"].shape[1]
    rows = [set[int]() for _ in range(sum(map(len, groups)))]
    for s, e in zip(batch["sequence"].tolist(), batch["scored"].tolist(), strict=True):
        rows[s].add(int(row_of_edge[e]))
    numbers = iter(rows)
    for group in groups:
        assert len(set().union(*(next(numbers) for _ in group))) == 1


def test_a_long_common_beginning_is_not_repeated_row_by_row():
    """Five worked examples before every question: a single row with all questions is best."""
    examples = list(range(100, 600))
    groups = [[scored_from([*examples, n, *range(10, 40), 50 + n], 530)] for n in range(16)]
    forest = TokenForest.from_groups(groups, max_length=2048)
    assert len(forest.input_ids) == 1
    assert forest.tokens == 500 + 16 * 31


@pytest.mark.parametrize("groups", [[], [[]], [[scored_from([1, 2, 3], 1)], []]])
def test_no_group_and_an_empty_one_are_errors(groups):
    with pytest.raises(ValueError, match="no group to lay out"):
        TokenForest.from_groups(groups, max_length=8)


def test_chains_are_laid_side_by_side_in_their_order_and_share_nothing():
    found = [scored_from([5, 6, 7], 1), scored_from([5, 6], 1), scored_from([4, 4, 4, 4], 2)]
    batch = TokenForest(found, rows=[[0, 1], [2]], share=False).tensors(pad_token_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 5], [4, 4, 4]]
    assert batch["end"].tolist() == [[2, 2, 3], [3, 3, 3]]
    assert batch["position_ids"].tolist() == [[0, 1, 0], [0, 1, 2]]
    shared = TokenForest(found, rows=[[0, 1], [2]]).tensors(pad_token_id=9)
    assert shared["input_ids"].tolist() == [[5, 6, 9], [4, 4, 4]]


def test_a_question_with_choices_is_a_trunk_with_branches_and_no_leaves():
    question, choices = [1, 2, 3], [[4, 5, 6], [4, 5, 7], [8]]
    forest = TokenForest([scored_from(question + c, 3) for c in choices])
    assert forest.input_ids == [[1, 2, 3, 4, 5]]  # 6, 7 and 8 are only predicted
    assert forest.end == [[5, 5, 5, 5, 5]]
    batch = forest.tensors(pad_token_id=9)
    assert batch["predictor"].tolist() == [2, 3, 4]
    assert batch["branch"].tolist() == [0, 0, 1, 2, 2]
    assert batch["token"].tolist() == [4, 8, 5, 6, 7]


def test_labels_that_do_not_fit_the_tokens_are_an_error_naming_the_sequence():
    with pytest.raises(ValueError, match="sequence 1 has 3 input_ids and 2 labels"):
        TokenForest([scored_from([1, 2], 1), {"input_ids": [1, 2, 3], "labels": [1, 2]}])


@given(sequences)
def test_flex_attention_uses_the_same_rule(found):
    end = TokenForest(found, rows=[[i] for i in range(len(found))]).tensors(pad_token_id=9)["end"]
    rows, length = end.shape
    told = create_mask(forest_rule(end), rows, None, length, length, device="cpu")
    assert torch.equal(told, forest_mask(end))


@pytest.mark.parametrize("window", [Window(2), Window(3), Window(2, chunks=True)])
def test_flex_attention_uses_the_same_windows(window):
    found = [scored_from([0, 1, 2, 0, branch, 1, 2], 1) for branch in range(3)]
    batch = TokenForest(found, rows=[[0, 1], [2]]).tensors(pad_token_id=9)
    end, depth = batch["end"], batch["position_ids"]
    rows, length = end.shape
    rule = forest_rule(end, depth, window)
    told = create_mask(rule, rows, None, length, length, device="cpu")
    assert torch.equal(told, forest_mask(end, depth, window))
    assert not torch.equal(told, forest_mask(end))


@given(sequences, st.integers(1, 5))
def test_a_window_hides_the_ancestors_that_are_too_far_above(found, size):
    batch = TokenForest(found).tensors(pad_token_id=9)
    depth = batch["position_ids"]
    sees = forest_mask(batch["end"])[0, 0]
    near = forest_mask(batch["end"], depth, Window(size))[0, 0]
    piece = forest_mask(batch["end"], depth, Window(size, chunks=True))[0, 0]
    for token in range(len(sees)):
        above = sees[token].nonzero()[:, 0].tolist()  # from the root to the token itself
        assert near[token].nonzero()[:, 0].tolist() == above[-size:]
        first = (len(above) - 1) // size * size
        assert piece[token].nonzero()[:, 0].tolist() == above[first:]


@given(st.data())
def test_a_token_sees_exactly_its_ancestors_and_itself_in_any_forest(data):
    """`j <= i < end[j]` on depth-first trees is the ancestor relation, checked by walking up."""
    length = data.draw(st.integers(1, 12))
    parents: list[int | None] = []
    path: list[int] = []  # the branch that the next token may continue
    for index in range(length):
        depth = data.draw(st.integers(0, len(path)))
        path = path[:depth]
        parents.append(path[-1] if path else None)
        path.append(index)
    end = [index + 1 for index in range(length)]
    ancestors = [{index} for index in range(length)]
    for index in range(length):
        above = parents[index]
        while above is not None:
            ancestors[index].add(above)
            end[above] = index + 1
            above = parents[above]
    mask = forest_mask(torch.tensor([end]))
    assert mask.shape == (1, 1, length, length)
    seen = [{j for j in range(length) if mask[0, 0, i, j]} for i in range(length)]
    assert seen == ancestors
