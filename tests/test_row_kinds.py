"""Each kind of row is recognised, read, asked, mixed and shown as its kind defines."""

import re
from pathlib import Path
from typing import Any

import pytest
from chat_rows import chat, new_tokenizer, with_template
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_rows import (
    GROUP,
    PAIR,
    TALK,
    TALK_GROUP,
    TALK_UNPAIRED,
    UNPAIRED,
    assistant,
    user,
)
from problem_rows import GSM, OWN, jsonl

from mathsft.data import rows as kinds
from mathsft.data.contamination import without_test_rows
from mathsft.data.given import given_row
from mathsft.data.local_files import write_rows
from mathsft.data.mixtures import mix_datasets
from mathsft.data.problems import load_problems, read_problems
from mathsft.data.rows import KINDS, PREFERENCE, kind_of
from mathsft.data.schemas import UnusableRowError
from mathsft.objectives.sft import tokenize_problems
from mathsft.training.callbacks import show_samples

WHOLE = {name: TALK["prompt"] + TALK[name] for name in ("chosen", "rejected")}
CONVERSATIONS = {
    "conversations": [{"from": "human", "value": "What is 2 + 3?"}],
    "chosen": {"from": "gpt", "value": "It is 5."},
    "rejected": {"from": "gpt", "value": "It is 6."},
}
OF_EACH = {
    "problem": OWN,
    "chat": chat("What is 2 + 3?", "It is 5."),
    "prompt": {"prompt": "2 + 3 =", "completion": " 5"},
    "preference": PAIR,
    "unpaired": UNPAIRED,
    "group": GROUP,
}


def read(row: dict[str, Any]) -> dict[str, Any]:
    found = PREFERENCE.read(row, where="a.jsonl, row 1")
    assert found.pop("source") == ""
    return found


@pytest.mark.parametrize(
    "row",
    [
        TALK,
        WHOLE,
        CONVERSATIONS,
        {"prompt": TALK["prompt"], **WHOLE},
        {"prompt": " What is 2 + 3?\n", **WHOLE},
        {"prompt": "What is 2 + 3?", "chosen": TALK["chosen"], "rejected": TALK["rejected"]},
        {"prompt": TALK["prompt"], "chosen": "It is 5.", "rejected": "It is 6."},
        {"prompt": None, "conversations": None, **WHOLE},
    ],
    ids=str,
)
def test_a_pair_is_read_alike_from_every_form(row: dict[str, Any]) -> None:
    assert read(row) == TALK


def test_texts_stay_as_they_are() -> None:
    assert read(PAIR) == PAIR
    asked = "Human: What is 2 + 3? Assistant:"
    row = {name: asked + PAIR[name] for name in ("chosen", "rejected")}
    assert read(row) == {**PAIR, "prompt": asked}


@settings(deadline=None)  # the first call imports TRL
@given(
    shared=st.text("ab ", min_size=1),
    chosen=st.text("ab ", min_size=1),
    rejected=st.text("ab ", min_size=1),
    talk=st.booleans(),
)
def test_a_prompt_that_both_share_is_split_as_trl_splits_it(
    shared: str, chosen: str, rejected: str, talk: bool
) -> None:
    from trl.data_utils import maybe_extract_prompt

    answers = {"chosen": chosen, "rejected": rejected}
    row: dict[str, Any] = {name: shared + answer for name, answer in answers.items()}
    if talk:
        row = {name: [user(shared), assistant(answer)] for name, answer in answers.items()}
    try:
        found = read(row)
    except UnusableRowError:
        one, other = sorted(row.values(), key=len)  # TRL cuts one that the other starts with
        ends = {name: said(text) for name, text in maybe_extract_prompt(row).items()}
        alike = ends["chosen"].split() == ends["rejected"].split()
        assert alike or not all(ends.values()) or one == other[: len(one)] or not said(shared)
        return
    assert found == maybe_extract_prompt(row)


