"""Training resumes from the newest complete checkpoint of its own run, and mixes no two runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import PROBLEMS, cut, emptied, trainer, weights

from mathsft.training import checkpoints, persist
from mathsft.training.checkpoints import checkpoint_problem, write_manifest


def adapter(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def interrupt_in_step_four(ours: Any) -> None:
    """Train, and interrupt the run."""
    honest, calls = ours.loss_of, iter(range(100))

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return honest(*args, **kwargs)

    ours.loss_of = interrupted
    with pytest.raises(KeyboardInterrupt):
        ours.train(resume_from_checkpoint=True)


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_run(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = weights(training / "checkpoint-6")
    emptied(training / "checkpoint-6" / "optimizer.pt")
    again = trainer(small_model_dir, training)
    again.train(resume_from_checkpoint=True)
    told = capsys.readouterr().out
    assert f"training resumes after step 4 of 6, from {training / 'checkpoint-4'}" in told
    assert weights(training / "checkpoint-6") == wanted


def test_a_run_that_had_ended_gives_its_weights_and_its_log_back(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = trainer(small_model_dir, training)
    again.train(resume_from_checkpoint=True)
    assert "training had ended" in capsys.readouterr().out
    assert again.state.global_step == 6
    assert sum("loss" in row for row in again.state.log_history) == 6
    again.model.save_pretrained(training / "mine")
    assert weights(training / "mine") == weights(training / "checkpoint-6")


def test_without_a_checkpoint_training_starts_and_an_unusable_one_is_named(
    tmp_path: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = trainer(small_model_dir, tmp_path, max_steps=1, save_strategy="no")
    fresh.train(resume_from_checkpoint=True)
    assert "training" not in capsys.readouterr().out
    assert fresh.state.global_step == 1
    (tmp_path / "checkpoint-1").mkdir()
    trainer(small_model_dir, tmp_path, max_steps=1, save_strategy="no").train(True)
    told = capsys.readouterr().out
    assert "checkpoint-1 is skipped: it has no trainer_state.json" in told
    assert "training starts again from step 0" in told


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 2e-3}, "learning_rate 0.001, now 0.002"),
        ({"max_steps": 8}, "max_steps 6, now 8"),
        ({"temperature": 2.0}, "multiple_choice.temperature 1.0, now 2.0"),
        ({"seed": 5}, "seed 0, now 5"),
        ({"problems": PROBLEMS.select(range(1, 40))}, "other training rows"),
        ({"problems": PROBLEMS.shuffle(seed=3)}, "other training rows"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_a_checkpoint_of_another_run_is_not_mixed_in(
    training: Path, small_model_dir: Path, change: Any, named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    other = trainer(small_model_dir, training, **{"save_strategy": "no", **change})
    other.train(resume_from_checkpoint=True)
    told = capsys.readouterr().out
    assert re.search(rf"checkpoint-6 \(and 2 more\) belongs to another run: {named}", told)
    assert "training starts again from step 0" in told
    assert (training / "checkpoint-6").is_dir()


def test_other_weights_at_the_start_are_another_run(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trainer(small_model_dir, training, save_strategy="no", max_steps=6)
    with torch.no_grad():
        next(p for n, p in other.model.named_parameters() if "lora_A" in n).mul_(1.5)
    other.train(resume_from_checkpoint=True)
    assert "other weights at the start" in capsys.readouterr().out
    other = trainer(small_model_dir, training, save_strategy="no", max_steps=6)
    with torch.no_grad():
        other.model.get_base_model().model.norm.weight.mul_(1.5)
    other.train(resume_from_checkpoint=True)
    assert "another base model" in capsys.readouterr().out


def test_the_same_trainer_resumes_although_its_weights_have_changed(
    tmp_path: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell that was interrupted and is run again, in the same kernel."""
    calm = trainer(small_model_dir, tmp_path / "calm")
    calm.train()
    ours = trainer(small_model_dir, tmp_path / "ours")
    interrupt_in_step_four(ours)
    ours.train(resume_from_checkpoint=True)
    assert "training resumes after step 2 of 6" in capsys.readouterr().out
    ends = [tmp_path / name / "checkpoint-6" for name in ("calm", "ours")]
    assert weights(ends[0]) == weights(ends[1])


