"""The data of a recipe is read and checked before a model is loaded, and no part is left out."""

import json
from pathlib import Path
from typing import Any

import pytest
from problem_rows import jsonl
from recipe_lines import SHORT, TINY, mathsft_

pytestmark = pytest.mark.usefixtures("runs")  # runs are saved in a temporary folder


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["--train.source", "tiny-gsm", "--mix.parts", "{tiny-gsm: 3}"], "mix and train both say"),
        (["--mix.parts", "{tiny-gsm: 3}", "--train.limit", "9"], "mix and train both say"),
        (
            ["--mix.parts.a", "2", "--mix.datasets.a", "{source: a.jsonl, streaming: true}"],
            "mix: a: a stream cannot be counted or drawn from. Read it without streaming",
        ),
        (
            ["--train.source", "a.jsonl", "--train.streaming", "true", "--add_choices.seed", "1"],
            "add_choices: a stream cannot be counted",
        ),
    ],
    ids=["both", "a key of none", "a part that streams", "choices for a stream"],
)
def test_data_that_contradicts_itself_is_refused_in_words(
    line: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    jsonl(
        tmp_path / "a.jsonl", *[{"question": f"{n}?", "answer": "One.\n#### 1"} for n in range(9)]
    )
    with pytest.raises(SystemExit) as ended:
        mathsft_("sft", *TINY, *line, "--check")
    assert told in f"{ended.value}{capsys.readouterr().err}"


@pytest.mark.usefixtures("no_weights")
def test_a_part_of_which_only_settings_are_given_is_read_by_its_name(capsys: Any) -> None:
    settings = ["--mix.parts", "{tiny-gsm: 10}", "--mix.datasets.tiny-gsm.limit", "50"]
    mathsft_("sft", *TINY, *settings, "--check")
    assert "tiny-gsm/train: 50 rows read" in capsys.readouterr().out


@pytest.mark.usefixtures("no_weights")
def test_a_stream_is_compared_with_the_test(tmp_path: Path, capsys: Any) -> None:
    rows = [{"question": f"{n}?", "answer": f"It is {n}.\n#### {n}"} for n in range(9)]
    train, test = jsonl(tmp_path / "a.jsonl", *rows), jsonl(tmp_path / "test.jsonl", *rows[:2])
    data = ["--train.source", train, "--train.streaming", "true", "--test.source", test]
    mathsft_("sft", *TINY, *data, "--check")
    printed = capsys.readouterr().out
    assert "2 of 9 rows left out" in printed
    assert "train: 7 documents" in printed


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    "mistake",
    [
        ["--train.source", "nowhere.jsonl"],
        ["--test.source", "nowhere.jsonl"],
        ["--show_samples.samples", "2"],
        ["--early_stopping_patience", "2"],
        ["--sft.eval_strategy", "epoch", "--test", "null"],
        ["--mix.parts", "{tiny-gsm: 3}", "--mix.total", "5"],
        ["--model.name", "nowhere/at-all/there"],
    ],
    ids=lambda mistake: mistake[0],
)
def test_data_is_read_and_checked_before_a_model_is_loaded(mistake: list[str], runs: Path) -> None:
    with pytest.raises(SystemExit):
        mathsft_("sft", *SHORT, *mistake)
    assert not runs.exists()


@pytest.mark.usefixtures("no_weights")
def test_a_test_is_of_the_split_test_if_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`load_problems` reads training rows by default, and a new source drops the recipe's split."""
    mathsft_("sft", *SHORT, "--test.source", "tiny-gsm", "--check")
    assert "tiny-gsm/test: 8 rows read" in capsys.readouterr().out
    mathsft_("sft", *SHORT, "--test.source", "tiny-gsm", "--test.split", "validation", "--check")
    assert "tiny-gsm/validation: 8 rows read" in capsys.readouterr().out
    row = {"question": "How many are 1 + 1?", "answer": "1 + 1 = 2\n#### 2"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row))
    mathsft_("sft", *SHORT[:4], "--test.source", tmp_path / "mine.jsonl", "--check")
    assert "mine.jsonl: 1 rows read" in capsys.readouterr().out


@pytest.mark.usefixtures("no_weights")
def test_rows_of_another_kind_are_refused_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chats.jsonl").write_text(json.dumps({"prompt": "1 + 1 =", "completion": " 2"}))
    with pytest.raises(SystemExit, match="has no choices to train"):
        mathsft_("multiple-choice", "--choices_train.source", tmp_path / "chats.jsonl")
    assert "choices: the recipe's section is left out" in capsys.readouterr().err
