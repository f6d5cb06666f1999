"""A second process that lays out the next batches changes nothing about a training."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_training import trainer as rollouts
from small_training import PROBLEMS, trainer, weights

from mathsft.models.loading import load_model
from mathsft.objectives.policy import DrGRPO
from mathsft.training import arguments
from mathsft.training.make import sft_trainer

AHEAD: dict[str, Any] = {"dataloader_num_workers": 1}
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or multiprocessing.get_start_method() != "fork", reason="needs fork"
)


def logged(made: Any) -> list[dict[str, Any]]:
    """The log without its clock."""
    timed = ("runtime", "per_second")
    return [
        {key: value for key, value in line.items() if not key.endswith(timed)}
        for line in made.state.log_history
    ]


def test_adapter_log_and_evaluation_are_the_same_to_the_bit(
    small_model_dir: Path, tmp_path: Path
) -> None:
    """Over several epochs, with dropout, evaluation and accumulated batches."""
    settings: dict[str, Any] = {
        "max_steps": -1, "num_train_epochs": 2, "eval_strategy": "steps", "eval_steps": 4,
        "gradient_accumulation_steps": 3, "eval_problems": PROBLEMS.select(range(10)),
    }  # fmt: skip
    alone = trainer(small_model_dir, tmp_path / "alone", **settings)
    alone.train()
    ahead = trainer(small_model_dir, tmp_path / "ahead", **AHEAD, **settings)
    ahead.train()
    assert ahead.args.dataloader_num_workers == 1
    last = f"checkpoint-{alone.state.global_step}"
    assert weights(tmp_path / "ahead" / last) == weights(tmp_path / "alone" / last)
    assert logged(ahead) == logged(alone)


@pytest.mark.slow
def test_a_run_resumed_with_it_ends_in_the_same_weights(
    small_model_dir: Path, tmp_path: Path
) -> None:
    """Within an epoch of ten steps; begun without, resumed with, and the other way round."""
    trainer(small_model_dir, tmp_path / "whole", max_steps=14).train()
    for first, second in (({}, AHEAD), (AHEAD, {})):
        folder = tmp_path / f"{len(first)}{len(second)}"
        settings = {"max_steps": 14, "save_steps": 7}
        begun = trainer(small_model_dir, folder, **first, **settings)
        begun.train()
        for made in folder.glob("checkpoint-14"):
            made.rename(folder / "done")
        resumed = trainer(small_model_dir, folder, **second, **settings)
        resumed.train(resume_from_checkpoint=True)
        assert weights(folder / "checkpoint-14") == weights(tmp_path / "whole" / "checkpoint-14")


def test_packed_solutions_are_the_same_too(small_model_dir: Path, tmp_path: Path) -> None:
    from mathsft.data.problems import read_problems

    found = []
    for settings in ({}, AHEAD):
        model, tokenizer = load_model(small_model_dir, lora={"r": 4}, device="cpu")
        rows = read_problems("tiny-gsm", limit=60)[0]
        made = sft_trainer(
            model, tokenizer, rows, output_dir=tmp_path, disable_tqdm=True, max_length=256,
            num_train_epochs=2, **settings,
        )  # fmt: skip
        made.train()
        found.append({n: p.detach().clone() for n, p in model.named_parameters()})
    assert all(torch.equal(found[1][name], tensor) for name, tensor in found[0].items())


def test_it_is_used_only_for_a_gpu_and_only_if_processes_are_forked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = arguments._workers
    assert workers(torch.device("cuda")) == 1
    assert workers(torch.device("cpu")) == 0
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: "spawn")
    assert workers(torch.device("cuda")) == 0
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: None)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["forkserver", "fork"])
    assert workers(torch.device("cuda")) == 0  # the default of Python 3.14


def test_attempts_are_not_laid_out_ahead(small_model_dir: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(small_model_dir, lora={"r": 4}, device="cpu")
    made = rollouts(model, tokenizer, DrGRPO(), tmp_path)
    assert made.args.dataloader_num_workers == 0


_INTERRUPTED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from small_training import trainer
from transformers import TrainerCallback

class Ready(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 3:
            os.killpg(0, signal.SIGINT)  # as a terminal's Ctrl-C: the worker gets it as well

made = trainer(Path({model!r}), Path({folder!r}), dataloader_num_workers=1, max_steps=500,
               callbacks=[Ready()])
try:
    made.train()
except KeyboardInterrupt:
    print("interrupted")
import gc, psutil
del made
gc.collect()
print(len(psutil.Process().children()))
"""


@pytest.mark.slow
def test_after_ctrl_c_the_training_is_interrupted_and_no_process_is_left(
    small_model_dir: Path, tmp_path: Path
) -> None:
    code = _INTERRUPTED.format(
        tests=str(Path(__file__).parent), model=str(small_model_dir), folder=str(tmp_path)
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], start_new_session=True, timeout=120,
        capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.stdout.splitlines()[-2:] == ["interrupted", "0"], done.stderr
    assert "Traceback" not in done.stderr
