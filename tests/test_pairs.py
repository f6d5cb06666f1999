"""Pairs of answers: made from rewards, and dropped if a reader cannot tell which is better."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pair_rows import PAIR, TALK, TALK_UNPAIRED, UNPAIRED, assistant, user
from problem_rows import jsonl
from recipe_lines import mathsft_

from mathsft.data.contamination import without_test_rows
from mathsft.data.pairs import answer_key, pairs_from
from mathsft.data.problems import load_problems, read_problems
from mathsft.data.rows import PREFERENCE
from mathsft.data.schemas import UnusableRowError

REWARDS = st.lists(st.sampled_from([0, 0.25, 0.5, 1, 2]), max_size=7)


@given(rewards=REWARDS, gap=st.sampled_from([0.0, 0.25, 1.0]), keep=st.integers(1, 9))
def test_pairs_are_all_that_differ_by_more_than_the_gap_or_the_first_of_them(
    rewards: list[float], gap: float, keep: int
) -> None:
    answers = [f"answer {n}" for n in range(len(rewards))]
    reward = dict(zip(answers, rewards, strict=True))
    every = [(a, b) for a, b in itertools.permutations(answers, 2) if reward[a] - reward[b] > gap]
    found = pairs_of(pairs_from(answers, rewards, min_gap=gap))
    assert sorted(found) == sorted(every)
    gaps = [reward[a] - reward[b] for a, b in found]
    assert gaps == sorted(gaps, reverse=True)
    assert pairs_of(pairs_from(answers, rewards, keep=keep, min_gap=gap)) == found[:keep]


def pairs_of(found: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    return [(pair["chosen"], pair["rejected"]) for pair in found]


@given(right=st.integers(0, 6), wrong=st.integers(0, 6))
def test_of_equal_gaps_all_answers_take_part_before_one_does_twice(right: int, wrong: int) -> None:
    answers = [f"right {n}" for n in range(right)] + [f"wrong {n}" for n in range(wrong)]
    rewards = [1.0] * right + [0.0] * wrong
    found = pairs_from(answers, rewards)
    assert len(found) == right * wrong
    first = pairs_of(found)[: min(right, wrong)]
    assert len({answer for pair in first for answer in pair}) == 2 * min(right, wrong)
    uses, left = dict.fromkeys(answers, 0), pairs_of(found)
    while left:
        a, b = left[0]
        assert uses[a] + uses[b] == min(uses[c] + uses[d] for c, d in left)
        uses[a], uses[b] = uses[a] + 1, uses[b] + 1
        del left[0]


def test_equal_rewards_give_no_pair() -> None:
    assert pairs_from(["a", "b", "c"], [0.5] * 3) == []
    assert pairs_from([], []) == []
    assert pairs_from(["a"], [1.0]) == []


def test_answers_that_a_reader_cannot_tell_apart_count_once() -> None:
    answers = ["It is 5.", "it is  5", "It is 6."]
    assert pairs_from(answers, [1, 1, 0]) == [{"chosen": "It is 5.", "rejected": "It is 6."}]


def test_an_answer_with_two_rewards_is_left_out() -> None:
    found = pairs_from(["It is 5.", "it is 5", "It is 5", "6", "7"], [1, 1, 0, 0, 1])
    assert found == [{"chosen": "7", "rejected": "6"}]


def test_messages_and_rewards_of_numpy_make_pairs() -> None:
    answers = [TALK["rejected"], TALK["chosen"], [assistant(" it is 5 ")]]
    wanted = [{"chosen": TALK["chosen"], "rejected": TALK["rejected"]}]
    for kind in (np.float32, np.float64, np.int64):
        assert pairs_from(answers, np.array([0, 1, 1], dtype=kind)) == wanted
    read = PREFERENCE.read({"prompt": TALK["prompt"], **wanted[0]}, where="row 0")
    assert read == {**TALK, "source": ""}


@pytest.mark.parametrize(
    ("completions", "rewards", "how", "message"),
    [
        (["a"], [1, 0], {}, "1 completions and 2 rewards; expected one reward for each"),
        (["a", "b"], [1, None], {}, "rewards[1]: expected a finite number, found None"),
        (["a", "b"], [float("inf"), 0], {}, "rewards[0]: expected a finite number, found inf"),
        (["a", "b"], ["1", 0], {}, "rewards[0]: expected a finite number, found '1'"),
        (["a", None], [1, 0], {}, "completions[1]: expected text or messages, found None"),
        ([["a"], "b"], [1, 0], {}, "completions[0]: expected text or messages, found ['a']"),
        (["a", "b"], [1, 0], {"keep": 0}, "keep=0: give 1 or more"),
        (["a", "b"], [1, 0], {"keep": 1.5}, "keep=1.5: give 1 or more, a whole number"),
        (["a", "b"], [1, 0], {"min_gap": -1}, "min_gap=-1: give 0 or more"),
    ],
)
def test_a_mistake_is_named(completions: Any, rewards: Any, how: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        pairs_from(completions, rewards, **how)


CALL = {"role": "assistant", "content": None, "tool_calls": '[{"name": "add"}]'}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("It is 5.", "  it is\n5", True),
        ("It is 5.", "It is 6.", False),
        ("5", "-5", False),
        ("3 + 2", "3 - 2", False),
        ("1.5", "15", False),
        ("yes", "no", False),
        ([assistant("It is 5.")], [assistant("it is 5")], True),
        ([assistant("5")], [user("5")], False),
        ([assistant("5")], [assistant("5"), assistant("5")], False),
        ([CALL], [{**CALL, "tool_calls": '[{"name": "sub"}]'}], False),
        ([CALL], [dict(CALL)], True),
    ],
)
def test_two_answers_are_equal_if_they_differ_only_in_case_spacing_and_the_last_mark(
    one: Any, other: Any, same: bool
) -> None:
    assert (answer_key(one) == answer_key(other)) is same


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_answers_with_other_reasoning_are_not_equal(key: str) -> None:
    sides = [[{**assistant("5"), key: thought}] for thought in ("2 + 3", "2 * 3")]
    found = PREFERENCE.read(
        {"prompt": TALK["prompt"], "chosen": sides[0], "rejected": sides[1]}, where="row 0"
    )
    assert [found["chosen"], found["rejected"]] == sides


EQUAL = "whose chosen and rejected answers are equal"
SAME = "whose chosen answer has the same score as the rejected one"
LOWER = "whose chosen answer has a lower score than the rejected one"


@pytest.mark.parametrize("pair", [PAIR, TALK], ids=["texts", "messages"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("It is 5.", "it is  5"), EQUAL),
        ({"score_chosen": 7.0, "score_rejected": 7}, SAME),
        ({"score_chosen": 6.5, "score_rejected": 7.0}, LOWER),
        ({"chosen_score": 0, "rejected_score": 1}, LOWER),
        ({"chosen_rating": 3, "rejected_rating": 3}, SAME),
        ({"chosen-rating": 2, "rejected-rating": 5}, LOWER),
    ],
    ids=str,
)
def test_a_pair_without_a_better_answer_is_dropped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pair: Any, change: Any, reason: str
) -> None:
    if isinstance(change, tuple):
        talk = isinstance(pair["prompt"], list)
        sides = [[assistant(text)] if talk else text for text in change]
        change = dict(zip(("chosen", "rejected"), sides, strict=True))
    found = load_problems(jsonl(tmp_path / "a.jsonl", pair, {**pair, **change}, pair))
    assert len(found) == 2
    line = f"a.jsonl: 3 rows read, 2 kept; dropped 1: {reason} (row 2)\n"
    assert capsys.readouterr().out == line
    with pytest.raises(UnusableRowError, match=reason):
        PREFERENCE.read({**pair, **change}, where="row 0")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_scores_that_agree_with_the_pair_are_read_and_not_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    rows = [{**PAIR, "score_chosen": 8.5, "score_rejected": n} for n in (2, 8.5)]
    if suffix == "csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        jsonl(path, *rows)
    assert load_problems(path).to_list() == [{**PAIR, "source": path.name}]
    assert capsys.readouterr().out == (
        f"{path.name}: 2 rows read, 1 kept; dropped 1: {SAME} (row 2)\n"
    )


@pytest.mark.parametrize("score", ["8", "high", [8], {"a": 1}], ids=str)
def test_a_score_that_is_no_number_names_row_and_column(tmp_path: Path, score: Any) -> None:
    bad = {**PAIR, "score_chosen": 3, "score_rejected": score}
    path = jsonl(tmp_path / "a.jsonl", {**bad, "score_rejected": 1}, bad)
    wanted = re.escape(f"column 'score_rejected': expected a number, found {score!r}")
    with pytest.raises(ValueError, match=rf"a\.jsonl, row 2, {wanted}"):
        read_problems(path)


def test_one_score_alone_decides_nothing(tmp_path: Path) -> None:
    rows = [{**PAIR, "score_chosen": 8}, {**PAIR, "score_chosen": 8, "score_rejected": None}]
    assert read_problems(jsonl(tmp_path / "a.jsonl", *rows))[1].total() == 0


@pytest.mark.parametrize("row", [UNPAIRED, TALK_UNPAIRED], ids=["texts", "messages"])
def test_labelled_answers_keep_their_label_as_a_table_and_as_a_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any]
) -> None:
    path = jsonl(tmp_path / "a.jsonl", row, {**row, "label": False}, {**row, "weight": 0})
    capsys.readouterr()
    table, stream = load_problems(path), load_problems(path, streaming=True)
    assert [found["label"] for found in table] == [True, False]
    assert [found["label"] for found in stream] == [True, False]
    line = "a.jsonl: 3 rows read, 2 kept; dropped 1: with weight 0 or train false (row 3)\n"
    assert capsys.readouterr().out == 2 * line
    asked = "2 + 3 =" if row is UNPAIRED else "What is 2 + 3?"
    asks = {"question": asked, "answer": "It is 5.\n#### 5"}
    test = read_problems(jsonl(tmp_path / "test.jsonl", asks))[0]
    assert len(without_test_rows(table, test)) == 0
    assert list(without_test_rows(stream, test)) == []


def test_an_answer_without_a_label_is_a_prompt_with_its_completion(tmp_path: Path) -> None:
    rows = [UNPAIRED, {**UNPAIRED, "label": None}]
    found = read_problems(jsonl(tmp_path / "a.jsonl", *rows))[0]
    assert found["label"][:] == [True, None]
    talk = read_problems(jsonl(tmp_path / "b.jsonl", {**TALK_UNPAIRED, "label": None}))[0]
    assert talk["messages"][0] == [*TALK["prompt"], *TALK["chosen"]]


@pytest.mark.usefixtures("runs", "no_weights")
def test_pairs_that_ask_a_test_question_are_left_out_of_training_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [{**PAIR, "prompt": f"What is {n} + 3?"} for n in (1, 2, 2, 4)]
    path = jsonl(tmp_path / "pairs.jsonl", *pairs)
    test = jsonl(tmp_path / "test.jsonl", {"question": "what is 2 + 3", "answer": "5\n#### 5"})
    recipe = ("--config", "tiny", "--train.source", path, "--test.source", test)
    mathsft_("train", "--objective", "dpo", *recipe, "--check")
    shown = capsys.readouterr().out
    assert "2 of 4 rows left out: their question is one of the 1 to exclude" in shown
    assert "train: 2 pairs with 4 answers" in shown
