"""Each policy objective is trained from a YAML file: on stored answers, and on its own attempts."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipe_lines import mathsft_, printed_recipe

pytestmark = pytest.mark.usefixtures("runs")  # run folders are in a temporary folder

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("reinforce", {}),
    ("reinforce", {"baseline": "batch"}),
    ("rloo", {"beta": 0.05}),
    ("grpo", {"beta": 0.04, "kl_estimator": "k3"}),
    ("grpo", {"importance_sampling_level": "sequence", "scale_rewards": "batch"}),
    ("dr_grpo", {"max_completion_length": 12}),
    ("dapo", {"mask_truncated_completions": True}),
    ("gspo", {}),
    ("cispo", {"epsilon_high": 4.0}),
    ("ppo", {"beta": 0.1, "kl_estimator": "k2"}),
    ("reinforce_pp", {"beta": 0.1}),
    ("gpo", {"beta": 0.04}),
    ("gpo", {"ratio": True, "epsilon": 0.1}),
]


def recipe(folder: Path, objective: str, settings: dict[str, Any], **sections: Any) -> Path:
    path = folder / "mine.yaml"
    steps = {"max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 2}
    given = {"model": {"name": "tiny"}, objective: {**settings, **steps}, **sections}
    path.write_text(yaml.safe_dump(given))
    return path


def groups(folder: Path) -> dict[str, str]:
    lines = [
        {"prompt": f"{n} + 1 =", "completions": [f" {n + 1}", " 0", f" {n}"], "rewards": [1, 0, 0]}
        for n in range(4)
    ]
    path = folder / "groups.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"source": str(path)}


def logged(run: Path) -> list[dict[str, float]]:
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [line for line in history if "loss" in line]


ATTEMPTS = {
    "train": {"source": "tiny-gsm", "split": "train", "limit": 8},
    "rollout": {"num_generations": 4, "max_new_tokens": 24},
    "reward_function": {"name": "length", "target": 2, "max_length": 24},
}


def all_but_two(methods: list[Any]) -> list[Any]:
    """Two methods in the quick tests, all of them in the slow ones."""
    slow = [pytest.param(*one, marks=pytest.mark.slow) for one in methods]
    return [one if one[0] in ("rloo", "dr_grpo") else kept for one, kept in zip(methods, slow)]  # noqa: B905


@pytest.mark.parametrize(("objective", "settings"), all_but_two(METHODS))
def test_stored_answers_train_each_method(
    tmp_path: Path, objective: str, settings: dict[str, Any]
) -> None:
    if settings.get("beta") and "kl_estimator" not in settings and objective != "gpo":
        settings = {**settings, "kl_estimator": "k2"}  # theirs, k1, needs a model's own attempts
    path = recipe(tmp_path, objective, settings, train=groups(tmp_path))
    mathsft_("train", "--objective", objective, "--config", path, "--output_dir", tmp_path / "run")
    assert len(logged(tmp_path / "run")) == 2
    record = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings.items() <= record[objective].items()
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(("objective", "settings"), all_but_two(METHODS))
def test_attempts_train_each_method(
    tmp_path: Path, objective: str, settings: dict[str, Any]
) -> None:
    path = recipe(tmp_path, objective, settings, **ATTEMPTS)
    mathsft_("train", "--objective", objective, "--config", path, "--output_dir", tmp_path / "run")
    lines = logged(tmp_path / "run")
    assert len(lines) == 2
    assert all(line["completions/mean_length"] <= 24 for line in lines)
    assert any(line["grad_norm"] > 0 for line in lines)


@pytest.mark.slow
def test_the_recipe_that_the_documents_print_is_trained(tmp_path: Path) -> None:
    path = tmp_path / "printed.yaml"
    path.write_text(printed_recipe("dr_grpo"))
    line = ["train", "--objective", "dr_grpo", "--config", path, "--model.name", "tiny"]
    line += ["--train.limit", "64", "--test.limit", "8", "--dr_grpo.max_steps", "2"]
    line += ["--dr_grpo.eval_steps", "1", "--dr_grpo.logging_steps", "1"]
    mathsft_(*line, "--output_dir", tmp_path / "run")
    assert len(logged(tmp_path / "run")) == 2
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    assert sum("eval_reward" in entry for entry in history) == 2


def test_the_judge_is_tested_and_prompts_are_shown_before_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {**ATTEMPTS, "reward_function": {"name": "final_answer", "column": "answer"}}
    path = recipe(tmp_path, "grpo", {}, **given)
    line = ("train", "--objective", "grpo", "--config", path)
    mathsft_(*line, "--check", "true")
    told = capsys.readouterr().out
    assert "the model answers them itself" in told
    assert "### Question:" in told
    assert "the judge tells right answers to 8 problems from wrong ones" in told
    told = refused(capsys, *line, "--check", "true", "--reward_function.name", "answer_format")
    assert "unknown setting of the reward 'answer_format'" in told


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command line says; a wrong option goes to stderr, the rest is the exit's text."""
    with pytest.raises(SystemExit) as ended:
        mathsft_(*arguments)
    return f"{ended.value.code} {capsys.readouterr().err}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--reward_function.name", "exact"), "reward_function.name"),
        (("--reward_function.style", "boxed"), "unknown setting of the reward 'length'"),
        (("--rollout.num_generations", "0"), "num_generations"),
        (("--rollout.num_generations", "1"), "needs 2 or more"),
        (("--grpo.kl_estimator", "k4"), "kl_estimator"),
        (("--grpo.eval_strategy", "steps"), "give test.source"),
        (("--server.base_url", "http://localhost:1"), "server.name is missing"),
    ],
)
def test_what_cannot_work_is_said_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    path = recipe(tmp_path, "grpo", {}, **ATTEMPTS)
    line = ("train", "--objective", "grpo", "--config", path)
    assert message in refused(capsys, *line, *arguments)