def said(held: Any) -> str:
    return (held if isinstance(held, str) else "".join(turn["content"] for turn in held)).strip()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**PAIR, "rejected": " 5"}, "whose chosen and rejected answers are equal"),
        ({**TALK, "rejected": TALK["chosen"]}, "whose chosen and rejected answers are equal"),
        ({**PAIR, "prompt": " "}, "empty prompt"),
        ({**PAIR, "rejected": ""}, "empty rejected"),
        ({"chosen": "5", "rejected": "6"}, "whose chosen and rejected texts share no beginning"),
        ({"chosen": "a b", "rejected": "a b c"}, "with one answer that is the beginning"),
        (
            {"chosen": WHOLE["chosen"], "rejected": [user("What?"), *TALK["rejected"]]},
            "whose chosen and rejected conversations share no beginning",
        ),
        ({"prompt": "Why?", **WHOLE}, "whose prompt is not in its conversations"),
        ({**TALK, "prompt": []}, "whose prompt does not end with a turn to answer"),
        ({**TALK, "rejected": TALK["prompt"]}, "with an answer that is not the assistant's"),
        ({**TALK, "rejected": []}, "with an answer that is not the assistant's"),
        ({**TALK, "rejected": [assistant(" ")]}, "with an empty assistant turn"),
    ],
)
def test_a_pair_that_teaches_nothing_is_dropped_counted_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any], reason: str
) -> None:
    good = TALK if isinstance(row["chosen"], list) else PAIR
    assert len(load_problems(jsonl(tmp_path / "a.jsonl", good, row, good))) == 2
    assert f"2 kept; dropped 1: {reason}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**PAIR, "chosen": 5}, "column 'chosen': expected text, found int (5)"),
        ({**TALK, "chosen": [{"role": "gpt", "content": ""}]}, "chosen[0]: unknown role 'gpt'"),
        ({**GROUP, "rewards": [1]}, "2 completions and 1 rewards"),
        ({**GROUP, "rewards": [1, None]}, "rewards[1]: expected a finite number, found None"),
        ({**GROUP, "rewards": [1, float("nan")]}, "rewards[1]: expected a finite number"),
        ({**GROUP, "completions": ["5", None]}, "completions[1]: expected text or messages"),
        ({**GROUP, "rewards": "high"}, "column 'rewards': expected a list, found str"),
        ({**UNPAIRED, "label": 1}, "column 'label': expected true (a good answer) or false"),
        ({**UNPAIRED, "completion": 5}, "column 'completion': expected text, found int (5)"),
    ],
)
def test_a_pair_or_group_of_another_form_names_file_row_and_place(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=r"a\.jsonl, row 1.*" + re.escape(message)):
        read_problems(jsonl(tmp_path / "a.jsonl", row))


@pytest.mark.parametrize("name", ["problem", "Question", "user", "task", "instruction"])
def test_a_pair_whose_question_is_in_another_column_is_an_error(tmp_path: Path, name: str) -> None:
    row = {name: "What is 2 + 3?", "chosen": "The answer is 5", "rejected": "The answer is 6"}
    path = jsonl(tmp_path / "a.jsonl", row)
    with pytest.raises(ValueError, match=rf"pass columns=\{{'prompt': '{name}'\}}"):
        load_problems(path)
    assert load_problems(path, columns={"prompt": name})[0]["prompt"] == row[name]


@pytest.mark.parametrize(
    "rows",
    [
        (PAIR, TALK),
        (GROUP, TALK_GROUP),
        (TALK, PAIR),
        (UNPAIRED, TALK_UNPAIRED),
        (TALK_UNPAIRED, UNPAIRED),
    ],
)
def test_texts_and_messages_in_one_file_are_an_error(tmp_path: Path, rows: Any) -> None:
    path = jsonl(tmp_path / "a.jsonl", *rows)
    with pytest.raises(ValueError, match=r"row 2, column '\w+': text in some rows and messages"):
        read_problems(path)


def test_scores_beside_a_pair_are_counted_and_weights_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = {"chosen_quality": 8, "score_difference": 2, "score_chosen": 8}
    load_problems(jsonl(tmp_path / "a.jsonl", {**PAIR, **notes}))
    shown = capsys.readouterr().out
    assert "column 'chosen_quality' (1 row), column 'score_difference' (1 row)" in shown
    assert "score_chosen" not in shown
    with pytest.raises(ValueError, match="column 'loss_weight' holds 2, which may say"):
        load_problems(jsonl(tmp_path / "b.jsonl", {**PAIR, "loss_weight": 2}))
    assert (
        not read_problems(jsonl(tmp_path / "c.jsonl", PAIR, {**PAIR, "weight": 0}))[1].total() - 1
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_row_and_a_data_set_say_of_which_kind_they_are(tmp_path: Path, name: str) -> None:
    found = read_problems(jsonl(tmp_path / "a.jsonl", *[OF_EACH[name]] * 2))[0]
    assert kind_of(OF_EACH[name]) is kind_of(found) is kind_of(found[0]) is KINDS[name]
    assert kind_of(Dataset.from_list([OF_EACH[name]])) is KINDS[name]
    assert set(found.column_names) <= KINDS[name].columns
    assert found.features == KINDS[name].features
    assert KINDS[name].asks(found[0])[0].endswith(("2 + 3?", "2 + 3 ="))
    found.to_parquet(tmp_path / "again.parquet")
    assert read_problems(tmp_path / "again.parquet")[0].to_list() == found.to_list()


def test_rows_of_no_kind_or_of_several_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"here: a row of no known kind\. It must have chosen and"):
        kind_of({"text": "a"}, where="here")
    both = Dataset.from_list([{name: "" for row in OF_EACH.values() for name in row}])
    with pytest.raises(ValueError, match="expected one kind, found preference and"):
        kind_of(both)


