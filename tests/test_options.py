"""Options are read by type, from the command line and from YAML; a mistake gives one line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

from mathsft import cli
from mathsft.options import Option, checked, options_of, plain_type


class Strategy(Enum):
    NO = "no"
    STEPS = "steps"


@dataclass
class Inner:
    size: int = 1


def example(
    model: Any,
    count: int,
    *,
    rate: float = 0.5,
    name: str | None = None,
    place: str | Path = "here",
    names: str | Sequence[str] = (),
    parts: dict[str, int] | None = None,
    free: dict[str, Any] | None = None,
    strategy: Strategy | str = "no",
    kind: Literal["one", "two"] = "one",
    lora: bool | dict[str, Any] = False,
    batch: int | str = "auto",
    inner: Inner | None = None,
    many: list[tuple[int, int]] | None = None,
    made: object = None,
    **more: Any,
) -> None:
    """An example.

    Args:
        count: how many.
        rate: how fast,
            and how long.
    """


OPTIONS = options_of(example, skip={"model"})


def from_line(name: str, text: str) -> Any:
    return checked({name: text}, OPTIONS, "--", text=True)[name]


def from_file(name: str, value: Any) -> Any:
    return checked({name: value}, OPTIONS, "mine.yaml: ")[name]


def test_options_are_the_typed_arguments_with_their_help() -> None:
    assert OPTIONS["count"] == Option(int, None, "how many.", required=True)
    assert OPTIONS["rate"] == Option(float, 0.5, "how fast, and how long.")
    assert not {"more", "made", "model"} & OPTIONS.keys()
    assert plain_type(Strategy | str) == Literal["no", "steps"]
    assert plain_type(str | Path | None) == (str | None)
    assert plain_type(Inner | None) == (dict[str, Any] | None)
    assert plain_type(list[tuple[int, int]]) == list[list[int]]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rate", "1e-5", 1e-5), ("count", "1e3", 1000), ("count", "7", 7), ("name", "null", None),
        ("name", "no", "no"), ("name", "2024-05-05", "2024-05-05"), ("names", "a,b", ["a", "b"]),
        ("names", "[a, b]", ["a", "b"]), ("names", "a", "a"),
        ("names", r".*\.\d{1,2}\.q_proj", r".*\.\d{1,2}\.q_proj"),
        ("parts", "{a: 1, b: 2}", {"a": 1, "b": 2}),
        ("free", "{a: 1e-5, b: {c: 1e-6, d: 'no'}}", {"a": 1e-5, "b": {"c": 1e-6, "d": "no"}}),
        ("strategy", "no", "no"), ("lora", "yes", True), ("lora", "{r: 8}", {"r": 8}),
        ("batch", "auto", "auto"), ("batch", "8", 8), ("inner", "{size: 3}", {"size": 3}),
        ("many", "[[1, 2]]", [[1, 2]]),
    ],
)  # fmt: skip
def test_a_text_of_a_line_is_read_by_its_type(name: str, text: str, value: Any) -> None:
    assert from_line(name, text) == value
    assert type(from_line(name, text)) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("count", 2.5, "count: a whole number is expected, found 2.5"),
        ("count", "2.5", "count: a whole number is expected, found the text '2.5'"),
        ("count", True, "count: a whole number is expected, found True"),
        ("count", None, "count: a whole number is expected, found None"),
        ("rate", "fast", "rate: a number is expected, found the text 'fast'"),
        ("rate", [0.5], "rate: one value is expected (a number), found the list [0.5]"),
        ("name", False, "put it in quotes"),
        ("strategy", False, "one of no, steps is expected, found False"),
        ("strategy", "stepss", "did you mean 'steps'"),
        ("kind", "tow", "did you mean 'two'"),
        ("lora", "yes", "lora: true or false or a mapping is expected, found the text 'yes'"),
        ("lora", 3, "lora: true or false or a mapping is expected, found 3"),
        ("parts", {"a": "many"}, "parts: a mapping or null is expected"),
        ("contn", 1, "unknown key 'contn'"),
    ],
)
def test_a_value_of_another_type_is_an_error_with_file_and_key(
    name: str, value: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        from_file(name, value)
    assert str(error.value).startswith(f"mine.yaml: {name}")


def test_a_whole_number_of_a_file_stays_one() -> None:
    assert isinstance(from_file("rate", 2), int)
    assert isinstance(from_file("rate", "2"), float)
    assert isinstance(from_file("count", 2.0), int)


def test_a_text_inside_a_mapping_of_a_file_stays_text_unless_it_is_a_number() -> None:
    assert from_file("free", {"a": "no", "b": "1e-5"}) == {"a": "no", "b": 1e-5}


def test_what_is_inside_a_mapping_is_checked_by_its_own_options() -> None:
    inside = {
        "lora": Option(bool | dict[str, Any], inside={"r": Option(int), "alpha": Option(float)})
    }
    assert checked({"lora": {"r": "8"}}, inside, "") == {"lora": {"r": 8}}
    with pytest.raises(ValueError, match=r"x: lora\.alpa: unknown key 'alpa'.*'alpha'"):
        checked({"lora": {"alpa": 8}}, inside, "x: ")
    with pytest.raises(ValueError, match=r"lora\.r=-1: give"):
        checked({"lora": {"r": -1}}, inside, "")


def line(*arguments: str, command: str = "sft") -> tuple[dict[str, Any], dict[str, Any]]:
    run, about = cli.COMMANDS[command]
    return next(run(about, arguments)).read(arguments)


def test_flags_lists_and_shorthands_are_written_as_one_would_type_them() -> None:
    assert line("--resume", "--output_dir", "a")[1] == {"resume": True, "output_dir": "a"}
    assert line("--resume=true")[1] == line("--resume", "true")[1] == {"resume": True}
    assert line("--resume", "false")[1] == {"resume": False}
    assert line("--model.quantize", "--check")[0]["model"]["quantize"] is True
    assert line("--max_steps", "3")[0]["sft"]["max_steps"] == 3
    assert line("--early_stopping_patience", "2")[0]["sft"]["early_stopping_patience"] == 2
    tasks = line("--model", "tiny", "--tasks", "a,b", command="evaluate")[1]["tasks"]
    assert tasks == ["a", "b"]
    assert line("--lessons", "01_sft", command="course")[1]["lessons"] == "01_sft"


def test_lora_takes_every_field_of_pefts_config_with_dots() -> None:
    sections = line(
        "--model.lora.use_dora", "true", "--model.lora.target_modules", "all-linear",
        "--model.lora.modules_to_save", "a,b", "--model.lora.r", "4",
        "--model.lora.rank_pattern", "{q_proj: 2}",
        "--model.lora.init_lora_weights", "pissa_niter_4",
    )[0]  # fmt: skip
    assert sections["model"]["lora"] == {
        "use_dora": True, "target_modules": "all-linear", "modules_to_save": ["a", "b"], "r": 4,
        "rank_pattern": {"q_proj": 2}, "init_lora_weights": "pissa_niter_4",
    }  # fmt: skip


def test_a_key_inside_a_mapping_is_set_without_its_neighbours(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("sft: {fsdp_config: {version: 2, a: {b: 1}}}\nmodel: {lora: {r: 2}}\n")
    assert line("--sft.fsdp_config.a", "false")[0]["sft"]["fsdp_config"] == {"a": False}
    assert line("--mix.parts.b.jsonl", "9")[0]["mix"]["parts"] == {"b.jsonl": 9}
    where = "mix.datasets.c.source"
    assert line(f"--{where}", "9", "--mix.parts", "{c: 1}")[0]["mix"]["datasets"] == {
        "c": {"source": "9"}
    }
    sections = line(
        "--config", str(mine), "--sft.fsdp_config.a.c", "1e-5", "--model.lora.seed", "3"
    )[0]
    assert sections["sft"]["fsdp_config"] == {"version": 2, "a": {"b": 1, "c": 1e-5}}
    assert sections["model"]["lora"] == {"r": 2, "seed": 3}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.lora.use_dorra", "true"], "did you mean 'use_dora'"),
        (["--learning_rat", "1"], "did you mean 'learning_rate'"),
        (["--train.limit"], "--train.limit: a value is expected, found nothing"),
        (["--model.quantize", "maybe"], "--model.quantize: true or false is expected"),
        (["tiny"], "'tiny' has no option's name before it"),
        (["--sft", "3"], "--sft: null leaves the section out; to give a key: --sft.KEY"),
        (["--model.name.x", "3"], "unknown option 'model.name.x'"),
        (["--config"], "--config: a file is expected"),
        (
            ["--sft.reference", "adapter_off"],
            "would change nothing: sft compares with no reference",
        ),
    ],
)
def test_a_mistake_on_a_line_is_one_line_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        line(*arguments)
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
