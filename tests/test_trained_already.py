"""Weights that were trained before are told when training starts again, with and without files."""

from pathlib import Path
from typing import Any

import pytest
from pair_training import PAIRS
from small_training import PROBLEMS
from transformers import TrainerCallback

from mathsft import load_model, load_problems
from mathsft.objectives.multiple_choice import MultipleChoice
from mathsft.objectives.policy import DrGRPO
from mathsft.objectives.preference import DPO
from mathsft.objectives.sft import SFT
from mathsft.training.make import make_trainer
from mathsft.training.make_rollouts import rollout_trainer

STEPS = 4
TOLD = "these weights have already been trained for"


class Stop(TrainerCallback):
    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise self.error


@pytest.fixture
def model(small_model_dir: Path) -> Any:
    return load_model(small_model_dir, lora={"r": 4}, device="cpu")


def made(given: Any, folder: Path, objective: Any = None, **arguments: Any) -> Any:
    model, tokenizer = given
    objective = objective or MultipleChoice()
    settings = {
        "output_dir": folder, "max_steps": STEPS, "per_device_train_batch_size": 2,
        "disable_tqdm": True, "learning_rate": 1e-3, "max_length": 256, **arguments,
    }  # fmt: skip
    if isinstance(objective, DrGRPO):
        return rollout_trainer(
            model, tokenizer, load_problems("tiny-gsm", limit=8), objective,
            lambda completions, **_: [float(len(text) % 2) for text in completions],
            num_generations=4, max_new_tokens=8, **settings,
        )  # fmt: skip
    rows: dict[str, Any] = {"sft": load_problems("tiny-gsm", limit=40), "dpo": PAIRS}
    return make_trainer(model, tokenizer, rows.get(objective.name, PROBLEMS), objective, **settings)


def stopped(given: Any, folder: Path, error: BaseException, step: int = 2, **more: Any) -> None:
    with pytest.raises(type(error)):
        made(given, folder, callbacks=[Stop(step, error)], **more).train(True)


@pytest.mark.parametrize(
    "objective", [SFT(packing=False), MultipleChoice(), DPO(), DrGRPO()], ids=lambda one: one.name
)
def test_an_interrupt_before_the_first_checkpoint_is_told_when_the_cell_runs_again(
    objective: Any, model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(model, tmp_path, KeyboardInterrupt(), objective=objective)
    assert TOLD not in capsys.readouterr().out
    made(model, tmp_path, objective, max_steps=1).train(resume_from_checkpoint=True)
    out = capsys.readouterr().out
    assert f"{TOLD} 2 steps, the last of them into {tmp_path}; training starts from step 0" in out
    assert "load the model again" in out
    assert out.count(TOLD) == 1


def test_steps_add_up_over_errors_other_folders_and_finished_trainings(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(model, tmp_path / "a", ValueError("of a callback"))
    ours = made(model, tmp_path / "b")
    for former, folder in ((2, "a"), (6, "b"), (10, "b")):  # with the same trainer as well
        capsys.readouterr()
        ours.train()
        steps = f"{TOLD} {former} steps, the last of them into {tmp_path / folder};"
        assert steps in capsys.readouterr().out
    honest = ours.loss_of
    ours.loss_of = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):  # in the first step: no weight has changed
        ours.train()
    assert f"{TOLD} 14 steps" in capsys.readouterr().out
    ours.loss_of = honest
    ours.train()
    assert f"{TOLD} 14 steps" in capsys.readouterr().out


def test_a_resumed_run_and_a_fresh_model_are_not_told(
    model: Any, small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = {"save_strategy": "steps", "save_steps": 1}
    stopped(model, tmp_path, KeyboardInterrupt(), step=3, **keep)
    made(model, tmp_path, **keep).train(resume_from_checkpoint=True)
    fresh = load_model(small_model_dir, lora={"r": 4}, device="cpu")
    made(fresh, tmp_path / "other").train(resume_from_checkpoint=True)
    out = capsys.readouterr().out
    assert "training resumes after step 2 of 4" in out
    assert TOLD not in out


def test_a_run_without_a_step_leaves_no_trace(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = made(model, tmp_path)
    ours.loss_of = lambda *_, **__: 1 / 0
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            ours.train()
    assert TOLD not in capsys.readouterr().out
