"""Chats and prompts as rows: every published form, counted drops, and errors that name faults."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_rows import chat
from datasets import Dataset
from hub import LocalHub, local_hub  # noqa: F401  (local_hub is a fixture)
from made_rows import multiple_choice_rows
from problem_rows import GSM, jsonl

from mathsft.data.chat import CHAT_FEATURES, PROMPT_FEATURES
from mathsft.data.choices import add_choices
from mathsft.data.contamination import overlap, without_test_rows
from mathsft.data.mixtures import mix_datasets
from mathsft.data.problems import load_problems, read_problems

CHAT = chat("What is 2 + 3?", "It is 5.", system="Be brief.")
TEXT = {"prompt": "2 + 3 =", "completion": " 5\n"}
ASKED = "Ann buys 2 pens at $3 each. What does she pay?"


def split(row: dict[str, Any]) -> dict[str, Any]:
    """TRL's conversational form, with the last turn in its own column."""
    return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_messages_and_prompts_are_read_from_every_format_and_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    path = tmp_path / f"mine{suffix}"
    for given, features, wanted in (
        (CHAT, CHAT_FEATURES, {**CHAT, "trained_from": 0, "source": path.name}),
        (
            {**CHAT, "trained_from": None},
            CHAT_FEATURES,
            {**CHAT, "trained_from": 0, "source": path.name},
        ),
        (split(CHAT), CHAT_FEATURES, {**CHAT, "trained_from": 2, "source": path.name}),
        ({**TEXT, "source": "book"}, PROMPT_FEATURES, {**TEXT, "source": "book"}),
    ):
        rows = Dataset.from_list([given])
        rows.to_parquet(path) if suffix == ".parquet" else rows.to_json(path, lines="l" in suffix)
        found = load_problems(path)
        assert found.features == features
        assert found.to_list() == [wanted]
        assert capsys.readouterr().out == f"{path.name}: 1 rows read, 1 kept\n"
        found.to_json(tmp_path / "again.jsonl")
        assert read_problems(tmp_path / "again.jsonl")[0].to_list() == [wanted]


