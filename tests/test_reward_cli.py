"""A reward model is trained by a YAML file, and its adapter can be loaded and used."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipe_lines import mathsft_

from mathsft.models.adapters import load_adapter
from mathsft.models.reward_head import load_reward_model

pytestmark = pytest.mark.usefixtures("runs")  # run folders are in a temporary folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Eight pairs, two to each prompt, some with a margin; the tiny model, three steps."""
    rows = [
        {"prompt": f"{n // 2} + 1 =", "chosen": f" {n // 2 + 1}", "rejected": f" {n + 5}"}
        | ({"margin": 0.5} if n < 4 else {})
        for n in range(8)
    ]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "reward.yaml"
    settings = {"max_steps": 3, "logging_steps": 1, "center_rewards_coefficient": 0.01}
    sections: dict[str, Any] = {
        "model": {"name": "tiny"}, "train": {"source": str(pairs)}, "reward_model": settings
    }  # fmt: skip
    path.write_text(yaml.safe_dump(sections))
    return path


def history(run: Path) -> list[dict[str, float]]:
    lines = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [line for line in lines if "loss" in line]


def test_a_yaml_file_trains_a_reward_model(
    runs: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mathsft_("train", "--objective", "reward_model", "--config", recipe)
    run = runs / "reward-model-1"
    shown = capsys.readouterr().out
    assert "tiny: the head score is new" in shown
    assert "load_reward_model('tiny'); model = load_adapter(model, " in shown
    logged = history(run)
    # A new head says nearly the same of both answers; half of the pairs have a margin of 0.5.
    chance = (math.log(2) + math.log(1 + math.exp(0.5))) / 2
    assert logged[0]["loss"] == pytest.approx(chance, abs=0.02)
    assert {"accuracy", "margin", "mean_reward", "min_reward", "max_reward"} <= logged[0].keys()
    recorded = yaml.safe_load((run / "config.yaml").read_text())
    assert recorded["reward_model"]["center_rewards_coefficient"] == 0.01
    model, _ = load_reward_model("tiny", device="cpu")
    assert load_adapter(model, run / "adapter").score.modules_to_save.default.weight.any()


@pytest.mark.slow
def test_without_an_adapter_a_full_reward_model_is_saved(
    runs: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mathsft_("train", "--objective", "reward_model", "--config", recipe, "--model.lora", "false")
    saved = runs / "reward-model-1" / "model"
    assert f"load_reward_model({str(saved)!r})" in capsys.readouterr().out
    model, _ = load_reward_model(saved, device="cpu")
    assert model.config.num_labels == 1


def test_check_marks_the_token_at_which_the_reward_is_read(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mathsft_("train", "--objective", "reward_model", "--config", recipe, "--check")
    shown = capsys.readouterr().out
    assert shown.split("\nrow 1, ")[1].split("\n\n")[0].splitlines() == [
        "2 answers, margin [0.5, 0.0]",
        "0| +| |1| =| |1⟦<|endoftext|>⟧<|endoftext|>",
        "… 5⟦<|endoftext|>⟧<|endoftext|>",
    ]


def test_a_wrong_value_ends_with_one_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ("--center_rewards_coefficient", "-1")
    with pytest.raises(SystemExit) as stop:
        mathsft_("train", "--objective", "reward_model", "--config", recipe, *wrong)
    said = capsys.readouterr().err if stop.value.code == 2 else str(stop.value.code)
    assert "center_rewards_coefficient=-1.0: give 0 or more" in said
