"""An invalid number is refused by name, before anything is loaded or written."""

import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mathsft
from mathsft import cli
from mathsft.checks import check_numbers
from mathsft.course import course
from mathsft.data.mixtures import mix_datasets, training_plan
from mathsft.evaluation.compare import detectable_difference
from mathsft.evaluation.harness import ForestLM
from mathsft.evaluation.intervals import wilson_share
from mathsft.models.forest import TokenForest
from mathsft.recipes import load_recipe
from mathsft.training.by_recipe import train_by_recipe

NAN, INFINITE = math.nan, math.inf
NOT_COUNTS = (0, -1, 2.5, True, NAN, "3")
RATES = (-0.1, NAN, INFINITE, True, "fast")
# Each is called with one bad number only: the other arguments are checked later.
TRAINERS = {
    "max_length": (*NOT_COUNTS, 1), "per_device_train_batch_size": (*NOT_COUNTS, -3),
    "gradient_accumulation_steps": (*NOT_COUNTS, -2), "num_train_epochs": (*RATES, 0, -1),
    "max_steps": (0, -2, 2.5, True, NAN), "learning_rate": RATES, "warmup_steps": RATES,
    "max_grad_norm": RATES, "weight_decay": RATES, "logging_steps": (*RATES, 0, 1.5),
    "save_steps": (*RATES, 0, -5), "eval_steps": (0, -1), "seed": (-1, 0.5, NAN, False),
    "save_total_limit": NOT_COUNTS, "per_device_eval_batch_size": NOT_COUNTS,
    "adam_beta1": (1, -0.1, NAN), "adam_epsilon": (0, -1e-8), "data_seed": (-1,),
    "dataloader_num_workers": (-1, 0.5), "neftune_noise_alpha": (-1, NAN),
}  # fmt: skip


def trained(make: str) -> Any:
    return lambda **bad: getattr(mathsft, make)(None, None, [], output_dir="nowhere", **bad)


