"""A checkpoint belongs to the same run unless something changes that could change the weights."""

import json
import os
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from small_training import PROBLEMS, trainer
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from trl import SFTConfig

from mathsft.models.computation import adapter_values
from mathsft.models.loading import load_model
from mathsft.training.by_recipe import train_by_recipe
from mathsft.training.runs import WITHOUT_EFFECT, arguments_that_count, run_differences

FIELDS = [field.name for field in fields(TrainingArguments)]
ADAPTER_FIELDS = [field.name for field in fields(LoraConfig)]
# Where an adapter comes from, or which library wrote it.
BOOKKEEPING = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision",
    "runtime_config",
}  # fmt: skip


def another(value: Any) -> Any:
    """Return another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, Enum):
        return next(member for member in type(value) if member is not value)
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, dict):
        return {**value, "other": 1}
    if is_dataclass(value) and not isinstance(value, type):
        first = fields(value)[0].name
        return replace(value, **{first: another(getattr(value, first))})
    if isinstance(value, set | list | tuple):
        return [*value, "other"]
    return "other" if value is None else f"{value}, other"


def arguments(folder: Path, **settings: Any) -> SFTConfig:
    return SFTConfig(output_dir=str(folder), use_cpu=True, bf16=False, **settings)


def run(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a record, as it is read back from its file."""
    base = {"name": "", "samples": {}}
    return json.loads(json.dumps({"settings": settings, "data": "", "start": "", "base": base}))


@pytest.mark.parametrize("name", FIELDS)
def test_every_argument_counts_but_those_known_not_to(name: str, tmp_path: Path) -> None:
    args = arguments(tmp_path)
    before = run(arguments_that_count(args))
    given = {"fsdp_config", "deepspeed", "gradient_checkpointing_kwargs"}
    value = {"a": 1} if name in given else another(getattr(args, name))
    setattr(args, name, value)
    assert bool(run_differences(before, run(arguments_that_count(args)))) is (
        name not in WITHOUT_EFFECT
    )


def test_arguments_that_change_the_weights_are_not_on_the_list() -> None:
    """The names are written out, so that one added to the list by mistake is noticed."""
    counts = {
        "learning_rate", "dataloader_drop_last", "accelerator_config", "optim_target_modules",
        "lr_scheduler_kwargs", "load_best_model_at_end", "metric_for_best_model", "data_seed",
        "greater_is_better", "ignore_data_skip", "neftune_noise_alpha", "use_liger_kernel",
        "average_tokens_across_devices", "parallelism_config", "dataloader_in_order",
    }  # fmt: skip
    assert not counts & WITHOUT_EFFECT
    assert {"output_dir", "hub_token", "report_to", "bf16", "logging_steps"} <= WITHOUT_EFFECT
    newer = {"activation_checkpointing", "activation_checkpointing_kwargs"}  # not in both stacks
    assert set(FIELDS) - newer >= WITHOUT_EFFECT - newer


@pytest.mark.parametrize("name", [field.name for field in fields(AcceleratorConfig)])
def test_every_field_of_the_accelerator_s_configuration_counts(name: str, tmp_path: Path) -> None:
    args = arguments(tmp_path)
    config = args.accelerator_config
    before = run(arguments_that_count(args))
    setattr(config, name, another(getattr(config, name)))
    (told,) = run_differences(before, run(arguments_that_count(args)))
    assert told.startswith(f"accelerator_config.{name} ")


def test_the_steps_of_evaluation_count_if_evaluation_changes_training(tmp_path: Path) -> None:
    steps = {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 4}
    deciding: tuple[dict[str, Any], ...] = (
        {"load_best_model_at_end": True}, {"lr_scheduler_type": "reduce_lr_on_plateau"}, {},
    )  # fmt: skip
    for settings in deciding:
        two, four = (
            run(arguments_that_count(arguments(tmp_path, eval_steps=n, **steps, **settings)))
            for n in (2, 4)
        )
        assert bool(run_differences(two, four)) is bool(settings)


def test_recomputed_activations_that_drop_other_values_count(tmp_path: Path) -> None:
    plain, same, other = (
        run(
            arguments_that_count(
                arguments(
                    tmp_path, gradient_checkpointing=on, gradient_checkpointing_kwargs=dict(kwargs)
                )
            )
        )
        for on, kwargs in (
            (False, {}), (True, {"use_reentrant": False}), (True, {"preserve_rng_state": False}),
        )
    )  # fmt: skip
    assert run_differences(plain, same) == []
    assert run_differences(same, other) == ["preserve_rng_state True, now False"]


