"""Rows can say what is trained: per message or per row, in files and in plain rows."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from chat_rows import chat, document, new_tokenizer, trained_parts, with_template
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from made_rows import multiple_choice_rows
from problem_rows import GSM, OWN, jsonl

from mathsft.data.chat import CHAT_FEATURES
from mathsft.data.local_files import write_rows
from mathsft.data.mixtures import mix_datasets
from mathsft.data.problems import load_problems, read_problems
from mathsft.models.forest import IGNORE
from mathsft.objectives.sft import tokenize_problems
from mathsft.training.callbacks import show_samples


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return with_template(new_tokenizer())


def said(row: dict[str, Any], **by_turn: dict[str, Any]) -> dict[str, Any]:
    """Return ``row`` with more keys in some messages: ``said(row, m1={"weight": 0})``."""
    messages = [{**turn, **by_turn.get(f"m{n}", {})} for n, turn in enumerate(row["messages"])]
    return {**row, "messages": messages}


FOUR = chat("2 + 3?", "Five.", "Sure?", "Yes.")
NOT_TRAINED = [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}]
TRAINED = [{"weight": 1}, {"weight": 1.0}, {"train": True}, {"training": True}, {"weight": None}]


@pytest.mark.parametrize("key", NOT_TRAINED, ids=str)
def test_a_turn_marked_as_not_trained_is_context_and_carries_no_loss(
    tokenizer: Any, tmp_path: Path, key: dict[str, Any]
) -> None:
    row = said(FOUR, m1=key)
    found = document(row, tokenizer)
    assert trained_parts(found, tokenizer) == ["Yes.~"]
    assert found["input_ids"] == document(FOUR, tokenizer)["input_ids"]
    last = said(FOUR, m3=key)
    assert trained_parts(document(last, tokenizer), tokenizer) == ["Five.~"]
    (read,) = read_problems(jsonl(tmp_path / "a.jsonl", row))[0]
    assert [turn["train"] for turn in read["messages"]] == [None, False, None, None]
    assert document(read, tokenizer) == found


@pytest.mark.parametrize("key", TRAINED, ids=str)
def test_a_turn_marked_as_trained_or_without_a_mark_is_trained(
    tokenizer: Any, tmp_path: Path, key: dict[str, Any]
) -> None:
    row = said(FOUR, m1=key)
    assert document(row, tokenizer) == document(FOUR, tokenizer)
    (read,) = read_problems(jsonl(tmp_path / "a.jsonl", row))[0]
    assert document(read, tokenizer) == document(FOUR, tokenizer)


@given(
    weights=st.lists(st.sampled_from([0, 1, None]), min_size=1, max_size=4), start=st.integers(0, 8)
)
def test_the_trained_turns_are_those_with_weight_from_the_index_on(
    tokenizer: Any, weights: list[int | None], start: int
) -> None:
    row = chat(*itertools.chain(*((f"{n}?", f"It is {n}.") for n in range(len(weights)))))
    row = said(row, **{f"m{2 * n + 1}": {"weight": w} for n, w in enumerate(weights)})
    expected = [f"It is {n}.~" for n, w in enumerate(weights) if w != 0 and 2 * n + 1 >= start]
    documents, dropped = tokenize_problems([{**row, "trained_from": start}], tokenizer)
    assert len(documents) + dropped.total() == 1
    assert [part for found in documents for part in trained_parts(found, tokenizer)] == expected


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ({"weight": 0.5}, "messages[1], 'weight': expected 0 or 1, found 0.5"),
        ({"weight": "no"}, "messages[1], 'weight': expected 0 or 1, found 'no'"),
        ({"weight": -1}, "messages[1], 'weight': expected 0 or 1, found -1"),
        ({"weight": True}, "messages[1], 'weight': expected 0 or 1, found True"),
        ({"train": "no"}, "messages[1], 'train': expected true or false, found 'no'"),
        ({"train": 0}, "messages[1], 'train': expected true or false, found 0"),
        ({"training": []}, "messages[1], 'training': expected true or false, found []"),
        (
            {"weight": 0, "train": True},
            "messages[1]: train: True, weight: 0 contradict each other",
        ),
        (
            {"train": True, "training": False},
            "messages[1]: train: True, training: False contradict each other",
        ),
        ({"loss_mask": 1}, "messages[1]: key 'loss_mask' holds 1, which may say what should be"),
        ({"trainable": False}, "messages[1]: key 'trainable' holds False"),
        ({"rewardScore": 0.1}, "messages[1]: key 'rewardScore' holds 0.1"),
        ({"label": True}, "messages[1]: key 'label' holds True"),
        ({"function_call": {"name": "add"}}, "messages[1]: key 'function_call' holds"),
    ],
    ids=str,
)
def test_another_value_is_an_error_that_names_the_message(
    tokenizer: Any, tmp_path: Path, key: dict[str, Any], message: str
) -> None:
    row = said(FOUR, m1=key)
    with pytest.raises(ValueError, match=re.escape(f"a.jsonl, row 2, {message}")):
        read_problems(jsonl(tmp_path / "a.jsonl", FOUR, row))
    with pytest.raises(ValueError, match=re.escape(f"row 1, {message}")):
        tokenize_problems([FOUR, row], tokenizer)


UNTRAINED = "with weight 0 or train false"
BAD = "labelled as a bad answer"
TEXT = {"prompt": "2 + 3 =", "completion": " 5"}
SPLIT = {"prompt": FOUR["messages"][:3], "completion": FOUR["messages"][3:]}
PROBLEM = read_problems("tiny-gsm", limit=1)[0][0]


@pytest.mark.parametrize(
    ("good", "more", "reason"),
    [
        (FOUR, {"weight": 0}, UNTRAINED),
        (FOUR, {"train": False}, UNTRAINED),
        (FOUR, {"label": False}, BAD),
        (said(FOUR, m1={"weight": 0}), said(FOUR, m1={"weight": 0}, m3={"train": False}),
         "without a trained assistant turn"),
        (FOUR, said(FOUR, m2={"weight": 1}), "that ask to train a turn of the user"),
        (TEXT, {"label": False}, BAD),
        (TEXT, {"weight": 0.0}, UNTRAINED),
        (SPLIT, {"label": False}, BAD),
        (SPLIT, {"training": False}, UNTRAINED),
        (PROBLEM, {"train": False}, UNTRAINED),
    ],
    ids=str,
)  # fmt: skip
def test_a_row_that_says_not_to_train_it_is_dropped_and_counted(
    tokenizer: Any, tmp_path: Path, good: dict[str, Any], more: dict[str, Any], reason: str
) -> None:
    rows, dropped = read_problems(jsonl(tmp_path / "a.jsonl", good, {**good, **more}))
    assert (len(rows), dropped) == (1, {reason: 1})
    documents, dropped = tokenize_problems([good, {**good, **more}], tokenizer)
    assert (documents, dropped) == ([document(good, tokenizer)], {reason: 1})


@pytest.mark.parametrize("row", [FOUR, TEXT, SPLIT], ids=["chat", "text", "split"])
def test_a_good_answer_of_paired_feedback_is_trained(
    tokenizer: Any, tmp_path: Path, row: dict[str, Any]
) -> None:
    for label in (True, None):
        labelled = {**row, "label": label}
        assert document(labelled, tokenizer) == document(row, tokenizer)
        (read,) = read_problems(jsonl(tmp_path / "a.jsonl", labelled))[0]
        assert document(read, tokenizer) == document(row, tokenizer)


@pytest.mark.parametrize("label", [0, 1, "false", 0.5, [True]])
def test_another_label_is_an_error(tokenizer: Any, tmp_path: Path, label: Any) -> None:
    for row in (FOUR, TEXT, SPLIT, GSM):
        with pytest.raises(ValueError, match="row 1, column 'label': expected true"):
            read_problems(jsonl(tmp_path / "a.jsonl", {**row, "label": label}))
    for row in (FOUR, TEXT, SPLIT):
        with pytest.raises(ValueError, match="row 0, column 'label': expected true"):
            tokenize_problems([{**row, "label": label}], tokenizer)


def test_questions_with_choices_can_be_marked_as_not_trained(tokenizer: Any) -> None:
    rows = [OWN, {**OWN, "question": "1 + 1?", "weight": 0}]
    assert len(multiple_choice_rows(rows, tokenizer)) == 1
    with pytest.raises(ValueError, match="'weight': expected 0 or 1, found 2"):
        multiple_choice_rows([OWN, {**OWN, "weight": 2}], tokenizer)


def test_a_mixture_keeps_which_turns_are_trained_in_a_file_and_read_again(
    tokenizer: Any, tmp_path: Path
) -> None:
    rows = [said(chat(f"{n} + 1?", "Hm.", "So?", f"{n + 1}."), m1={"weight": 0}) for n in range(6)]
    sets = {
        "half": read_problems(jsonl(tmp_path / "half.jsonl", *rows))[0],
        "plain": read_problems(jsonl(tmp_path / "plain.jsonl", *[FOUR] * 6))[0],
        "sums": read_problems("tiny-gsm", limit=6)[0],
    }
    assert sets["plain"].features == CHAT_FEATURES
    mixture = mix_datasets({name: 6 for name in sets}, datasets=sets, test=None)
    expected, _ = tokenize_problems(mixture, tokenizer)
    trained = [part for found in expected for part in trained_parts(found, tokenizer)]
    assert trained.count("Five.~") == 6
    assert "Hm.~" not in trained
    for name in ("m.jsonl", "m.parquet"):
        again = read_problems(write_rows(mixture, tmp_path / name))[0]
        assert again.to_list() == mixture.to_list()
        assert tokenize_problems(again, tokenizer)[0] == expected
        assert len(mix_datasets({"all": 18}, datasets={"all": again}, test=None)) == 18


def test_a_file_written_before_messages_had_more_keys_is_read_and_mixed(tmp_path: Path) -> None:
    old = Dataset.from_list(
        [{**FOUR, "trained_from": 0, "source": "old"}] * 3, features=CHAT_FEATURES
    )
    read = read_problems(write_rows(old, tmp_path / "old.jsonl"))[0]
    assert (read.features, read.to_list()) == (CHAT_FEATURES, old.to_list())
    new = read_problems(jsonl(tmp_path / "new.jsonl", said(FOUR, m1={"weight": 0})))[0]
    mixture = mix_datasets({"old": 3, "new": 1}, datasets={"old": read, "new": new}, test=None)
    trains = sorted(str(row["messages"][1]["train"]) for row in mixture)
    assert trains == ["False", "None", "None", "None"]


def test_the_sample_that_is_shown_is_the_last_turn_that_is_trained(tokenizer: Any) -> None:
    (sample,) = show_samples(tokenizer, [said(FOUR, m3={"weight": 0})], samples=1)._samples
    assert (sample["question"], sample["wanted"]) == ("2 + 3?", "Five.")


def test_untrained_turns_are_not_evaluated_either(tokenizer: Any) -> None:
    found = document(said(FOUR, m1={"train": False}), tokenizer, train_on_prompt=True)
    assert found["labels"] == [IGNORE, *found["input_ids"][1:]]  # requested: everything is trained


def test_rows_of_the_printed_line_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_problems(jsonl(tmp_path / "a.jsonl", TEXT, {**TEXT, "label": False}))
    line = "a.jsonl: 2 rows read, 1 kept; dropped 1: labelled as a bad answer (row 2)\n"
    assert capsys.readouterr().out == line
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[1])["label"] is False
