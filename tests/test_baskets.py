"""Prompt baskets as files, and their answers as rows to train on."""

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from mathsft.data.given import given_row
from mathsft.data.local_files import write_rows
from mathsft.data.problems import load_problems
from mathsft.generation.baskets import BasketPrompt, basket_rows, read_basket

pytestmark = pytest.mark.same_everywhere

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "one", "system_prompt": None, "follow_up_prompt": None},
    {"id": "b", "prompt": " two\n", "system_prompt": "be brief", "follow_up_prompt": ["x", "y"]},
    {"id": "c", "prompt": "[3]", "system_prompt": None, "follow_up_prompt": ["z"]},
]
READ = [
    BasketPrompt("a", ("one",)),
    BasketPrompt("b", (" two\n", "x", "y"), "be brief"),
    BasketPrompt("c", ("[3]", "z")),
]


def test_every_kind_of_file_gives_the_same_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    frame = pandas.DataFrame(ROWS)
    frame.to_parquet(tmp_path / "a.parquet")
    texts = frame["follow_up_prompt"].map(lambda cell: json.dumps(cell) if cell else "")
    frame.assign(follow_up_prompt=texts).to_csv(tmp_path / "a.csv", index=False)
    for suffix in ("json", "jsonl", "parquet", "csv"):
        assert read_basket(tmp_path / f"a.{suffix}") == READ, suffix
    assert read_basket(ROWS) == READ
    assert "without an id" not in capsys.readouterr().out


def test_missing_ids_are_numbers_and_columns_that_are_not_read_are_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"q": "one", "answer": "1"}, {"q": "two", "answer": None, "id": "b"}]
    found = read_basket(rows, columns={"prompt": "q"})
    assert [prompt.id for prompt in found] == [0, "b"]
    told = capsys.readouterr().out
    assert (
        "2 prompts; 1 without an id, which is the row's number; not read: column 'answer'" in told
    )
    follow = read_basket([{"prompt": "one", "follow_up_prompt": "two"}])
    assert follow == [BasketPrompt(0, ("one", "two"))]


BAD = [
    ([], "there are no prompts"),
    ([{"question": "one"}], "row 0: column 'prompt' is missing"),
    ([{"prompt": None}], "row 0: empty prompt"),
    ([{"prompt": "  "}], "row 0: empty prompt"),
    ([{"prompt": 3}], "'prompt': expected text, found int"),
    ([{"prompt": float("nan")}], "'prompt': expected text, found float"),
    ([{"prompt": [{"role": "user", "content": "x"}]}], "'prompt': expected text, found list"),
    ([{"prompt": "\ud83d"}], "half a character"),
    ([{"prompt": "x", "id": True}], "row 0, column 'id': expected text or a whole number"),
    ([{"prompt": "x", "id": 1.5}], "row 0, column 'id': expected text or a whole number"),
    ([{"prompt": "x", "id": 1}, {"prompt": "y", "id": 1}], "rows 0 and 1 have the same id, 1"),
    ([{"prompt": "x", "id": 1}, {"prompt": "y"}], "rows 0 and 1 have the same id, 1"),
    ([{"prompt": "x", "system_prompt": 4}], "'system_prompt': expected text, found int"),
    ([{"prompt": "x", "follow_up_prompt": ["y", 3]}], "'follow_up_prompt': expected a text or a"),
    ([{"prompt": "x", "follow_up_prompt": ["y", ""]}], r"empty follow_up_prompt\[1\]"),
    (["x"], "expected a row"),
    ({"prompt": ["x"]}, "rows are expected, found a mapping"),
    (3, "rows are expected, found 3"),
]


