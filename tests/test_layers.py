"""A shipped recipe describes a machine: data given by the user replaces its data as a whole."""

from pathlib import Path
from typing import Any

import pytest

from mathsft import cli, load_recipe


def read(*arguments: str, command: str = "sft") -> dict[str, dict[str, Any]]:
    run, about = cli.COMMANDS[command]
    return next(run(about, arguments)).read(arguments)[0]


def given(section: dict[str, Any], *keys: str) -> dict[str, Any]:
    """A section without the values that are only defaults of its function."""
    return {key: section[key] for key in ("source", *keys) if key in section}


def test_a_source_on_the_command_line_drops_the_recipes_limit_and_test(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sections = read("--config", "tiny", "--train.source", "big.jsonl")
    assert load_recipe("tiny")["train"]["limit"] == 1200  # what must not be kept
    assert given(sections["train"], "limit", "seed") == {"source": "big.jsonl"}
    assert "test" not in sections
    told = capsys.readouterr().err
    assert [line.partition(":")[0] for line in told.splitlines()] == ["test"]
    assert "left out, since train is given" in told


def test_without_a_config_the_recipe_of_this_machine_behaves_the_same() -> None:
    assert "test" not in read("--train.source", "big.jsonl")
    assert "limit" not in read("--train.source", "big.jsonl")["train"]


def test_one_changed_key_changes_that_key_alone(capsys: pytest.CaptureFixture[str]) -> None:
    usual, changed = read("--config", "t4"), read("--config", "t4", "--train.limit", "50")
    assert changed["train"] == {**usual["train"], "limit": 50}
    assert {**changed, "train": usual["train"]} == usual
    assert capsys.readouterr().err == ""


def test_the_order_on_the_line_does_not_count() -> None:
    line = [["--train.source", "a.jsonl"], ["--train.limit", "3"], ["--test.limit", "5"]]
    forth, back = (
        read("--config", "t4", *(text for pair in pairs for text in pair))
        for pairs in (line, line[::-1])
    )
    assert forth == back
    assert given(forth["train"], "limit") == {"source": "a.jsonl", "limit": 3}


def test_a_test_section_with_a_given_key_is_kept() -> None:
    sections = read("--config", "t4", "--train.source", "a.jsonl", "--test.limit", "5")
    assert given(sections["test"], "limit") == {"source": "gsm8k", "limit": 5}


def test_a_second_config_with_data_replaces_the_recipes(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("train: {source: a.jsonl}\nsft: {max_steps: 3}\n")
    sections = read("--config", "t4", "--config", str(mine))
    assert given(sections["train"], "limit") == {"source": "a.jsonl"}
    assert "test" not in sections
    assert sections["sft"]["step_rows"] == 16  # from the recipe of the machine
    mine.write_text("train: {source: a.jsonl}\ntest: {source: b.jsonl}\n")
    sections = read("--config", "t4", "--config", str(mine))
    assert given(sections["test"], "limit") == {"source": "b.jsonl"}


def test_a_file_of_ones_own_keeps_its_test(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("train: {source: a.jsonl, limit: 3}\ntest: {source: b.jsonl, limit: 4}\n")
    sections = read("--config", str(mine), "--train.source", "c.jsonl")
    assert given(sections["train"], "limit") == {"source": "c.jsonl"}
    assert given(sections["test"], "limit") == {"source": "b.jsonl", "limit": 4}


def test_null_drops_a_section_on_the_line_and_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "test" in read("--config", "tiny")
    assert "test" not in read("--config", "tiny", "--test", "null")
    mine = tmp_path / "mine.yaml"
    mine.write_text("test: null\nsft: {}\n")
    capsys.readouterr()
    sections = read("--config", "tiny", "--config", str(mine))
    assert capsys.readouterr().err == "test: left out, since it is null\n"
    assert "test" not in sections
    assert sections["sft"] == read("--config", "tiny")["sft"]  # the file sets nothing in it
    assert load_recipe(mine) == {"sft": {}}


def test_a_mixture_takes_the_place_of_the_recipes_data_and_a_source_that_of_a_mixture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = read("--config", "tiny", "--mix.parts", "{a.jsonl: 3}")
    assert sections["mix"]["parts"] == {"a.jsonl": 3}
    assert not {"train", "test"} & sections.keys()
    mine = tmp_path / "mine.yaml"
    mine.write_text("mix: {parts: {a.jsonl: 3, b.jsonl: 4}, seed: 5}\n")
    assert "mix" not in read("--config", str(mine), "--train.source", "c.jsonl")
    assert "mix: the recipe's section is left out" in capsys.readouterr().err
    changed = read("--config", str(mine), "--mix.parts.b.jsonl", "9")["mix"]
    assert changed == {"parts": {"a.jsonl": 3, "b.jsonl": 9}, "seed": 5}
    changed = read("--config", str(mine), "--mix.parts", "{c.jsonl: 9}")["mix"]
    assert changed == {"parts": {"c.jsonl": 9}, "seed": 5}


def test_a_mixture_given_part_by_part_is_one_of_ones_own(tmp_path: Path) -> None:
    line = ("--mix.parts.mine", "20", "--mix.datasets.mine.source", "mine.jsonl")
    sections = read("--config", "t4", *line)
    assert sections["mix"]["parts"] == {"mine": 20}
    assert not {"train", "test"} & sections.keys()


def test_a_later_config_changes_keys_of_the_adapter_not_the_adapter(tmp_path: Path) -> None:
    files = []
    for name, lora in (("a", "{r: 8, lora_alpha: 4}"), ("b", "{use_dora: true, r: 2}")):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(f"model: {{lora: {lora}}}\n")
    sections = read("--config", "tiny", "--config", str(files[0]), "--config", str(files[1]))
    assert sections["model"]["lora"] == {"r": 2, "lora_alpha": 4, "use_dora": True}


def test_choices_are_data_as_well() -> None:
    line = ("--config", "t4", "--choices_train.source", "a.jsonl")
    sections = read(*line, command="multiple-choice")
    assert given(sections["choices_train"], "limit", "reading") == {
        "source": "a.jsonl", "reading": "official",
    }  # fmt: skip
    assert "choices" not in sections
    assert not {"train", "test"} & sections.keys()  # they belong to the other objective
    usual = read("--config", "t4", command="multiple-choice")
    assert {"choices_train", "choices"} <= usual.keys()
