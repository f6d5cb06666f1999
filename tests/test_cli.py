"""The command line: one line for each mistake, and the functions' own results."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from result_rows import result
from transformers import TrainingArguments

from mathsft import cli, compare, load_problems, load_recipe
from mathsft.recipes.sections import NOT_KEYS, recipe_sections
from mathsft.training.arguments import refused_arguments


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the message of a failing command line, without a line that quiet() may cause."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    assert stop.value.code not in (0, None)
    return capsys.readouterr().err + (stop.value.code if isinstance(stop.value.code, str) else "")


def options(*arguments: str, command: str = "sft") -> dict[str, dict[str, Any]]:
    """The sections that a training command reads from these arguments."""
    run, about = cli.COMMANDS[command]
    return next(run(about, arguments)).read(arguments)[0]


def test_help_lists_every_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    listed = re.findall(r"^  (\S+) +(\S.*)$", capsys.readouterr().out, re.MULTILINE)
    assert [name for name, _ in listed] == list(cli.COMMANDS)


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_has_help_with_its_functions_options(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    told = {
        "sft": ["--sft.learning_rate", "--model.lora", "--train.source", "--freeze.patterns",
                "shuffle all usable rows", "--sft.eval_steps", "--resume"],
        "multiple-choice": ["--multiple_choice.temperature", "--add_choices.seed"],
        "mix": ["--mix.parts", "--mix.datasets"],
        "evaluate": ["--num_fewshot", "worked examples before each question"],
        "watch": ["--timeout", "seconds without a new finished checkpoint"],
        "estimate-memory": ["--device", "tokens of a question with all its choices"],
    }  # fmt: skip
    for words in told.get(command, []):
        assert words in printed, words


def test_overrides_win_over_later_files_and_files_over_defaults(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("sft: {learning_rate: 1e-5, num_train_epochs: 3}\nmodel: {lora: {r: 4}}\n")
    read = options("--config", "t4", "--config", str(mine), "--sft.num_train_epochs", "5")
    # The order on the command line does not matter.
    line = ("--sft.num_train_epochs", "5", "--config=t4", "--config", str(mine))
    assert options(*line) == read
    assert read["sft"]["learning_rate"] == 1e-5
    assert read["sft"]["num_train_epochs"] == 5
    assert read["model"]["name"] == "Qwen/Qwen2.5-0.5B"
    assert read["model"]["lora"] == {"r": 4}
    assert read["sft"]["step_rows"] == 16  # the recipe's
    assert read["sft"]["max_grad_norm"] == 0.3  # the function's


def test_the_recipe_of_this_machine_is_used_if_none_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["sft", "--print_config"])
    assert "source: tiny-gsm" in capsys.readouterr().out


def test_a_printed_config_can_be_loaded_and_sets_no_extra_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["sft", "--config", "tiny", "--sft.weight_decay", "0.1", "--print_config"])
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    recipe = load_recipe(printed)
    assert recipe["sft"]["weight_decay"] == 0.1
    assert recipe["model"]["lora"] is True
    # The defaults of a library would override the values that fit this machine.
    assert not {"use_cpu", "bf16", "fp16", "adam_beta1"} & recipe["sft"].keys()
    assert "persist" not in recipe
    assert options("--config", str(printed)) == options(
        "--config", "tiny", "--sft.weight_decay", "0.1", "--model.lora", "true"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sft", "--sft.learning_rat", "1"], ["sft.learning_rat", "'sft.learning_rate'"]),
        (["sft", "--modle.name", "x"], ["'model.name'"]),
        (["sft", "--sft.learning_rate", "fast"], ["sft.learning_rate", "a number", "fast"]),
        (["sft", "--train.limit", "2.5"], ["train.limit", "a whole number", "2.5"]),
        (["sft", "--config", "tinny"], ["'tinny'", "'tiny'"]),
        (["sft", "--train.source", "gsm9k"], ["'gsm9k'", "'gsm8k'"]),
        (["sft", "--sft.hub_token", "x"], ["sft.hub_token"]),
        (["sft", "--sft.loss_type", "dft"], ["sft.loss_type would change nothing", "own"]),
        (["sft", "--freeze.but", "*norm*"], ["freeze.patterns is missing"]),
        (["sft", "--resume", "true"], ["--output_dir"]),
        (["mix"], ["mix.parts is missing"]),
        (["mix", "--mix.total", "5"], ["mix.parts is missing"]),
        (["describe", "--foo", "1"], ["'foo'"]),
        (["sft", "--show_samples.samples", "2"], ["show_samples", "eval_strategy"]),
        (["evaluate", "--model", "tiny", "--task", "x"], ["'task'", "'tasks'"]),
        (["compare", "nowhere.json"], ["nowhere.json", "no such file"]),
        (["evaluate", "--model", "tiny", "--base", "."], ["--base .", "found 0"]),
        (["sft", "--sft.save_only_model", "true"], ["nothing to resume from"]),
        (["estimate-memory", "t5"], ["'t5'", "'t4'"]),
        (["course", "--lessons", "[01_sf]"], ["'01_sf'", "'01_sft'"]),
        (["sfd"], ["'sfd'", "'sft'"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_nearest(
    arguments: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MATHSFT_RUNS", str(tmp_path))
    if arguments[0] == "sft" and "--config" not in arguments:
        arguments = ["sft", "--config", "tiny", *arguments[1:]]
    said = fails(capsys, *arguments)
    for word in words:
        assert word in said
    assert len([line for line in said.splitlines() if "mathsft" in line]) == 1, said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sft: {learning_rat: 1}", ["mine.yaml", "sft.learning_rat", "'learning_rate'"]),
        ("sft: {learning_rate: fast}", ["mine.yaml", "sft.learning_rate", "'fast'"]),
        ("sfd: {learning_rate: 1}", ["mine.yaml", "'sfd'", "'sft'"]),
        ("mix: {parts: {a: 1}, datasets: {a: {sourc: b}}}", ["mix.datasets.a", "'source'"]),
        ("train: {source: tiny-gsm}\ntest: {limit: 3}", ["test.source is missing"]),
        ("sft: {save_strategy: no}", ["mine.yaml", "sft.save_strategy", "quotes"]),
        ("model: {revision: 2024-05-05}", ["mine.yaml", "model.revision", "quotes"]),
        ("train: {source: tiny-gsm, limit: true}", ["mine.yaml", "train.limit", "number", "True"]),
        ("sft: {learning_rate: [1]}", ["mine.yaml", "sft.learning_rate", "one value", "[1]"]),
        ("model: {quantize: 3}", ["mine.yaml", "model.quantize", "true or false", "3"]),
        ("sft: {completion_only_loss: false}", ["mine.yaml", "would change nothing"]),
    ],
)
def test_a_mistake_in_a_file_names_file_and_key(
    text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    said = fails(capsys, "sft", "--config", tmp_path / "mine.yaml")
    for word in words:
        assert word in said


def test_every_used_argument_of_the_library_is_an_option() -> None:
    known = recipe_sections()["multiple_choice"]
    arguments = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    missing = {name for name in arguments if name not in known or known[name].refused}
    assert missing == (NOT_KEYS | {*refused_arguments()}) & arguments


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_mix_writes_rows_of_any_kinds_that_load_problems_reads_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    turns = [
        {"role": "user", "content": "How many beads are 3 beads and 4 beads, taken together?"},
        {"role": "assistant", "content": "7"},
    ]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    config = tmp_path / "mine.yaml"
    config.write_text(
        "mix:\n  parts: {grade-school: 30, choices: 19, chats: 1}\n  seed: 3\n  datasets:\n"
        "    grade-school: {source: tiny-gsm}\n    choices: {source: tiny-mathqa, limit: 100}\n"
        f"    chats: {{source: {tmp_path / 'chats.jsonl'}}}\n"
        "test: {source: tiny-gsm, split: test}\n"
    )
    file = tmp_path / f"mixed{suffix}"
    cli.main(["mix", "--config", str(config), "--file", str(file)])
    assert "grade-school 30 (60.0%), choices 19 (38.0%)" in capsys.readouterr().out
    rows = load_problems(file)
    assert len(rows) == 50
    assert sum(bool(row["choices"]) for row in rows) == 19
    assert [row["messages"] for row in rows if row["question"] is None] == [turns]
    assert "exists already" in fails(capsys, "mix", "--config", config, "--file", file)


@pytest.mark.slow
def test_the_compare_command_prints_the_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [result("base", [1, 0, 0, 1] * 10), result("tuned", [1, 1, 0, 1] * 10)]
    paths = [run.save(tmp_path) for run in runs]
    cli.main(["compare", *map(str, paths)])
    assert compare(*runs).line() in capsys.readouterr().out
    cli.main(["compare", str(tmp_path), "--base", "tuned"])
    assert "base against tuned" in capsys.readouterr().out
    cli.main(["compare", str(paths[0])])
    assert "no other run answered these questions" in capsys.readouterr().out
    apart = result("apart", [1, 0, 0], ids=["x", "y", "z"]).save(tmp_path / "apart")
    cli.main(["compare", *map(str, paths), str(apart), "--base", "base"])
    assert "not compared: base answered other questions" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert "no results" in fails(capsys, "compare", tmp_path / "empty")
    assert "'tuned'" in fails(capsys, "compare", tmp_path, "--base", "tund")
    cli.main(["report", str(tmp_path), str(tmp_path / "page.html")])
    assert "tuned" in (tmp_path / "page.html").read_text()


def test_evaluate_watches_and_estimates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "evaluate.yaml"
    config.write_text("model: tiny\ntasks: mathqa_tiny\nlimit: 8\n")
    cli.main(["evaluate", "--config", str(config), "--folder", str(tmp_path / "results")])
    assert "mathqa_tiny: acc" in capsys.readouterr().out
    stored = [json.loads(p.read_text()) for p in (tmp_path / "results").iterdir()]
    assert [len(one["questions"]) for one in stored] == [8]
    cli.main(["watch", "--folder", str(tmp_path / "none"), "--timeout", "0"])
    cli.main(["estimate-memory", "tiny", "--section", "multiple_choice"])
    assert "total" in capsys.readouterr().out
    config.write_text("sft: {per_device_train_batch_size: 2}\n")  # the model is tiny, as in sft
    cli.main(["estimate-memory", str(config)])
    assert "total" in capsys.readouterr().out


def test_a_shell_completes_commands_options_and_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    cli.main(["--completion", "bash"])
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out)
    told = {
        "sf": "sft", "sft --sft.learn": "--sft.learning_rate", "train --objective m":
        "multiple_choice", "sft --sft.eval_strategy s": "steps", "evaluate --tas": "--tasks",
    }  # fmt: skip
    for typed, completed in told.items():
        words = typed.split()
        bash = (
            f"source {script}; COMP_WORDS=(mathsft {typed}); COMP_CWORD={len(words)}; "
            'COMPREPLY=(); _shtab_mathsft; echo "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", bash], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [completed]
    assert "'bash'" in fails(capsys, "--completion", "bsh")


def test_the_module_and_the_script_are_the_command_line() -> None:
    script = Path(sys.executable).parent / "mathsft"
    for start in ([sys.executable, "-m", "mathsft"], [str(script)]):
        done = subprocess.run(
            [*start, "--version"], capture_output=True, text=True, env=os.environ, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("mathsft ")
