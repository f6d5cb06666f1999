"""Multiple-choice training: the exact objective, in any batches, with no label changed."""

import warnings
from pathlib import Path

import pytest
import torch
from gradients import adapted, adapter, assert_same_gradients
from made_rows import choice_batch, multiple_choice_rows
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from mathsft.data.problems import load_problems
from mathsft.data.prompts import choice_continuation
from mathsft.models.likelihood import choice_logprobs, encode_choices
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.objectives.multiple_choice import MultipleChoice
from mathsft.training.make import multiple_choice_trainer


def asked(question: str, choices: list[str], label: int) -> dict[str, object]:
    return {"question": question, "choices": choices, "label": label}


@pytest.fixture(scope="module")
def problems() -> list[dict[str, object]]:
    """Two to six choices, mixed."""
    numbers = [["3", "30"], ["1 / 2", "12", "5"], ["rs . 3", "rs . 4", "rs . 40", "7"]]
    numbers += [["a", "b", "c", "d", "e"], ["2", "20", "200", "4", "5", "6"], ["10", "8"]]
    return [
        asked(f"Tom has {n} apples{' and pears' * n}. How many?", choices, n % len(choices))
        for n, choices in enumerate(numbers * 2)
    ]


@pytest.fixture(scope="module")
def tokenizer(small_model_dir: Path):
    return AutoTokenizer.from_pretrained(small_model_dir)


def trainer_of(model, tokenizer, problems, folder: Path, **arguments):
    settings = {"max_length": 256, "max_steps": 1, "disable_tqdm": True, **arguments}
    return multiple_choice_trainer(model, tokenizer, problems, output_dir=folder, **settings)


def one_step(folder: Path, tokenizer, problems, out: Path, **arguments) -> dict[str, torch.Tensor]:
    """Return the gradient: what one step of plain gradient descent changes, over its rate."""
    model = adapted(folder)
    before = adapter(model)
    descent = {"learning_rate": 1e4, "lr_scheduler_type": "constant", "warmup_steps": 0}
    descent |= {"optim": "sgd", "max_grad_norm": 1e9}
    trainer_of(model, tokenizer, problems, out, **descent, **arguments).train()
    return {name: (before[name] - after) / 1e4 for name, after in adapter(model).items()}


VARIANTS = {
    "plain": ({}, lambda scores, tokens, characters: scores),
    "tokens": ({"normalization": "tokens"}, lambda scores, tokens, characters: scores / tokens),
    "characters": (
        {"normalization": "characters"},
        lambda scores, tokens, characters: scores / characters,
    ),
    "temperature": ({"temperature": 2.5}, lambda scores, tokens, characters: scores / 2.5),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_is_that_of_the_objective_question_by_question(
    small_model_dir, tokenizer, problems, tmp_path, variant
):
    arguments, rule = VARIANTS[variant]
    model = adapted(small_model_dir)
    for problem in problems:
        scores = []
        for sequence in encode_choices(tokenizer, [problem])[0]:
            ids, labels = torch.tensor(sequence["input_ids"]), torch.tensor(sequence["labels"])
            logits = model(input_ids=ids[None]).logits[0, :-1]
            scores.append(-cross_entropy(logits, labels[1:], reduction="sum"))
        tokens = torch.tensor(
            [
                sum(label >= 0 for label in s["labels"])
                for s in encode_choices(tokenizer, [problem])[0]
            ]
        )
        characters = torch.tensor([len(choice) for choice in problem["choices"]])
        scores = rule(torch.stack(scores), tokens, characters)
        loss = cross_entropy(scores[None], torch.tensor([problem["label"]]))
        (loss / len(problems)).backward()
    wanted = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    found = one_step(
        small_model_dir, tokenizer, problems, tmp_path, per_device_train_batch_size=12, **arguments
    )
    assert_same_gradients(wanted, found)


@pytest.mark.slow
def test_batches_accumulated_one_by_one_and_checkpointing_give_the_gradient_of_one_batch(
    small_model_dir, tokenizer, problems, tmp_path
):
    def step(name: str, **arguments):
        return one_step(small_model_dir, tokenizer, problems, tmp_path / name, **arguments)

    whole = step("a", per_device_train_batch_size=12)
    for name, arguments in {
        "b": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 12},
        "c": {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 3},
        "d": {"per_device_train_batch_size": 12, "gradient_checkpointing": True},
        "e": {"per_device_train_batch_size": 12, "max_length": 120},
    }.items():
        assert_same_gradients(whole, step(name, **arguments))