def test_a_chat_that_keeps_the_columns_it_was_made_of_is_a_chat(tmp_path: Path) -> None:
    row = {"source": "olympiads", "problem": "…", "solution": "…", "question": "…", **CHAT}
    assert read_problems(jsonl(tmp_path / "a.jsonl", row))[0].features == CHAT_FEATURES


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "without an assistant turn"),
        ({"messages": None}, "without an assistant turn"),
        (chat("What?"), "without an assistant turn"),
        (chat("What?", " "), "with an empty assistant turn"),
        (chat("What?", "Five.", "", "Yes."), "with an empty user turn"),
        ({"messages": CHAT["messages"][2:]}, "whose first turn is not the user's"),
        ({"messages": CHAT["messages"] + CHAT["messages"]}, "with a system turn after the first"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "with content that is not text (image_url)",
        ),
    ],
)
def test_a_conversation_that_teaches_nothing_is_dropped_counted_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any], reason: str
) -> None:
    path = jsonl(tmp_path / "a.jsonl", CHAT, row, CHAT, row)
    assert len(load_problems(path)) == 2
    shown = f"a.jsonl: 4 rows read, 2 kept; dropped 2: {reason} (rows 2, 4)\n"
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (CHAT, {"messages": "hi"}, "row 2, column 'messages': expected a list of messages, "),
        (CHAT, {"text": "hi"}, "row 2: column 'messages' is missing; the row has 'text'"),
        (CHAT, {"messages": ["hi"]}, "row 2, messages[0]: expected {'role': …, 'content': …}"),
        (
            CHAT,
            {"messages": [{"from": "human", "text": "hi"}]},
            "row 2, messages[0]: column 'role' is missing; the row has 'from', 'text'",
        ),
        (
            CHAT,
            {"messages": [{"role": "human", "content": "hi"}]},
            "messages[0]: unknown role 'human': known are system, user, assistant (human is user)",
        ),
        (
            CHAT,
            {"messages": [{"role": "user", "content": ["hi"]}]},
            "row 2, messages[0], column 'content': expected text, found list",
        ),
        (TEXT, {"prompt": "2 + 2 ="}, "row 2: column 'completion' is missing"),
        (TEXT, split(CHAT), "row 2, column 'prompt': expected text, found list"),
        (split(CHAT), TEXT, "row 2, column 'prompt': expected a list of messages, found str"),
    ],
)
def test_rows_of_another_form_name_file_row_and_turn(
    tmp_path: Path, good: dict[str, Any], bad: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_problems(jsonl(tmp_path / "a.jsonl", good, bad))


def test_readings_and_choices_are_refused_for_chats(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", CHAT)
    with pytest.raises(ValueError, match="reading='clean' is for MathQA's options"):
        load_problems(path, reading="clean", drop_disputed=True)
    rows = load_problems(path)
    with pytest.raises(ValueError, match="problem 0 is a conversation or a prompt"):
        multiple_choice_rows(rows, None)
    with pytest.raises(ValueError, match="question"):
        add_choices(rows)


def test_an_empty_column_does_not_make_a_mixture(tmp_path: Path) -> None:
    chats = [{**CHAT, "system": None}, {**CHAT, "messages": None, "question": "1 + 1?"}]
    with pytest.raises(ValueError, match="no usable row"):
        read_problems(jsonl(tmp_path / "c.jsonl", chats[1]))
    rows, dropped = read_problems(jsonl(tmp_path / "d.jsonl", *chats))
    assert (rows.features, len(rows)) == (CHAT_FEATURES, 1)
    assert sum(dropped.values()) == 1
    row = {"question": "1 + 1?", "solution": None, "answer": "1 + 1 = 2\n#### 2"}
    with pytest.raises(ValueError, match="'choices' is missing"):
        read_problems(jsonl(tmp_path / "g.jsonl", row))


def test_problems_chats_and_prompts_mix_and_a_mixture_mixes_again(tmp_path: Path) -> None:
    sets = {
        "sums": read_problems("tiny-gsm", limit=30)[0],
        "chats": read_problems(jsonl(tmp_path / "c.jsonl", *[CHAT] * 20))[0],
        "texts": read_problems(jsonl(tmp_path / "t.jsonl", *[TEXT] * 10))[0],
    }
    mixture = mix_datasets({"sums": 15, "chats": 10, "texts": 5}, datasets=sets, test=None)
    kinds = ["chat" if row["messages"] else "text" if row["prompt"] else "sum" for row in mixture]
    assert {kind: kinds.count(kind) for kind in kinds} == {"sum": 15, "chat": 10, "text": 5}
    again = mix_datasets(
        {"all": 20, "sums": 5}, datasets={"all": mixture, "sums": sets["sums"]}, test=None
    )
    assert again.features == mixture.features
    with pytest.raises(ValueError, match="is a conversation or a prompt, and has no choices"):
        add_choices(mixture)
    with pytest.raises(ValueError, match="'odd' is not in the schema of load_problems"):
        mix_datasets({"odd": 1}, datasets={"odd": mixture.add_column("x", kinds)}, test=None)


@pytest.mark.parametrize("where", ["problem", "turn", "wrapped turn", "wrapped prompt"])
def test_a_test_question_is_found_in_turns_and_prompts_and_taken_out(
    tmp_path: Path, where: str
) -> None:
    test = read_problems(jsonl(tmp_path / "test.jsonl", {**GSM, "question": ASKED}))[0]
    hidden = {
        "problem": {**GSM, "question": ASKED},
        "turn": chat("Hello there", "Hi.", ASKED.upper(), "It is 6."),
        "wrapped turn": chat(f"Solve this: {ASKED} Think first.", "It is 6."),
        "wrapped prompt": {"prompt": f"### Question:\n{ASKED}\n", "completion": "6"},
    }[where]
    other = {"problem": GSM, "wrapped prompt": TEXT}.get(where, CHAT)
    train = read_problems(jsonl(tmp_path / "train.jsonl", other, hidden, other))[0]
    with pytest.raises(ValueError, match="1 of 3 rows ask a question of the test"):
        mix_datasets({"mine": 3}, datasets={"mine": train}, test=test)
    clean = without_test_rows(train, test)
    assert clean.to_list() == [train[0], train[2]]
    mix_datasets({"mine": 2}, datasets={"mine": clean}, test=test)
    assert overlap(train, test, n=4).touched("n-grams") == [True]


def test_other_numbers_or_signs_in_a_longer_turn_are_another_question(tmp_path: Path) -> None:
    test = [{"question": "What is the value of 3 + 2 - 1?"}]
    train = jsonl(tmp_path / "a.jsonl", chat("So, what is the value of 3 - 2 + 1? Tell me.", "2."))
    assert len(without_test_rows(read_problems(train)[0], test)) == 1


def test_any_data_set_of_the_hub_is_read_by_its_name(
    local_hub: LocalHub,  # noqa: F811
    tmp_path: Path,
) -> None:
    folder = local_hub.folder("datasets", "someone/chats-2.5") / "data"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([CHAT] * 3), folder / "test-00000-of-00001.parquet")
    done = local_hub.python(
        "import json\nfrom mathsft.data.problems import load_problems\n"
        "rows = load_problems('someone/chats-2.5', split='test', limit=2)\n"
        "print(json.dumps(rows.to_list()))\n"
        "try:\n    load_problems('someone/nothing')\n"
        "except ConnectionError as error:\n    print(error)\n",
        home=tmp_path / "home",
    )
    assert done.returncode == 0, done.stderr
    said, rows, missing = done.stdout.strip().split("\n", 2)
    assert said == ("someone/chats-2.5/test: 2 rows read, 2 kept; 2 taken, reading stopped there")
    assert json.loads(rows) == [{**CHAT, "trained_from": 0, "source": "someone/chats-2.5"}] * 2
    assert missing.startswith("someone/nothing (split train) could not be loaded from the hub")


def test_a_path_that_leads_nowhere_is_no_data_set_of_the_hub() -> None:
    with pytest.raises(ValueError, match="did you mean 'gsm8k'"):
        load_problems("openai/gsm8k")
    with pytest.raises(FileNotFoundError):
        load_problems("data/train.jsonl")
    with pytest.raises(ValueError, match=r"cannot read \.txt"):
        load_problems("data/train.txt")
