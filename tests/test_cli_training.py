"""Training by the command line: what a run folder holds, and that it can repeat the run."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mathsft import cli, load_adapter, load_model
from mathsft.record import git_revision

SHORT = ["--config", "tiny", "--sft.max_steps", "4", "--train.limit", "60", "--test.limit", "12"]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MATHSFT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def mathsft(*arguments: object) -> None:
    cli.main([str(argument) for argument in arguments])


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_a_run_folder_says_what_the_run_was_made_from(runs: Path) -> None:
    mathsft("sft", *SHORT, "--sft.seed", "3")
    config = yaml.safe_load((runs / "sft-1" / "config.yaml").read_text())
    assert config["sft"]["seed"] == 3
    assert config["sft"]["max_grad_norm"] == 0.3  # a default, resolved
    assert config["model"]["lora"] is True
    assert "output_dir" not in config
    environment = json.loads((runs / "sft-1" / "environment.json").read_text())
    assert environment["seed"] == 3
    assert environment["processes"] == 1
    assert environment["threads"] == torch.get_num_threads()
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["revision"] == git_revision()
    assert environment["resolved"]["dtype"] == "float32"
    assert environment["resolved"]["optim"] == "adamw_torch"
    log = json.loads((runs / "sft-1" / "trainer_state.json").read_text())
    assert log["global_step"] == 4


def test_the_revision_is_that_of_the_checkout() -> None:
    home = Path(__file__).parent
    done = subprocess.run(
        ["git", "-C", str(home), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    assert str(git_revision()).startswith(done.stdout.strip())


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["sft", *SHORT, "--show_samples.samples", "1", "--sft.eval_strategy", "steps",
         "--sft.eval_steps", "2"],
        ["multiple-choice", "--config", "tiny", "--multiple_choice.max_steps", "3",
         "--choices_train.limit", "80", "--choices.limit", "20"],
    ],
    ids=["sft", "multiple-choice"],
)  # fmt: skip
def test_a_runs_config_repeats_it_to_the_bit(arguments: Sequence[str], runs: Path) -> None:
    mathsft(*arguments)
    name = arguments[0]
    mathsft(name, "--config", runs / f"{name}-1" / "config.yaml")
    assert equal(adapter(runs / f"{name}-1"), adapter(runs / f"{name}-2"))
    first, again = (
        yaml.safe_load((runs / f"{name}-{n}" / "config.yaml").read_text()) for n in (1, 2)
    )
    assert first == again
    mathsft(name, "--config", runs / f"{name}-1" / "config.yaml", f"--{_section(name)}.seed", "1")
    assert not equal(adapter(runs / f"{name}-1"), adapter(runs / f"{name}-3"))


def _section(command: str) -> str:
    return command.replace("-", "_")


@pytest.mark.slow
def test_a_folder_that_holds_a_run_is_not_written_over(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mathsft("sft", *SHORT, "--output_dir", runs / "mine")
    before = adapter(runs / "mine")
    with pytest.raises(SystemExit, match="already holds a run: --resume true"):
        mathsft("sft", *SHORT, "--output_dir", runs / "mine", "--sft.seed", "2")
    assert equal(before, adapter(runs / "mine"))
    capsys.readouterr()
    mathsft("sft", *SHORT, "--output_dir", runs / "mine", "--resume", "true")
    assert "training had ended" in capsys.readouterr().out
    assert equal(before, adapter(runs / "mine"))
    environment = json.loads((runs / "mine" / "environment.json").read_text())
    assert [start["processes"] for start in environment["resumed"]] == [1]
    with pytest.raises(SystemExit, match=r"other settings \(sft.seed\)"):
        mathsft("sft", *SHORT, "--output_dir", runs / "mine", "--resume", "true", "--sft.seed", "2")


def test_a_mistake_leaves_no_folder_behind(runs: Path) -> None:
    for mistake in (["--train.source", "nowhere.jsonl"], ["--sft.optim", "adamv"]):
        with pytest.raises(SystemExit):
            mathsft("sft", *SHORT, *mistake)
    assert not runs.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        (["--model.quantize", "false", "--model.lora", "false"], "model"),
        (["--model.quantize", "false"], "adapter"),
        (["--model.lora.r", "4"], "adapter"),
    ],
    ids=["full", "lora", "qlora"],
)
def test_full_fine_tuning_lora_and_qlora_by_one_word_each(
    changes: list[str], kept: str, runs: Path
) -> None:
    mathsft("sft", *SHORT, *changes)
    folder = runs / "sft-1" / kept
    if kept == "adapter":
        model: Any = load_adapter(load_model("tiny")[0], folder)
        assert model.peft_config["default"].r == (4 if "4" in changes else 16)
    else:
        model = load_model(folder)[0]
        base = load_model("tiny")[0]
        moved = [
            n
            for (n, a), b in zip(model.named_parameters(), base.parameters(), strict=True)
            if not torch.equal(a, b)
        ]
        assert len(moved) == len(list(base.parameters()))


def test_freezing_by_patterns_trains_the_rest_alone(runs: Path) -> None:
    mathsft(
        "sft", *SHORT, "--model.quantize", "false", "--model.lora", "false",
        "--freeze.patterns", '["*"]', "--freeze.but", '["*.layers.0.mlp.*"]',
    )  # fmt: skip
    trained, base = load_model(runs / "sft-1" / "model")[0], load_model("tiny")[0]
    for (name, a), b in zip(trained.named_parameters(), base.parameters(), strict=True):
        assert torch.equal(a, b) is (".layers.0.mlp." not in name), name


@pytest.mark.slow
def test_several_data_sets_are_mixed_in_one_file(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    lines = [
        {"prompt": f"Count from {n}: ", "completion": f"{n} {n + 1} {n + 2}"} for n in range(20)
    ]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"""
model: {{name: tiny, quantize: true}}
mix:
  parts: {{grade-school: 30, pairs: 20}}
  datasets:
    grade-school: {{source: tiny-gsm}}
    pairs: {{source: {pairs}}}
test: {{source: tiny-gsm, split: test, limit: 10}}
sft: {{max_length: 256, max_steps: 2, eval_strategy: steps, eval_steps: 1, logging_steps: 1}}
show_samples: {{samples: 1, max_new_tokens: 8}}
"""
    )
    mathsft("sft", "--config", config)
    printed = capsys.readouterr().out
    assert "mix: 50 rows, seed 0: grade-school 30 (60.0%), pairs 20 (40.0%)" in printed
    assert "train: 50 documents" in printed
    log = json.loads((runs / "sft-1" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "eval_loss" in entry] == [1, 2]
    assert len((runs / "sft-1" / "samples.jsonl").read_text().splitlines()) == 2


def test_worked_problems_become_choices_where_they_are_asked_for(runs: Path) -> None:
    mathsft(
        "multiple-choice", "--config", "tiny", "--choices_train.source", "tiny-gsm",
        "--choices_train.limit", "60", "--add_choices.seed", "1",
        "--multiple_choice.max_steps", "2",
    )  # fmt: skip
    assert adapter(runs / "multiple-choice-1")