@pytest.mark.slow
def test_a_new_trainer_resumes_with_a_model_whose_weights_have_changed(
    tmp_path: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the cell with the trainer is run again; the model is the interrupted one."""
    trainer(small_model_dir, tmp_path / "calm").train()
    ours = trainer(small_model_dir, tmp_path / "ours")
    interrupt_in_step_four(ours)
    for told in ("training resumes after step 2 of 6", "training had ended"):
        again = trainer(small_model_dir, tmp_path / "ours", model=ours.model)
        again.train(resume_from_checkpoint=True)
        assert told in capsys.readouterr().out
    ends = [tmp_path / name / "checkpoint-6" for name in ("calm", "ours")]
    assert weights(ends[0]) == weights(ends[1])

    # Training it further on purpose is another run, and the first run's result stays.
    further = trainer(small_model_dir, tmp_path / "ours", model=ours.model)
    further.train()
    assert weights(tmp_path / "ours" / "checkpoint-6") != weights(ends[0])
    fresh = trainer(small_model_dir, tmp_path / "ours")
    fresh.train(resume_from_checkpoint=True)
    assert "training had ended" in capsys.readouterr().out
    fresh.model.save_pretrained(tmp_path / "mine")
    assert weights(tmp_path / "mine") == weights(ends[0])


@pytest.mark.slow
def test_after_another_setting_the_first_setting_finds_its_result_again(
    tmp_path: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive = tmp_path / "drive"
    drive.mkdir()
    first = None
    for rate in (1e-3, 2e-3, 1e-3):
        keeping = persist.persist(tmp_path / "run", drive)
        ours = trainer(small_model_dir, tmp_path / "run", learning_rate=rate, callbacks=[keeping])
        capsys.readouterr()
        ours.train(resume_from_checkpoint=True)
        first = first or adapter(ours.model)
    assert "training had ended" in capsys.readouterr().out
    assert all(torch.equal(p, first[n]) for n, p in adapter(ours.model).items())
    (aside,) = drive.glob("run/run-*")
    assert checkpoint_problem(aside / "checkpoint-6") is None


def test_other_quantisation_is_another_run(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trainer(small_model_dir, training, save_strategy="no", quantize=True)
    other.train(resume_from_checkpoint=True)
    assert "quantize False, now True" in capsys.readouterr().out


def test_a_save_that_fails_leaves_the_former_one_of_that_number(
    training: Path, small_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights(training / "checkpoint-2")

    def full(checkpoint: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("mathsft.training.writing.write_manifest", full)
    with pytest.raises(OSError, match=r"checkpoint-2 could not be written: No space left"):
        trainer(small_model_dir, training).train()
    assert checkpoint_problem(training / "checkpoint-2") is None
    assert weights(training / "checkpoint-2") == before
    assert not list(training.glob(".checkpoint-*"))


@pytest.mark.parametrize("keeping", [True, False], ids=["persist", "save_total_limit"])
def test_the_best_checkpoint_stays_and_is_what_a_finished_run_gives_back(
    keeping: bool, tmp_path: Path, small_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("./run")
    settings: dict[str, Any] = {
        "eval_problems": PROBLEMS.select(range(8)), "eval_strategy": "steps", "eval_steps": 2,
        "load_best_model_at_end": True, "metric_for_best_model": "eval_loss",
        "greater_is_better": True,  # the worst, so that it is not the last
        "callbacks": [persist.persist(folder, keep=1)] if keeping else [],
        "save_total_limit": None if keeping else 1, "output_dir": "./run",
    }  # fmt: skip
    first = trainer(small_model_dir, folder, **settings)
    first.train()
    assert first.state.best_global_step < 6
    assert (folder / f"checkpoint-{first.state.best_global_step}").is_dir()
    again = trainer(small_model_dir, folder, **settings)
    again.train(resume_from_checkpoint=True)
    wanted = adapter(first.model)
    assert all(torch.equal(p, wanted[n]) for n, p in adapter(again.model).items())


def test_a_longer_run_can_resume_from_the_path_of_a_shorter_one(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = trainer(small_model_dir, training, max_steps=8, save_strategy="no")
    longer.train(resume_from_checkpoint=training / "checkpoint-6")
    assert "training resumes after step 6 of 6" in capsys.readouterr().out
    assert longer.state.global_step == 8


def test_a_path_is_taken_as_given_unless_it_is_not_whole(
    training: Path, small_model_dir: Path
) -> None:
    cut(training / "checkpoint-4" / "optimizer.pt")
    ours = trainer(small_model_dir, training)
    with pytest.raises(ValueError, match=r"4 is not a complete checkpoint: optimizer\.pt"):
        ours.train(resume_from_checkpoint=training / "checkpoint-4")
    with pytest.raises(ValueError, match=r"checkpoint-9 .* there is no such folder"):
        ours.train(resume_from_checkpoint=training / "checkpoint-9")
    ours.train(resume_from_checkpoint=str(training / "checkpoint-2"))
    assert ours.state.global_step == 6


def test_an_adapter_that_would_load_only_in_part_is_an_error(
    training: Path, small_model_dir: Path
) -> None:
    from safetensors.torch import load_file, save_file

    path = training / "checkpoint-4" / "adapter_model.safetensors"
    state = load_file(path)
    state.pop(next(iter(state)))
    save_file(state, path, metadata={"format": "pt"})
    write_manifest(training / "checkpoint-4")
    with pytest.raises(ValueError, match="1 tensors are on one side only"):
        trainer(small_model_dir, training).train(training / "checkpoint-4")


def test_older_checkpoints_are_removed_only_when_the_new_one_is_complete(
    tmp_path: Path, small_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = trainer(small_model_dir, tmp_path, save_total_limit=1)
    real = checkpoints.write_manifest
    there: list[list[str]] = []

    def looked_at(checkpoint: Path) -> None:
        there.append(sorted(p.name for p in tmp_path.glob("checkpoint-*")))
        real(checkpoint)

    monkeypatch.setattr("mathsft.training.writing.write_manifest", looked_at)
    ours.train()
    assert there == [
        ["checkpoint-2"],
        ["checkpoint-2", "checkpoint-4"],
        ["checkpoint-4", "checkpoint-6"],
    ]
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]
    assert ours.args.save_total_limit == 1