@pytest.mark.parametrize("labelled", ["problem", "unpaired"])
@pytest.mark.parametrize("talk", [False, True])
def test_all_kinds_mix_and_a_mixture_is_written_and_read_again(
    tmp_path: Path, talk: bool, labelled: str
) -> None:
    given = dict(OF_EACH)
    if talk:
        given |= {"preference": TALK, "unpaired": TALK_UNPAIRED, "group": TALK_GROUP}
        del given["prompt"]
    sets = {
        name: read_problems(jsonl(tmp_path / f"{name}.jsonl", *[row] * 4))[0]
        for name, row in given.items()
    }
    labels = {name: sets.pop(name) for name in ("problem", "unpaired")}
    with pytest.raises(ValueError, match="mix: 'label' holds numbers in some"):
        mix_datasets(dict.fromkeys(labels, 1), datasets=labels, test=None)
    sets[labelled] = labels[labelled]
    mixture = mix_datasets(dict.fromkeys(sets, 3), datasets=sets, test=None)
    found = [kind_of(row).name for row in mixture]
    assert {name: found.count(name) for name in found} == dict.fromkeys(sets, 3)
    again = read_problems(write_rows(mixture, tmp_path / "m.jsonl"))[0]
    assert again.features == mixture.features
    assert again.to_list() == mixture.to_list()
    other = read_problems(jsonl(tmp_path / "t.jsonl", PAIR if talk else TALK))[0]
    with pytest.raises(ValueError, match="mix: 'prompt' holds texts in some data sets"):
        mix_datasets({"a": 1, "b": 1}, datasets={"a": mixture, "b": other}, test=None)


@pytest.mark.parametrize("row", [PAIR, TALK, UNPAIRED, TALK_UNPAIRED, GROUP, TALK_GROUP], ids=str)
def test_a_test_question_in_the_prompt_of_answers_is_found_and_taken_out(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    asked = "Ann buys 2 pens at $3 each. What does she pay?"
    hidden = {**row, "prompt": f"Think: {asked}" if row["prompt"] == "2 + 3 =" else [user(asked)]}
    test = read_problems(jsonl(tmp_path / "test.jsonl", {**GSM, "question": asked}))[0]
    train = read_problems(jsonl(tmp_path / "a.jsonl", row, hidden, row))[0]
    with pytest.raises(ValueError, match="1 of 3 rows ask a question of the test"):
        mix_datasets({"mine": 3}, datasets={"mine": train}, test=test)
    assert without_test_rows(train, test).to_list() == [train[0], train[2]]


def test_the_expected_answer_of_a_sample_is_the_better_or_the_best_one() -> None:
    tokenizer = with_template(new_tokenizer())
    rows = [PAIR, TALK, GROUP, TALK_GROUP, UNPAIRED, TALK_UNPAIRED]
    shown = show_samples(tokenizer, rows, samples=6)
    wanted = [(sample["question"], sample["wanted"]) for sample in shown._samples]
    assert wanted == [("2 + 3 =", " 5"), ("What is 2 + 3?", "It is 5.")] * 3


def test_a_trainer_is_given_the_kinds_that_it_takes_and_no_others() -> None:
    counted: set[str] = set()
    found = given_row(WHOLE, where="row 0", counted=counted, kinds=["preference"])
    assert found == {**TALK, "source": ""}
    with pytest.raises(
        ValueError, match=r"row 0: a row of the kind 'problem'; .*trains preference"
    ):
        given_row(OWN, where="row 0", counted=counted, kinds=["preference"])
    with pytest.raises(ValueError, match=r"row 0: a row of the kind 'preference'; "):
        tokenize_problems([PAIR], new_tokenizer())


def test_no_module_but_the_kinds_and_their_readers_names_their_columns() -> None:
    """A new kind of row is one entry: code that mixes, compares or shows rows lists no kinds."""
    names = {column for kind in KINDS.values() for column in kind.told_by} - {"question"}
    folder = Path(kinds.__file__).parent
    for path in (folder / "mixtures.py", folder / "contamination.py", folder / "problems.py",
                 folder / "table.py", folder.parent / "training" / "callbacks.py"):  # fmt: skip
        code = re.sub(r'""".*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        found = {name for name in names if re.search(rf'["\']{name}["\']', code)}
        allowed = {"prompt", "completion", "messages"} if path.name == "callbacks.py" else set()
        assert found <= allowed, path
