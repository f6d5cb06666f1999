"""The harness's cache answers only for exactly the same model, tokenizer and settings."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import adapted

from mathsft.evaluation.answer_cache import check_cache, json_answers
from mathsft.evaluation.guards import cache_name
from mathsft.evaluation.harness import ForestLM
from mathsft.evaluation.run import evaluate
from mathsft.models.loading import load_model


def files(folder: Path) -> int:
    return len([*folder.glob("c*.db")])


@pytest.mark.slow
def test_models_that_differ_only_in_lora_alpha_share_no_answers(
    small_model_dir: Path, tmp_path: Path
) -> None:
    _, tokenizer = load_model(small_model_dir, device="cpu")
    cached: dict[str, Any] = {
        "tokenizer": tokenizer, "limit": 3, "use_cache": tmp_path / "c",
    }  # fmt: skip
    first = evaluate(adapted(small_model_dir, lora_alpha=8), "mathqa_tiny", **cached)
    again = evaluate(adapted(small_model_dir, lora_alpha=8), "mathqa_tiny", **cached)
    assert again.scores() == first.scores()
    assert files(tmp_path) == 1
    other = adapted(small_model_dir, lora_alpha=80)
    found = evaluate(other, "mathqa_tiny", **cached)
    assert files(tmp_path) == 2
    assert found.adapter_hash != first.adapter_hash
    assert found.scores() != first.scores()
    assert found.scores() == evaluate(
        other, "mathqa_tiny", tokenizer=tokenizer, limit=3
    ).scores()  # fmt: skip


def test_weights_that_differ_outside_the_samples_are_evaluated_again(
    small_model_dir: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_model(small_model_dir, device="cpu")
    cached: dict[str, Any] = {
        "tokenizer": tokenizer, "limit": 3, "use_cache": tmp_path / "c",
    }  # fmt: skip
    first = evaluate(model, "mathqa_tiny", **cached)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[5] += 1.0
    found = evaluate(model, "mathqa_tiny", **cached)
    assert (files(tmp_path), found.scores() != first.scores()) == (2, True)


def test_an_answer_that_was_stored_is_what_is_given(small_model_dir: Path, tmp_path: Path) -> None:
    """This shows that the tests above can fail: a changed stored answer is returned as it is."""
    import json

    from sqlitedict import SqliteDict

    model, tokenizer = load_model(small_model_dir, device="cpu")
    cached: dict[str, Any] = {
        "tokenizer": tokenizer, "limit": 2, "use_cache": tmp_path / "c",
    }  # fmt: skip
    evaluate(model, "mathqa_tiny", **cached)
    (file,) = tmp_path.glob("c*.db")
    with SqliteDict(str(file), autocommit=True, encode=json.dumps, decode=json.loads) as stored:
        for key in stored:
            stored[key] = (-7.0, False)
    assert {s for row in evaluate(model, "mathqa_tiny", **cached).scores() for s in row} == {-7.0}


def named(model: Any, tokenizer: Any, **arguments: Any) -> str:
    return cache_name(ForestLM(model, tokenizer=tokenizer, **arguments), "w", "a")


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_length": 128}, {"add_bos_token": True}, {"softmax_dtype": "float16"},
        {"mixed_precision_dtype": "bfloat16"}, {"enable_thinking": False},
        {"chat_template_args": {"style": "short"}}, {"prefix_token_id": 3}, {"truncation": True},
        {"think_end_token": "</think>"},
    ],
    ids=lambda arguments: next(iter(arguments)),
)  # fmt: skip
def test_arguments_of_the_harness_model_are_in_the_cache_name(
    small_model_dir: Path, arguments: dict[str, Any]
) -> None:
    model, tokenizer = load_model(small_model_dir, device="cpu")
    assert named(model, tokenizer) == named(model, tokenizer)
    assert named(model, tokenizer, **arguments) != named(model, tokenizer)


def test_tokenizer_template_generation_and_attention_are_in_the_name(
    small_model_dir: Path,
) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    model, tokenizer = load_model(small_model_dir, device="cpu")
    first = named(model, tokenizer)
    templated = load_model(small_model_dir, device="cpu")[1]
    templated.chat_template = "{{ messages }}"
    grown = load_model(small_model_dir, device="cpu")[1]
    grown.add_tokens(["<other>"])
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<pad>": 0, "a": 1}, unk_token="<pad>")),
        pad_token="<pad>", eos_token="<pad>",
    )  # fmt: skip
    names = [named(model, other) for other in (templated, grown, words)]
    model.generation_config.repetition_penalty = 1.1
    names.append(named(model, tokenizer))
    model.generation_config.repetition_penalty = None
    eager, _ = load_model(small_model_dir, attn_implementation="eager", device="cpu")
    names.append(named(eager, tokenizer))
    assert len({first, *names}) == 6
    assert named(load_model(small_model_dir, device="cpu")[0], tokenizer) == first


class Mark:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_a_pickled_answer_is_not_opened(tmp_path: Path) -> None:
    import sqlitedict

    path, mark = tmp_path / "c.db", tmp_path / "it-ran"
    with sqlitedict.SqliteDict(str(path), autocommit=True) as stored:
        stored["a"] = Mark(mark)
    message = r"c\.db holds an answer that this package did not"
    with (
        json_answers(),
        sqlitedict.SqliteDict(str(path)) as stored,
        pytest.raises(ValueError, match=message),
    ):
        stored["a"]
    assert not mark.exists()
    with sqlitedict.SqliteDict(str(path)) as stored:  # outside the block, it would have been
        stored["a"]
    assert mark.exists()


@pytest.mark.parametrize("answer", [(-1.25, True), (-0.1, False), -3.5, "a \u00e9 \n text", ""])
def test_an_answer_is_read_back_as_it_was_written(tmp_path: Path, answer: Any) -> None:
    import sqlitedict

    for _ in range(2):
        with json_answers(), sqlitedict.SqliteDict(str(tmp_path / "c.db")) as stored:
            stored["a"] = answer
            stored.commit()
            assert stored["a"] == answer
            assert type(stored["a"]) is type(answer)
    assert (tmp_path / "c.db").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("value", [[1], {"a": 1}, [True, 1.0], None, [1.0, True, 2]], ids=str)
def test_a_value_that_is_no_answer_is_refused(tmp_path: Path, value: Any) -> None:
    import sqlitedict

    with json_answers(), sqlitedict.SqliteDict(str(tmp_path / "c.db")) as stored:
        stored["a"] = value
        with pytest.raises(ValueError, match="did not write"):
            stored["a"]


@pytest.mark.parametrize("damage", ["cut", "text", "folder", "somebody"])
def test_a_damaged_or_foreign_cache_is_named(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    path = tmp_path / "c.db"
    if damage == "folder":
        path.mkdir()
    else:
        check_cache(path)
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB)")
        rows = [(str(number), "x" * 5000) for number in range(20)]
        connection.executemany("INSERT INTO unnamed VALUES (?, ?)", rows)
        connection.commit()
        connection.close()
        check_cache(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "text":
        path.write_text("no database " * 500)
    elif damage == "somebody":
        monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(ValueError, match=r"use_cache: .*c\.db (cannot be read|is not|belongs to)"):
        check_cache(path)


@pytest.mark.parametrize("given", [["--use_cache", "c"], ["--use_cache=c"], ["-c", "c"]])
def test_the_harness_s_own_command_line_keeps_no_answers_without_their_model(
    monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    from mathsft.lm_eval import main

    monkeypatch.setattr("sys.argv", ["lm_eval", "--model", "mathsft", *given])
    with pytest.raises(SystemExit, match="mathsft evaluate --use_cache"):
        main()


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE history (url TEXT)",
        "CREATE VIEW unnamed AS SELECT 1 AS key, 2 AS value",
        "CREATE TABLE unnamed (a INT)",
        "CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB); "
        "CREATE TRIGGER t AFTER INSERT ON unnamed BEGIN DELETE FROM unnamed; END",
    ],
)
def test_another_program_s_database_is_no_cache_and_stays_as_it_is(
    tmp_path: Path, made: str
) -> None:
    path = tmp_path / "places.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(made)
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"places\.sqlite is no cache of answers"):
        check_cache(path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ValueError, match="link is not a file"):
        check_cache(tmp_path / "link")
    assert path.read_bytes() == before