def test_choices_that_a_question_does_not_have_get_probability_zero(tokenizer, problems):
    rows = multiple_choice_rows(problems[:3], tokenizer).to_list()
    batch = choice_batch(rows)
    logprobs = SequenceLogprobs(-torch.arange(1.0, 10.0), torch.arange(9), batch["scored_tokens"])
    scores = MultipleChoice().scores(logprobs, batch)
    inf = torch.inf
    assert scores.tolist() == [[-1, -2, -inf, -inf], [-3, -4, -5, -inf], [-6, -7, -8, -9]]
    assert batch["scored_tokens"].tolist() == [
        len(tokenizer(choice_continuation(choice)).input_ids)
        for problem in problems[:3]
        for choice in problem["choices"]
    ]


def test_evaluation_gives_the_loss_and_the_accuracy_of_all_questions(
    small_model_dir, tokenizer, problems, tmp_path
):
    model = adapted(small_model_dir)
    trainer = trainer_of(
        model, tokenizer, problems, tmp_path,
        eval_problems=problems[:7], per_device_train_batch_size=3,
    )  # fmt: skip
    found = trainer.evaluate()
    scores = choice_logprobs(model, tokenizer, problems[:7])
    labels = [p["label"] for p in problems[:7]]
    losses = [
        cross_entropy(torch.tensor([s]), torch.tensor([label])).item()
        for s, label in zip(scores, labels, strict=True)
    ]
    right = [
        max(range(len(s)), key=s.__getitem__) == n for s, n in zip(scores, labels, strict=True)
    ]
    assert found["eval_loss"] == pytest.approx(sum(losses) / 7, abs=1e-5)
    assert found["eval_accuracy"] == pytest.approx(sum(right) / 7)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_adapters_bit_for_bit(
    small_model_dir, tokenizer, problems, tmp_path
):
    def run(name: str, seed: int) -> dict[str, torch.Tensor]:
        model = adapted(small_model_dir, dropout=0.1)
        trainer_of(
            model, tokenizer, problems, tmp_path / name,
            per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=3, seed=seed,
        ).train()  # fmt: skip
        return adapter(model)

    first, second, other = run("a", 1), run("b", 1), run("c", 2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_4_bit_model_learns_its_questions_quietly_and_logs_loss_accuracy_and_tokens(
    small_model_dir, tokenizer, problems, tmp_path
):
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = adapted(small_model_dir, quantization_config=quantization, dtype=torch.float32)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        trainer = trainer_of(
            model, tokenizer, problems, tmp_path,
            max_steps=30, learning_rate=2e-2, logging_steps=5, per_device_train_batch_size=12,
        )  # fmt: skip
        trainer.train()
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs[-1]["loss"] < logs[0]["loss"] - 1
    assert 0 < logs[-1]["accuracy"] < 1
    batch = choice_batch(trainer.train_dataset.to_list(), max_length=256)
    assert logs[-1]["num_tokens"] == 30 * int(batch["row_tokens"].sum())
    noise = [str(w.message) for w in raised if w.category is not DeprecationWarning]
    assert noise == []


def test_a_second_training_counts_its_own_questions_only(
    small_model_dir, tokenizer, problems, tmp_path
):
    trainer = trainer_of(
        adapted(small_model_dir), tokenizer, problems, tmp_path,
        max_steps=3, logging_steps=2, learning_rate=0.0, per_device_train_batch_size=12,
    )  # fmt: skip
    for _ in range(2):  # the third step of the first run is in no log
        trainer.train()
        (log,) = [entry for entry in trainer.state.log_history if "accuracy" in entry]
        found = trainer.evaluate(trainer.train_dataset)
        assert log["accuracy"] == pytest.approx(found["eval_accuracy"], abs=1e-4)


def test_mixed_precision_trains_and_evaluates_in_the_same_precision(
    small_model_dir, tokenizer, problems, tmp_path
):
    trainer = trainer_of(
        adapted(small_model_dir), tokenizer, problems, tmp_path,
        eval_problems=problems, bf16=True, learning_rate=0.0, logging_steps=1,
        per_device_train_batch_size=12,
    )  # fmt: skip
    trainer.train()
    trained = trainer.state.log_history[0]["loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trained, abs=1e-5)


def test_what_cannot_be_trained_is_dropped_counted_and_shown(tokenizer, capsys):
    fine = asked("Tom has 3 apples?", ["3", "4"], 0)
    rows = [
        fine,
        asked("One choice?", ["3"], 0),
        asked("No choice?", [], -1),
        asked("An empty choice?", ["3", " "], 0),
        asked("Two equal ones?", ["3", "4", "3 "], 0),
        asked("No label?", ["3", "4"], -1),
        asked("Too long? " * 100, ["3", "4"], 1),
    ]
    kept = multiple_choice_rows(rows, tokenizer, max_length=200)
    assert len(kept) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("train: 1 questions with 2 choices")
    for reason in (
        "1 with one choice", "1 without choices", "1 with an empty choice",
        "1 with two equal choices", "1 without a label", "1 longer than 200 tokens",
    ):  # fmt: skip
        assert reason in shown
    with pytest.raises(ValueError, match="no row is left; dropped: 1 with one choice"):
        multiple_choice_rows(rows[1:2], tokenizer)
    with pytest.raises(ValueError, match=r"dropped: 1 without choices\. add_choices makes"):
        multiple_choice_rows(rows[2:3], tokenizer)


def test_choices_that_are_equal_to_the_tokenizer_are_equal(small_model_dir, capsys):
    from tokenizers import normalizers

    blind = AutoTokenizer.from_pretrained(small_model_dir)
    blind.backend_tokenizer.normalizer = normalizers.Lowercase()
    rows = [asked("Which?", ["a", "A"], 0), asked("Which?", ["a", "b"], 0)]
    assert len(multiple_choice_rows(rows, blind)) == 1
    assert "1 with two equal choices" in capsys.readouterr().out


@pytest.mark.parametrize(
    "broken",
    [
        {"choices": "34", "label": 1},
        {"choices": [3, 4], "label": 1},
        {"choices": ["3", "4"], "label": 1.0},
        {"choices": ["3", "4"], "label": None},
        {"choices": ["3", "4"]},
        {"label": 0},
    ],
)
def test_a_row_of_another_form_is_an_error_naming_the_problem(tokenizer, broken):
    rows = [asked("Fine?", ["3", "4"], 0), {"question": "Broken?", **broken}]
    with pytest.raises(
        ValueError,
        match=r"problem 1: (expected choices, a list of texts.*Broken|"
        r"column .* is missing.*add_choices)",
    ):
        multiple_choice_rows(rows, tokenizer)


@pytest.mark.parametrize("label", [2, 7, -2])
def test_a_label_that_is_none_of_the_choices_is_an_error_naming_the_problem(tokenizer, label):
    rows = [asked("Fine?", ["3", "4"], 0), asked("Broken?", ["3", "4"], label)]
    with pytest.raises(ValueError, match=f"problem 1: label {label}, but it has 2 choices.*Broken"):
        multiple_choice_rows(rows, tokenizer)


def test_wrong_settings_are_errors_before_anything_runs(
    small_model_dir, tokenizer, problems, tmp_path
):
    model = adapted(small_model_dir)
    with pytest.raises(ValueError, match=r"temperature=0.*above 0"):
        trainer_of(model, tokenizer, problems, tmp_path, temperature=0)
    with pytest.raises(ValueError, match=r"normalization='bytes'.*'characters'"):
        trainer_of(model, tokenizer, problems, tmp_path, normalization="bytes")
    with pytest.raises(ValueError, match="remove_unused_columns"):
        trainer_of(model, tokenizer, problems, tmp_path, remove_unused_columns=True)
    frozen = AutoModelForCausalLM.from_pretrained(small_model_dir).requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        trainer_of(frozen, tokenizer, problems, tmp_path)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"flash_attention_2.*not known to keep"):
        trainer_of(model, tokenizer, problems, tmp_path)


def test_questions_of_the_tiny_source_and_real_ones_are_read_as_they_come(tokenizer, data_dir):
    for rows in (
        load_problems("tiny-mathqa", limit=20),
        load_problems(data_dir / "mathqa" / "dev.json", limit=200),
    ):
        kept = multiple_choice_rows(rows, tokenizer, max_length=2048)
        labels = [p["label"] for p in rows if len(set(p["choices"])) == len(p["choices"])]
        assert kept["label"] == labels
