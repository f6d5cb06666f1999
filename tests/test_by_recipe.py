"""Training by a recipe: checks before training, `--check`, early stopping, new objectives."""

import gc
import json
import math
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from recipe_lines import SHORT, mathsft_

import mathsft.objectives
from mathsft import load_problems, load_recipe
from mathsft.data.prompts import sft_completion
from mathsft.models.model_files import TINY
from mathsft.models.pretrained import load_tokenizer
from mathsft.recipes.sections import objective_sections, recipe_sections

pytestmark = pytest.mark.usefixtures("runs")  # run folders are in a temporary folder


@pytest.mark.usefixtures("no_weights")
def test_check_shows_which_tokens_are_trained_and_loads_no_weights(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mathsft_("sft", *SHORT, "--check", "--sft.eval_strategy", "epoch")
    out = capsys.readouterr().out
    assert "train: 40 documents" in out
    assert "eval: 8 documents" in out
    assert not runs.exists()
    shown = out.split("\nrow ")[1:]
    assert len(shown) == 3
    end = load_tokenizer(str(TINY), None).eos_token
    for text, row in zip(shown, load_problems("tiny-gsm", limit=3), strict=True):
        marked = text.partition("\n")[2].split("\n")[0]
        trained = "".join(re.findall("⟦(.*?)⟧", marked)).replace("↵", "\n")
        assert trained.strip() == sft_completion(row["solution"], row["answer"]).strip() + end
        others = re.sub("⟦.*?⟧", "", marked).replace("|", "").replace("↵", "\n")
        assert row["question"] in others


@pytest.mark.usefixtures("no_weights")
def test_check_shows_each_choice_once_after_its_question(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mathsft_("multiple-choice", "--config", "tiny", "--choices_train.limit", "20", "--check")
    (first, *_) = load_problems("tiny-mathqa", limit=1)
    out = capsys.readouterr().out.split("\nrow 1, ")[1].split("\nrow ")[0]
    assert out.startswith(f"5 choices, characters {[len(c) for c in first['choices']]}, label ")
    lines = out.splitlines()[1:]
    assert [line.startswith("… ") for line in lines[:5]] == [False] + [True] * 4


@pytest.mark.usefixtures("no_weights")
def test_on_a_terminal_trained_tokens_are_coloured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    mathsft_("sft", *SHORT, "--check")
    assert "\x1b[30;42m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    mathsft_("sft", *SHORT, "--check")
    assert "\x1b[" not in capsys.readouterr().out


def test_training_stops_when_the_test_gets_no_better(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # At a learning rate of 0 the first evaluation is the best; the next two are no better.
    mathsft_(
        "sft", *SHORT, "--learning_rate", "0", "--max_steps", "20", "--eval_strategy", "steps",
        "--eval_steps", "1", "--early_stopping_patience", "2", "--per_device_train_batch_size", "1",
    )  # fmt: skip
    assert "early stopping: after 2 evaluations without a better loss" in capsys.readouterr().out
    state = json.loads((runs / "sft-1" / "trainer_state.json").read_text())
    assert state["global_step"] == 3
    assert Path(state["best_model_checkpoint"]).name == "checkpoint-1"
    recorded = yaml.safe_load((runs / "sft-1" / "config.yaml").read_text())
    assert recorded["sft"]["early_stopping_patience"] == 2
    assert recorded["sft"]["save_strategy"] == "no"  # the given value; the rest follows from it


@pytest.mark.slow
def test_early_stopping_keeps_its_count_after_a_kill_and_ends_once(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = (
        "sft", *SHORT, "--learning_rate", "0", "--max_steps", "20", "--eval_strategy", "steps",
        "--eval_steps", "1", "--early_stopping_patience", "2", "--output_dir", runs / "mine",
        "--per_device_train_batch_size", "1",
    )  # fmt: skip
    mathsft_(*start)
    shutil.rmtree(runs / "mine" / "checkpoint-3")
    capsys.readouterr()
    mathsft_(*start, "--resume")
    assert "training resumes after step 2 of 20" in capsys.readouterr().out
    state = json.loads((runs / "mine" / "trainer_state.json").read_text())
    assert state["global_step"] == 3  # the kill came after one evaluation without a better loss
    mathsft_(*start, "--resume")
    assert "training had ended" in capsys.readouterr().out


NEW = '''
"""An objective of one file."""

from dataclasses import dataclass

from mathsft.objectives.base import Loss
from mathsft.objectives.sft import SFT


@dataclass(frozen=True)
class Weighted(SFT):
    """Cross-entropy times a weight.

    Args:
        weight: what the loss is multiplied with.
    """

    name = "weighted_here"

    weight: float = 1.0

    def loss(self, logprobs, batch):
        return Loss(self.weight * super().loss(logprobs, batch).total)
'''


@pytest.fixture
def one_more_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "objectives"
    folder.mkdir()
    (folder / "weighted_here.py").write_text(NEW)
    monkeypatch.setattr(mathsft.objectives, "__path__", [*mathsft.objectives.__path__, str(folder)])
    caches = (objective_sections, recipe_sections)
    for cached in caches:
        cached.cache_clear()
    yield
    sys.modules.pop("mathsft.objectives.weighted_here", None)
    for cached in caches:
        cached.cache_clear()
    gc.collect()  # the class is found as long as it exists


@pytest.mark.slow
@pytest.mark.usefixtures("one_more_objective")
def test_a_new_objective_is_one_file(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        mathsft_("train", "--objective", "weighted_here", "--help")
    assert "what the loss is multiplied with" in " ".join(capsys.readouterr().out.split())
    mine = tmp_path / "mine.yaml"
    mine.write_text("weighted_here: {weight: 1e-1, max_steps: 2, logging_steps: 1}\n")
    assert load_recipe(mine)["weighted_here"] == {"weight": 0.1, "max_steps": 2, "logging_steps": 1}
    same = ["--max_steps", "1", "--max_length", "256", "--per_device_train_batch_size", "8"]
    same += ["--logging_steps", "1"]
    mathsft_(
        "train", "--objective", "weighted_here", *SHORT, "--config", mine, *same, "--weight", "0.5"
    )
    mathsft_("sft", *SHORT, *same)
    folder = runs / "weighted-here-1"
    config = (folder / "config.yaml").read_text()
    assert config.startswith("# mathsft train --objective weighted_here --config config.yaml")
    assert yaml.safe_load(config)["weighted_here"]["weight"] == 0.5
    half, whole = (
        json.loads((runs / name / "trainer_state.json").read_text())["log_history"][0]["loss"]
        for name in ("weighted-here-1", "sft-1")
    )
    assert half == pytest.approx(whole / 2, abs=1e-4)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        mathsft_("train", "--objective", "weighted_her")
    assert "did you mean 'weighted_here'" in capsys.readouterr().err


def test_pairs_are_trained_by_the_command_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"{n} + 1 =", "chosen": f" {n + 1}", "rejected": f" {n}"} for n in range(8)]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    start = ["train", "--objective", "dpo", "--config", "tiny", "--train.source", pairs]
    mathsft_(*start, "--check")
    told = capsys.readouterr()
    assert "test: the recipe's section is left out" in told.err
    first = told.out.split("\nrow 1, ")[1].split("\nrow ")[0].splitlines()
    assert first[0].startswith("2 answers")
    assert [line for line in first[1:3] if "⟦1⟧" in line or "⟦ 1⟧" in line] == first[1:2]
    mathsft_(*start, "--max_steps", "2", "--beta", "0.5", "--logging_steps", "1")
    log = json.loads((runs / "dpo-1" / "trainer_state.json").read_text())["log_history"]
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)  # the model is its reference
    recorded = yaml.safe_load((runs / "dpo-1" / "config.yaml").read_text())
    assert recorded["dpo"]["beta"] == 0.5
    assert recorded.keys() == {"model", "train", "dpo"}


def test_train_requires_an_objective(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        mathsft_("train", "--config", "tiny")
    assert stop.value.code == 2
    assert "objective is missing: give --objective" in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    mathsft_("--version")
    assert re.fullmatch(r"mathsft \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)
