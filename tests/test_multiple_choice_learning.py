"""The tiny model learns from the objective, but only if it sees the question."""

from pathlib import Path

import pytest
from datasets import Dataset

from mathsft.data.choices import add_choices
from mathsft.data.problems import load_problems
from mathsft.evaluation.intervals import wilson_interval
from mathsft.models.likelihood import choice_logprobs
from mathsft.models.loading import load_model
from mathsft.training.make import multiple_choice_trainer


def accuracy_after(train: Dataset, test: Dataset, folder: Path, *, max_steps: int):
    """Return the embedded model's accuracy on ``test`` after steps of 32 questions."""
    model, tokenizer = load_model("tiny", lora={"lora_dropout": 0.0}, device="cpu")
    multiple_choice_trainer(
        model,
        tokenizer,
        train,
        output_dir=folder,
        max_steps=max_steps,
        per_device_train_batch_size=32,
        max_length=256,
        learning_rate=2e-3,
        disable_tqdm=True,
    ).train()
    scores = choice_logprobs(model, tokenizer, test)
    picked = [max(range(len(s)), key=s.__getitem__) for s in scores]
    return wilson_interval([a == b for a, b in zip(picked, test["label"], strict=True)])


def hidden(problems: Dataset) -> Dataset:
    return problems.map(lambda problem: {"question": "?"})


@pytest.mark.slow
def test_the_objective_is_learned_from_questions_that_are_shown(tmp_path: Path) -> None:
    train = load_problems("tiny-mathqa", split="train")
    test = load_problems("tiny-mathqa", split="test", limit=400)
    assert accuracy_after(train, test, tmp_path, max_steps=160).low > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("source", ["tiny-mathqa", "tiny-gsm", "gsm8k"])
def test_with_the_question_hidden_training_stays_at_chance(
    source: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The choices contain no shortcut: only the question shows which one is right."""
    if source == "gsm8k":
        file = request.getfixturevalue("data_dir") / "gsm8k" / "train.jsonl"
        parts = load_problems(file).train_test_split(test_size=2000, seed=0)
        train, test = parts["train"], parts["test"]
    else:
        train = load_problems(source, split="train")
        test = load_problems(source, split="test", limit=2000)
    train, test = add_choices(train), add_choices(test)
    found = accuracy_after(hidden(train), hidden(test), tmp_path, max_steps=300)
    three_errors = 3 * (0.2 * 0.8 / len(test)) ** 0.5
    assert abs(found.accuracy - 0.2) < three_errors, found
