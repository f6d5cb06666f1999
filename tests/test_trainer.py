"""The trainer around the loss: what it logs, and how it leaves the model."""

import time
from pathlib import Path

import pytest
import torch
from made_rows import sft_rows
from transformers import TrainerCallback, TrainingArguments

from mathsft.data.problems import load_problems
from mathsft.models.loading import load_model
from mathsft.training.make import multiple_choice_trainer, sft_trainer


@pytest.fixture
def loaded(small_model_dir: Path):
    return load_model(small_model_dir, lora={"r": 4, "lora_dropout": 0.0}, device="cpu")


@pytest.fixture(scope="module")
def problems():
    return load_problems("tiny-gsm", split="train", limit=6)


def trainer(loaded, problems, folder: Path, **arguments):
    settings = {"max_steps": 2, "logging_steps": 1, "max_length": 512, "disable_tqdm": True}
    return sft_trainer(*loaded, problems, output_dir=folder, **{**settings, **arguments})


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(2, 40)[None]).logits


@pytest.mark.slow
def test_after_mixed_precision_the_model_computes_as_before(loaded, problems, tmp_path) -> None:
    model, _ = loaded
    before = logits(model)
    # Rate 0: the weights stay, so only another precision could give another result.
    ours = trainer(loaded, problems, tmp_path, bf16=True, learning_rate=0.0, eval_problems=problems)
    first = ours.evaluate()["eval_loss"]
    assert torch.equal(logits(model), before)
    mixed: list[bool] = []
    hook = model.get_base_model().model.register_forward_pre_hook(
        lambda *_: mixed.append(torch.is_autocast_enabled("cpu"))
    )
    for _ in range(2):  # the second run uses mixed precision, too
        ours.train()
    assert mixed == [True] * 4
    hook.remove()
    assert torch.equal(logits(model), before)
    assert ours.evaluate()["eval_loss"] == first


@pytest.mark.slow
def test_counters_start_from_zero_and_stop_during_evaluation(loaded, problems, tmp_path) -> None:
    class SlowEvaluation(TrainerCallback):
        pause = 3.0

        def on_prediction_step(self, *args, **kwargs) -> None:
            time.sleep(self.pause)
            self.pause = 0.0

    ours = trainer(
        loaded,
        problems,
        tmp_path,
        eval_problems=problems.select(range(1)),
        eval_strategy="steps",
        eval_steps=1,
        callbacks=[SlowEvaluation()],
    )
    counted = []
    for _ in range(2):
        ours.train()
        first, second = [entry for entry in ours.state.log_history if "num_tokens" in entry]
        counted.append(second["num_tokens"])
        seconds = (second["num_tokens"] - first["num_tokens"]) / second["tokens_per_second"]
        assert seconds < SlowEvaluation.pause  # the evaluation is between the two logs
    assert counted[0] == counted[1] > 0


def test_evaluations_change_nothing_about_a_run_with_dropout(
    small_model_dir, problems, tmp_path
) -> None:
    """Neither the dropout nor the order of the rows, which follow from the random state."""

    def trained(*, evaluated: bool, **arguments) -> list[torch.Tensor]:
        model = load_model(small_model_dir, lora={"r": 4, "lora_dropout": 0.3}, device="cpu")
        ours = trainer(
            model, problems, tmp_path, eval_problems=problems.select(range(2)),
            packing=False, per_device_train_batch_size=2, warmup_steps=0, **arguments,
        )  # fmt: skip
        if evaluated:
            ours.evaluate()
        ours.train()
        return [p.detach() for p in model[0].parameters() if p.requires_grad]

    plain = trained(evaluated=False)
    for other in (
        trained(evaluated=True),
        trained(evaluated=False, eval_strategy="steps", eval_steps=1),
    ):
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


def test_predictions_are_refused_with_a_reason(loaded, problems, tmp_path) -> None:
    with pytest.raises(NotImplementedError, match="no predictions"):
        trainer(loaded, problems, tmp_path).predict(problems)


def test_several_devices_in_one_process_are_refused(
    loaded, problems, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda arguments: 2))
    with pytest.raises(ValueError, match="torchrun"):  # by TRL, if TRL checks it itself
        trainer(loaded, problems, tmp_path)
    questions = load_problems("tiny-mathqa", split="train", limit=2)
    with pytest.raises(ValueError, match=r"2 devices in one process: .* torchrun"):
        multiple_choice_trainer(*loaded, questions, output_dir=tmp_path)


def test_the_fill_is_shown_for_packed_rows_only(loaded, problems, capsys) -> None:
    _, tokenizer = loaded
    sft_rows(problems, tokenizer)
    assert "% full" in capsys.readouterr().out
    sft_rows(problems, tokenizer, packing=False)
    shown = capsys.readouterr().out
    assert "6 documents" in shown
    assert "full" not in shown
