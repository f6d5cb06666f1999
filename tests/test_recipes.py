"""Recipes: every shipped file fits the functions, and mistakes name key and file."""

import re
from pathlib import Path

import pytest

from mathsft.device import PROFILES
from mathsft.recipes import load_recipe, shipped_recipes

SHIPPED = list(shipped_recipes())
SEVERAL = {"a100-8", "cluster"}  # for several processes, which no lesson starts


def test_every_profile_has_a_recipe() -> None:
    assert {*PROFILES} == {*SHIPPED} - SEVERAL


@pytest.mark.parametrize("profile", SHIPPED)
def test_every_shipped_recipe_fits_the_functions_it_feeds(profile: str) -> None:
    recipe = load_recipe(profile)
    data = {"train", "test", "choices_train", "choices"}
    lessons = set() if profile in SEVERAL else {
        "mixing", "worked", "dpo", "sample", "dr_grpo", "rollout", "gpo", "distillation"
    }  # fmt: skip
    assert set(recipe) == {"model", "sft", "multiple_choice", *lessons, *data}
    trainers = {"sft", "multiple_choice", "mixing", "dpo", "dr_grpo", "gpo", "distillation"}
    for trainer in trainers & set(recipe):
        assert isinstance(recipe[trainer]["learning_rate"], float)


def test_eight_cards_train_on_as_many_rows_a_step_as_one() -> None:
    one, eight = load_recipe("a100"), load_recipe("a100-8")
    for trainer in ("sft", "multiple_choice"):
        rows = "per_device_train_batch_size"
        assert 8 * eight[trainer][rows] == one[trainer][rows]
        same = {"max_length", "learning_rate", "num_train_epochs"}
        assert {k: eight[trainer][k] for k in same} == {k: one[trainer][k] for k in same}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_number_that_yaml_reads_as_text_is_converted(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "sft: {learning_rate: 1e-5, max_steps: '7'}"))
    assert recipe["sft"] == {"learning_rate": 1e-5, "max_steps": 7}
    whole = load_recipe(write(tmp_path, "sft: {max_steps: 1e3, seed: 3.0}"))["sft"]
    assert whole == {"max_steps": 1000, "seed": 3}
    assert {type(value) for value in whole.values()} == {int}


def test_numbers_inside_a_nested_mapping_are_converted_too(tmp_path: Path) -> None:
    text = """
    model: {lora: {r: '8', lora_dropout: 5e-2, target_modules: [q_proj]}}
    sft: {lr_scheduler_kwargs: {min_lr: 1e-6, inner: {name: cosine}}, packing: false}
    """
    recipe = load_recipe(write(tmp_path, text))
    assert recipe["model"]["lora"] == {"r": 8, "lora_dropout": 0.05, "target_modules": ["q_proj"]}
    kwargs = recipe["sft"]["lr_scheduler_kwargs"]
    assert kwargs == {"min_lr": 1e-6, "inner": {"name": "cosine"}}
    assert recipe["sft"]["packing"] is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sft: {learningrate: 1.0e-4}", ["mine.yaml", "sft.learningrate", "'learning_rate'"]),
        ("sft: {weight_decy: 0.1}", ["sft.weight_decy", "'weight_decay'"]),
        ("multiple_choice: {weight_decy: 0.1}", ["multiple_choice.weight_decy", "'weight_decay'"]),
        ("multiple_choice: {temperature: hot}", ["multiple_choice.temperature", "number"]),
        ("sfd: {learning_rate: 1.0e-4}", ["mine.yaml", "'sfd'", "'sft'"]),
        ("sft: {learning_rate: fast}", ["sft.learning_rate", "number", "'fast'"]),
        ("sft: {max_steps: 2.5}", ["sft.max_steps", "whole number", "2.5"]),
        ("sft: {max_steps: '2.5'}", ["sft.max_steps", "whole number", "'2.5'"]),
        ("train: {limit: .inf}", ["train.limit", "whole number"]),
        ("model: {quantize: 'false'}", ["model.quantize", "true or false", "'false'"]),
        ("model: {lora: 'yes'}", ["model.lora", "true or false"]),
        ("sft: {eval_strategy: step}", ["mine.yaml", "sft.eval_strategy", "'steps'"]),
        ("sft: {save_strategy: stepss}", ["mine.yaml", "sft.save_strategy", "'steps'"]),
        ("sft: {optim: adam}", ["mine.yaml", "sft.optim", "'adam'"]),
        (
            "sft: {lr_scheduler_type: [linear]}",
            ["sft.lr_scheduler_type", "one value", "['linear']"],
        ),
        ("sft: 3", ["'sft'", "map"]),
        ("[1, 2]", ["mapping of sections"]),
        ("sft: {", ["mine.yaml", "YAML"]),
    ],
)
def test_a_mistake_is_an_error_with_file_and_key(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        load_recipe(write(tmp_path, text))
    for word in words:
        assert word in str(error.value)


def test_an_unknown_recipe_names_those_that_ship() -> None:
    with pytest.raises(FileNotFoundError, match="tiny") as error:
        load_recipe("tinny")
    assert "did you mean 'tiny'" in str(error.value)


def test_the_quick_recipe_of_the_tests_is_tiny_with_fewer_steps_and_questions() -> None:
    quick, tiny = load_recipe(Path(__file__).with_name("quick.yaml")), load_recipe("tiny")
    assert quick.keys() == tiny.keys()
    changed = {
        (section, key)
        for section, keys in quick.items()
        for key in keys.keys() | tiny[section].keys()
        if keys.get(key) != tiny[section].get(key)
    }
    amounts = {"limit", "max_steps", "num_train_epochs"}
    assert {key for _, key in changed} == amounts
    assert ("train", "limit") not in changed  # lessons print it, and their output is compared


def test_the_environment_chooses_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATHSFT_PROFILE", "t4")
    assert load_recipe()["model"]["name"] == "Qwen/Qwen2.5-0.5B"