@pytest.mark.parametrize("name", ADAPTER_FIELDS)
def test_every_setting_of_an_adapter_counts_but_where_it_is_from(name: str) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"])
    before = run(adapter_values(config))
    setattr(config, name, another(getattr(config, name)))
    assert bool(run_differences(before, run(adapter_values(config)))) is (name not in BOOKKEEPING)


def test_the_order_in_which_modules_were_named_does_not_count() -> None:
    one, two = (
        adapter_values(LoraConfig(target_modules=names))
        for names in (["q_proj", "v_proj"], ["v_proj", "q_proj"])
    )
    assert run_differences(run(one), run(two)) == []


def test_a_secret_is_not_recorded(tmp_path: Path) -> None:
    args = arguments(tmp_path, hub_token="hf_secret")
    assert "hf_secret" not in json.dumps(arguments_that_count(args))


@pytest.mark.slow
def test_a_record_is_the_same_in_every_process(tmp_path: Path, small_model_dir: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; from small_training import trainer\n"
        "from mathsft.training.runs import run_identity\n"
        "ours = trainer(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print('RUN' + json.dumps(run_identity(ours)))"
    )
    found = []
    for seed in ("1", "2"):  # sets have another order
        done = subprocess.run(
            [sys.executable, "-c", code, str(small_model_dir), str(tmp_path / seed)],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.append(next(line for line in done.stdout.splitlines() if line.startswith("RUN")))
    assert found[0] == found[1]
    assert " object at 0x" not in found[0]


def test_a_recipe_with_another_setting_does_not_resume_by_the_command_line(tmp_path: Path) -> None:
    kept = {"model": {"name": "nowhere"}, "sft": {"max_steps": 2}}
    (tmp_path / "config.yaml").write_text(json.dumps(kept), encoding="utf-8")
    changes: tuple[dict[str, Any], ...] = (
        {"dataloader_drop_last": True}, {"accelerator_config": {"split_batches": True}},
    )  # fmt: skip
    for change in changes:
        recipe = {**kept, "sft": {"max_steps": 2, **change}}
        with pytest.raises(ValueError, match=rf"other settings \(sft\.{next(iter(change))}\)"):
            train_by_recipe(recipe, output_dir=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dataloader_drop_last": True}, "dataloader_drop_last False, now True"),
        (
            {"accelerator_config": {"even_batches": False}},
            "accelerator_config.even_batches True, now False",
        ),
        (
            {"accelerator_config": {"use_seedable_sampler": False}},
            "accelerator_config.use_seedable_sampler True, now False",
        ),
        ({"optim_args": "amsgrad=True"}, "optim_args None, now amsgrad=True"),
        ({"use_rslora": True}, "use_rslora False, now True"),
        ({"init_lora_weights": "gaussian"}, "init_lora_weights True, now gaussian"),
        ({"attention_dropout": 0.1}, "config.attention_dropout 0.0, now 0.1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_run_with_another_setting_does_not_resume_from_the_checkpoint(
    training: Path, small_model_dir: Path, change: Any, named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    settings: dict[str, Any] = {"save_strategy": "no", **change}
    adapter = {k: settings.pop(k) for k in ADAPTER_FIELDS if k in settings}
    dropout = settings.pop("attention_dropout", None)
    model, _ = load_model(small_model_dir, lora={"r": 4}, device="cpu")
    if dropout:
        model.config.attention_dropout = dropout
    if adapter:
        config: Any = model.peft_config["default"]
        base, _ = load_model(small_model_dir, device="cpu")
        model = get_peft_model(base, replace(config, **adapter))
    trainer(small_model_dir, training, model=model, **settings).train(resume_from_checkpoint=True)
    told = capsys.readouterr().out
    assert "training starts again from step 0" in told
    assert f"belongs to another run: {named}" in told


def test_a_run_resumes_if_what_changed_does_not_change_the_weights(
    training: Path, small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {
        "logging_steps": 3, "save_steps": 3, "save_total_limit": 1, "run_name": "another",
        "dataloader_num_workers": 1, "gradient_checkpointing": True, "eval_strategy": "steps",
        "eval_steps": 3, "eval_problems": PROBLEMS.select(range(8)),
    }  # fmt: skip
    trainer(small_model_dir, training, **settings).train(resume_from_checkpoint=True)
    assert "training had ended" in capsys.readouterr().out
