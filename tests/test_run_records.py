"""Records of former versions still resume, and a base that differs anywhere is another one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import trainer
from transformers import TrainingArguments

from mathsft.models.loading import load_model
from mathsft.training.checkpoints import write_manifest

# What was recorded of the small training before everything counted.
FORMER = {
    "learning_rate": 0.001, "lr_scheduler_type": "SchedulerType.LINEAR",
    "lr_scheduler_kwargs": None, "warmup_steps": 0.03, "max_steps": 6, "num_train_epochs": 1.0,
    "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "seed": 0,
    "data_seed": None, "optim": "OptimizerNames.ADAMW_TORCH", "optim_args": None,
    "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-08,
    "max_grad_norm": 1.0, "neftune_noise_alpha": None, "label_smoothing_factor": 0.0,
    "train_sampling_strategy": "random", "processes": 1, "trainer": "MultipleChoiceTrainer",
    "max_length": 256, "normalization": "none", "temperature": 1.0, "r": 4, "lora_alpha": 32,
    "lora_dropout": 0.05, "use_rslora": False, "use_dora": False, "bias": "none",
    "rank_pattern": "{}", "alpha_pattern": "{}", "modules_to_save": None,
    "target_modules": [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    ],
    "quantize": False,
}  # fmt: skip


def rewrite(training: Path, settings: dict[str, Any]) -> None:
    for checkpoint in training.glob("checkpoint-*"):
        run = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
        pad = run["settings"]["pad_token_id"]
        base = {key: run["base"][key] for key in ("name", "architecture", "samples")}
        run |= {"settings": {**settings, "pad_token_id": pad}, "base": base}
        (checkpoint / "run.json").write_text(json.dumps(run), encoding="utf-8")
        write_manifest(checkpoint)


def test_a_checkpoint_of_a_former_version_is_gone_on_from(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(training, FORMER)
    trainer(small_model_dir, training).train(resume_from_checkpoint=True)
    out = capsys.readouterr().out
    assert "training had ended" in out, out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lr_scheduler_type": "SchedulerType.COSINE"}, "lr_scheduler_type SchedulerType.COSINE"),
        ({"optim": "OptimizerNames.SGD"}, "optim OptimizerNames.SGD, now adamw_torch"),
        ({"rank_pattern": "{'q_proj': 2}"}, "rank_pattern {'q_proj': 2}, now {}"),
        ({"a_setting_that_is_gone": 3}, "a_setting_that_is_gone 3, now None"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_former_record_holds_must_still_be_so(
    training: Path, small_model_dir: Path, change: Any, told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rewrite(training, {**FORMER, **change})
    trainer(small_model_dir, training, save_strategy="no").train(resume_from_checkpoint=True)
    assert f"belongs to another run: {told}" in capsys.readouterr().out


def test_a_setting_that_only_another_version_knows_is_no_difference_where_it_is_off(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(training, {**FORMER, "kasa_config_of_tomorrow": None})
    trainer(small_model_dir, training).train(resume_from_checkpoint=True)
    out = capsys.readouterr().out
    assert "training had ended" in out, out


def test_a_frozen_base_that_differs_in_one_number_is_another_one(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trainer(small_model_dir, training, save_strategy="no")
    weight = other.model.get_base_model().model.layers[1].mlp.up_proj.base_layer.weight
    with torch.no_grad():
        weight[3, 5] += 0.5  # none of the sampled places
    other.train(resume_from_checkpoint=True)
    assert "belongs to another run: another base model" in capsys.readouterr().out


def test_the_same_base_in_another_dtype_is_the_same(
    training: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Colab may give another card, which wants another precision."""
    model, _ = load_model(small_model_dir, lora={"r": 4}, dtype="bfloat16", device="cpu")
    first = dict(load_model(small_model_dir, lora={"r": 4}, device="cpu")[0].named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:  # peft draws them in the base's dtype, so rounds them
            parameter.data.copy_(first[name].data)
    again = trainer(small_model_dir, training, model=model)
    again.train(resume_from_checkpoint=True)
    out = capsys.readouterr().out
    assert "training had ended" in out, out


def test_no_setting_that_used_to_count_is_left_out_now() -> None:
    """The former list is a part of today's: no setting that counted has been lost."""
    from mathsft.training.runs import WITHOUT_EFFECT

    names = set(TrainingArguments.__dataclass_fields__)
    assert not (FORMER.keys() & names) & WITHOUT_EFFECT