@pytest.mark.parametrize(("rows", "message"), BAD)
def test_bad_rows_are_named(rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_basket(rows)


def test_an_id_that_equals_a_later_rows_number_is_refused() -> None:
    with pytest.raises(ValueError, match="same id, 1"):
        read_basket([{"prompt": "x", "id": 1}, {"prompt": "y"}])
    with pytest.raises(ValueError, match=r"column of a basket 'promt'.*did you mean 'prompt'"):
        read_basket(ROWS, columns={"promt": "q"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file holds no rows"),
        (b'{"prompt": "x"', "row 1: not a whole JSON object"),
        (b'{"prompt": "\xff"}\n', "not UTF-8"),
        (b'{"prompt": "x", "id": 1' + b"0" * 5000 + b"}\n", "row 1: not usable as JSON"),
        (b'{"prompt": "x", "prompt": "y"}\n', "key 'prompt' twice"),
        (b"[1]\n", "expected an object"),
    ],
)
def test_a_broken_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "basket.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"basket\.jsonl.*{message}"):
        read_basket(path)
    with pytest.raises(IsADirectoryError):
        read_basket(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_basket(tmp_path / "none.jsonl")


def line(key: Any = "a", *answers: str, ends: Any = "stop", **more: Any) -> dict[str, Any]:
    talk = [{"role": "system", "content": "s"}] if more.pop("system", False) else []
    places = []
    for number, answer in enumerate(answers):
        talk += [{"role": "user", "content": f"q{number}"}]
        talk += [{"role": "assistant", "content": answer}]
        places.append(len(talk) - 1)
    return {
        "id": key, "sample": 0, "conversation": talk, "generated_message_indices": places,
        "finish_reasons": [ends] * len(places), "prompt_tokens": [], "completion_tokens": [],
        **more,
    }  # fmt: skip


def test_answers_become_rows_that_load_problems_and_the_trainers_read(tmp_path: Path) -> None:
    lines = [line("a", "one"), line("b", "one", "two"), line("c", "three", system=True)]
    for kind, read in (("chat", {"chat"}), ("prompt", {"prompt", "chat"})):
        rows = basket_rows(lines, kind=kind)  # type: ignore[arg-type]
        assert [row["id"] for row in rows] == ["a", "b", "c"]
        for row in rows:
            given_row(row, where="row", counted=set(), kinds=read)
    texts, *chats = basket_rows(lines, kind="prompt")
    assert texts == {"id": "a", "sample": 0, "prompt": "q0", "completion": "one"}
    assert chats[0]["prompt"] == lines[1]["conversation"][:3]
    assert chats[0]["completion"] == [{"role": "assistant", "content": "two"}]
    file = write_rows(basket_rows(lines), tmp_path / "chats.jsonl")
    found = load_problems(file)
    assert [row["messages"] for row in found] == [row["conversation"] for row in lines]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"conversation": None}, "do not fit together"),
        ({"conversation": [{"role": "user"}]}, "do not fit together"),
        ({"generated_message_indices": [7]}, "do not fit together"),
        ({"generated_message_indices": ["1"]}, "do not fit together"),
        ({"finish_reasons": []}, "do not fit together"),
        ({"finish_reasons": [None]}, "do not fit together"),
    ],
)
def test_a_line_that_was_not_written_here_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"answers, row 1: .*{message}"):
        basket_rows([line("a", "x"), {**line("b", "y"), **changed}])
    for name in changed:
        short = {key: value for key, value in line("b", "y").items() if key != name}
        with pytest.raises(ValueError, match=f"row 0: column '{name}' is missing"):
            basket_rows([short])


def test_a_file_that_holds_something_else_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "x"}\n')
    with pytest.raises(ValueError, match="holds something else than answers to a prompt basket"):
        basket_rows(file)
    with pytest.raises(FileNotFoundError):
        basket_rows(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match=r"unknown kind 'chats'.*did you mean 'chat'"):
        basket_rows(file, kind="chats")  # type: ignore[arg-type]
    begin = json.dumps({"kind": "answers to a prompt basket", "settings": {}})
    for bad in ('{"id": "a"}', '{"id": "a", "sample": 0}\n{"id": "a", "sample": 0}', "{", "3"):
        file.write_text(f"{begin}\n{bad}\n")
        with pytest.raises(ValueError, match=r"a\.jsonl, line [23]"):
            basket_rows(file)


def test_rows_of_a_file_are_counted_as_their_reader_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "basket.jsonl"
    for second, told in (
        ('{"question": "y"}', "row 2: column 'prompt' is missing"),
        ('{"prompt": "y", "id": 1.5}', "row 2, column 'id'"),
        ('{"prompt": "y", "id": 0}', "rows 1 and 2 have the same id, 0"),
    ):
        path.write_text('{"prompt": "x"}\n' + second, encoding="utf-8")
        with pytest.raises(ValueError, match=told):
            read_basket(path)