FUNCTIONS: dict[str, tuple[Any, dict[str, tuple[Any, ...]]]] = {
    "sft_trainer": (trained("sft_trainer"), TRAINERS),
    "multiple_choice_trainer": (
        trained("multiple_choice_trainer"), {**TRAINERS, "temperature": (*RATES, 0)},
    ),
    "add_adapter": (
        lambda **bad: mathsft.add_adapter(None, **bad),
        {
            "r": NOT_COUNTS, "lora_alpha": (*RATES, 0), "lora_dropout": (1, 1.5, -0.1, NAN),
            "seed": (-1,),
        },
    ),
    "load_model": (
        lambda **bad: mathsft.load_model("nowhere", lora=bad),
        {"r": NOT_COUNTS, "lora_alpha": (0,), "lora_dropout": (1,)},
    ),
    "evaluate": (
        lambda **bad: mathsft.evaluate("nowhere", **bad),
        {
            "limit": (*NOT_COUNTS, 0.1), "num_fewshot": (-1, 0.5, True), "seed": (-1, NAN),
            "batch_size": (*NOT_COUNTS, "many"), "bootstrap_iters": (-1,),
        },
    ),
    "ForestLM": (
        lambda **bad: ForestLM("nowhere", **bad),
        {"batch_size": (0, -1, "-2", 2.5), "max_length": (0, -1, 1)},
    ),
    "watch": (
        lambda **bad: mathsft.watch("nowhere", **bad),
        {"timeout": RATES, "poll": (*RATES, 0), "limit": NOT_COUNTS, "batch_size": (0,)},
    ),
    "choice_logprobs": (
        lambda **bad: mathsft.choice_logprobs(None, None, [], **bad),
        {"batch_size": (*NOT_COUNTS, "auto"), "max_length": NOT_COUNTS},
    ),
    "worked_answers": (
        lambda **bad: mathsft.worked_answers(None, None, [], **bad),
        {"batch_size": (*NOT_COUNTS, "auto"), "max_new_tokens": NOT_COUNTS},
    ),
    "show_samples": (
        lambda **bad: mathsft.show_samples(None, [], **bad),
        {"samples": NOT_COUNTS, "max_new_tokens": NOT_COUNTS},
    ),
    "persist": (
        lambda **bad: mathsft.persist("nowhere", **bad), {"minutes": RATES, "keep": NOT_COUNTS},
    ),
    "load_problems": (
        lambda **bad: mathsft.load_problems("tiny-gsm", **bad),
        {"limit": NOT_COUNTS, "seed": (-1, 0.5, True)},
    ),
    "mix": (
        lambda **bad: mix_datasets({"tiny-gsm": 0.5}, test=None, **bad),
        {"total": NOT_COUNTS, "seed": (-1, True, 0.5)},
    ),
    "training_plan": (
        lambda **bad: training_plan(
            {}, **{"max_steps": 1, "per_device_train_batch_size": 1, **bad}
        ),
        {
            "max_steps": NOT_COUNTS, "per_device_train_batch_size": NOT_COUNTS,
            "gradient_accumulation_steps": NOT_COUNTS, "world_size": NOT_COUNTS,
        },
    ),
    "add_choices": (lambda **bad: mathsft.add_choices(None, **bad), {"seed": (-1, 0.5, True)}),
    "overlap": (
        lambda **bad: mathsft.overlap([], [], **bad),
        {"n": NOT_COUNTS, "threshold": (0, 1.5, NAN, True)},
    ),
    "pack": (lambda **bad: mathsft.pack([], **bad), {"max_length": NOT_COUNTS}),
    "TokenForest": (
        lambda **bad: TokenForest.from_groups([], **bad), {"max_length": NOT_COUNTS},
    ),
    "estimate_memory": (
        lambda **bad: mathsft.estimate_memory("t4", **bad),
        {
            "memory": (0, -1, NAN), "shards": NOT_COUNTS, "question_tokens": NOT_COUNTS,
            "trained_share": (0, -0.1, 1.5, NAN),
        },
    ),
    "wilson_interval": (
        lambda **bad: mathsft.wilson_interval([True], **bad),
        {"confidence": (0, 1, -1, NAN, True)},
    ),
    "wilson_share": (
        lambda **bad: wilson_share(**{"share": 0.5, "n": 4, **bad}), {"share": (-0.1, 1.1, NAN)},
    ),
    "detectable_difference": (
        lambda **bad: detectable_difference(**{"n": 9, "unequal": 0.1, **bad}),
        {"n": NOT_COUNTS, "power": (0, 1, NAN)},
    ),
    "course": (lambda **bad: course(**bad), {"timeout": NOT_COUNTS, "workers": NOT_COUNTS}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("function", "argument", "value"),
    [
        pytest.param(name, argument, value, id=f"{name}-{argument}-{value}")
        for name, (_, arguments) in FUNCTIONS.items()
        for argument, values in arguments.items()
        for value in values
    ],
)
def test_an_invalid_number_is_refused_by_name(function: str, argument: str, value: Any) -> None:
    from_line = function == "ForestLM" and isinstance(value, str)  # text is made a number
    shown = value if from_line else repr(value)
    with pytest.raises(ValueError, match=re.escape(f"{argument}={shown}")):
        FUNCTIONS[function][0](**{argument: value})


@pytest.mark.parametrize(
    "good",
    [
        {"limit": 3.0}, {"limit": np.int64(3)}, {"num_train_epochs": 0.5}, {"max_steps": -1},
        {"max_steps": None}, {"learning_rate": 0.0}, {"warmup_steps": 0}, {"warmup_steps": 0.03},
        {"logging_steps": 0.1}, {"max_grad_norm": 0}, {"num_fewshot": 0}, {"seed": 0},
        {"batch_size": "auto"}, {"batch_size": "auto:4"}, {"lora_dropout": 0}, {"timeout": 0},
        {"temperature": Fraction(1, 2)}, {"lora": {"r": 1}}, {"lora": True},
        {"an_argument_of_no_rule": -1},
    ],
    ids=str,
)  # fmt: skip
def test_a_valid_number_is_accepted(good: dict[str, Any]) -> None:
    check_numbers(good)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("sft", "num_train_epochs", -1), ("sft", "gradient_accumulation_steps", -2),
        ("sft", "per_device_train_batch_size", -3), ("multiple_choice", "temperature", 0),
        ("train", "limit", -1), ("choices", "limit", 0), ("worked", "batch_size", 0),
        ("show_samples", "samples", 0), ("persist", "keep", 0), ("persist", "minutes", -1),
        ("mix", "total", 0), ("add_choices", "seed", -1), ("sft", "save_steps", -1),
    ],
)  # fmt: skip
def test_a_recipe_s_numbers_are_refused_with_file_and_key_and_nothing_is_written(
    section: str, key: str, value: Any, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{section}: {{{key}: {value}}}", encoding="utf-8")
    told = re.escape(f"{path}: {section}.{key}={value}: give ")
    with pytest.raises(ValueError, match=f"^{told}"):
        load_recipe(path)
    recipe = {"model": {"name": "nowhere"}, section: {key: value}}
    with pytest.raises(ValueError, match=rf"^{section}\.{key}={value}: give "):
        train_by_recipe(recipe, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_numbers_deep_in_a_recipe_are_refused_as_well(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    texts = {
        "model: {lora: {r: -1}}": "model.lora.r=-1: give ",
        "mix: {parts: {a: 1}, datasets: {a: {source: b, limit: -1}}}": "limit=-1: give ",
    }
    for text, told in texts.items():
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=told) as error:
            load_recipe(path)
        assert str(error.value).startswith(str(path))
    recipe: dict[str, Any] = {
        "model": {"name": "nowhere"}, "mix": {"datasets": {"a": {"limit": -1}}},
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"mix\.datasets\.a\.limit=-1"):
        train_by_recipe(recipe, output_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"sft\.max_length=-1"):
        mathsft.estimate_memory({"model": {}, "sft": {"max_length": -1}})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["sft", "--sft.num_train_epochs", "-1"], "sft.num_train_epochs=-1.0: give"),
        (["multiple-choice", "--choices_train.limit=-1"], "choices_train.limit=-1: give"),
        (["evaluate", "--model", "nowhere", "--limit", "-1"], "limit=-1: give"),
        (["evaluate", "--model", "nowhere", "--batch_size", "-3"], "batch_size=-3: give"),
        (["watch", "--folder", "nowhere", "--poll", "-1"], "poll=-1.0: give"),
        (["estimate-memory", "t4", "--memory", "-1"], "memory=-1.0: give"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_command_line_says_which_option(
    line: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MATHSFT_RUNS", str(tmp_path / "runs"))
    with pytest.raises(SystemExit) as stop:
        cli.main(line)
    assert stop.value.code == 2  # a wrong option
    assert f"--{told}" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_config_of_the_command_line_is_named_with_its_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: nowhere\nlimit: -1\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--config", str(path)])
    assert f"{path}: limit=-1: give 1 or more, a whole number" in capsys.readouterr().err
