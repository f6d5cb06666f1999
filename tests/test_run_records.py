"""What a checkpoint records must still be true; a base that differs anywhere is another base."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import trainer
from transformers import TrainingArguments

from mathsft.models.loading import load_model
from mathsft.training.checkpoints import write_manifest

# The arguments that counted before all of them counted.
FORMER = {
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_steps",
    "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "seed",
    "data_seed", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2",
    "adam_epsilon", "max_grad_norm", "neftune_noise_alpha", "label_smoothing_factor",
    "train_sampling_strategy",
}  # fmt: skip


def rewrite(training: Path, change: Callable[[dict[str, Any]], object]) -> None:
    for checkpoint in training.glob("checkpoint-*"):
        run = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
        change(run)
        (checkpoint / "run.json").write_text(json.dumps(run), encoding="utf-8")
        write_manifest(checkpoint)


def test_a_checkpoint_of_a_former_version_is_skipped_and_a_line_says_so(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(training, lambda run: run.pop("format"))
    trainer(small_model_dir, training, save_strategy="no").train(resume_from_checkpoint=True)
    out = capsys.readouterr().out
    assert "it was written by another version of mathsft" in out
    assert "training starts again from step 0" in out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type cosine, now linear"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern {'q_proj': 2}, now {}"),
        ({"multiple_choice.temperature": 2.0}, "multiple_choice.temperature 2.0, now 1.0"),
        ({"objective": "sft"}, "objective sft, now multiple_choice"),
        ({"a_setting_that_is_gone": 3}, "a_setting_that_is_gone 3, now None"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_with_another_recorded_setting_is_not_resumed(
    training: Path, small_model_dir: Path, change: Any, told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rewrite(training, lambda run: run["settings"].update(change))
    trainer(small_model_dir, training, save_strategy="no").train(resume_from_checkpoint=True)
    assert f"belongs to another run: {told}" in capsys.readouterr().out


def test_a_setting_that_only_another_version_knows_is_no_difference_where_it_is_off(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def of_another_library(run: dict[str, Any]) -> None:
        run["settings"]["kasa_config_of_tomorrow"] = None
        del run["settings"]["neftune_noise_alpha"]

    rewrite(training, of_another_library)
    trainer(small_model_dir, training).train(resume_from_checkpoint=True)
    out = capsys.readouterr().out
    assert "training had ended" in out, out


def test_a_frozen_base_that_differs_in_one_number_is_another_one(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trainer(small_model_dir, training, save_strategy="no")
    weight = other.model.get_base_model().model.layers[1].mlp.up_proj.base_layer.weight
    with torch.no_grad():
        weight[3, 5] += 0.5  # not one of the sampled positions
    other.train(resume_from_checkpoint=True)
    assert "belongs to another run: another base model" in capsys.readouterr().out


def test_the_same_base_in_another_dtype_is_the_same(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Colab may give another GPU, which needs another precision."""
    model, _ = load_model(small_model_dir, lora={"r": 4}, dtype="bfloat16", device="cpu")
    first = dict(load_model(small_model_dir, lora={"r": 4}, device="cpu")[0].named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:  # peft draws them in the base's dtype, and so rounds them
            parameter.data.copy_(first[name].data)
    again = trainer(small_model_dir, training, model=model)
    again.train(resume_from_checkpoint=True)
    out = capsys.readouterr().out
    assert "training had ended" in out, out


def test_no_setting_that_used_to_count_is_left_out_now() -> None:
    """The former list is a part of today's: no setting that counted has been lost."""
    from mathsft.training.runs import WITHOUT_EFFECT

    names = set(TrainingArguments.__dataclass_fields__)
    assert not (FORMER & names) & WITHOUT_EFFECT
