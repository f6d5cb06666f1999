"""Classification has the losses of transformers' own classes, and metrics of the right kind."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_training import assert_same_gradients, gradients
from recipe_lines import mathsft_
from sklearn.metrics import f1_score

from mathsft.data.labelled import head_for
from mathsft.models.adapters import load_adapter, save_adapter
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.models.reward_head import load_reward_model
from mathsft.objectives.classification import Classification, micro_f1
from mathsft.training.make import make_trainer
from mathsft.training.rows import training_rows

TEXTS = [f"Tom has {n} pens and eats {n - 1}." + " Then he stops." * (n % 3) for n in range(2, 9)]
LABELS: dict[str, list[Any]] = {
    "binary": [n % 2 == 0 for n in range(7)],
    "several classes": [n % 4 for n in range(7)],
    "several labels": [[n % 2, 1 - n % 2, n // 6] for n in range(7)],
    "numbers": [n / 4 - 0.5 for n in range(7)],
}
TYPES = {
    "binary": (2, "single_label_classification"),
    "several classes": (4, "single_label_classification"),
    "several labels": (3, "multi_label_classification"),
    "numbers": (1, "regression"),
}


def rows_of(kind: str) -> list[dict[str, Any]]:
    return [{"text": t, "label": v} for t, v in zip(TEXTS, LABELS[kind], strict=True)]


def loaded_for(rows: Any) -> Any:
    model, tokenizer = load_reward_model(
        "tiny", lora={"r": 4, "lora_dropout": 0.0}, device="cpu", **head_for(rows)
    )
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "score" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model, tokenizer


@pytest.fixture(scope="module")
def binary() -> Any:
    """A model with two outputs; no test changes its weights."""
    return loaded_for([{"label": 1}])


def trainer(loaded: Any, rows: Any, folder: Path, **arguments: Any) -> Any:
    given = {"per_device_train_batch_size": 8, "disable_tqdm": True, **arguments}
    return make_trainer(*loaded, rows, Classification(), output_dir=folder, eval_rows=rows, **given)


def theirs(model: Any, tokenizer: Any, rows: Any) -> Any:
    """transformers' own output for the rows in one padded batch, with its loss."""
    model.config.pad_token_id = tokenizer.pad_token_id
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    labels = torch.tensor([row["label"] for row in rows])
    labels = labels.float() if labels.ndim == 2 or labels.is_floating_point() else labels.long()
    return model(**inputs, labels=labels)


@pytest.mark.parametrize("kind", LABELS)
def test_the_loss_and_all_gradients_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    rows = rows_of(kind)
    model, tokenizer = loaded_for(rows)
    assert (model.config.num_labels, model.config.problem_type) == TYPES[kind]
    made = trainer((model, tokenizer), rows, tmp_path)
    model.train()
    loss = made.compute_loss(model, made.collate(list(made.train_dataset)))
    found = gradients(loss, model)
    output = theirs(model, tokenizer, rows)
    assert float(loss.detach()) == pytest.approx(float(output.loss.detach()), rel=1e-5)
    wanted = gradients(output.loss, model)
    assert any("score" in name for name in wanted)
    assert_same_gradients(found, wanted)


@pytest.mark.parametrize("kind", LABELS)
def test_the_metrics_of_an_evaluation_in_batches_are_those_of_all_rows(
    tmp_path: Path, kind: str
) -> None:
    rows = rows_of(kind)
    model, tokenizer = loaded_for(rows)
    made = trainer((model, tokenizer), rows, tmp_path, per_device_eval_batch_size=2)
    said = made.evaluate()
    model.eval()
    with torch.no_grad():
        output = theirs(model, tokenizer, rows)
    logits = output.logits
    labels = torch.tensor(LABELS[kind])
    assert said["eval_loss"] == pytest.approx(float(output.loss), rel=1e-5)
    if kind == "numbers":
        error = (logits[:, 0] - labels).abs().mean()
        assert said["eval_absolute_error"] == pytest.approx(float(error), rel=1e-5)
    elif kind == "several labels":
        right = ((logits > 0) == labels.bool()).all(1).float().mean()
        assert said["eval_exact_match"] == pytest.approx(float(right))
        expected = f1_score(labels, (logits > 0).int(), average="micro")
        assert micro_f1(said) == pytest.approx(expected)
    else:
        right = (logits.argmax(1) == labels).float().mean()
        assert said["eval_accuracy"] == pytest.approx(float(right))


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_micro_f1_is_that_of_scikit_learn(rows: list[list[bool]]) -> None:
    said = torch.tensor(rows).float() * 2 - 1
    target = said.roll(1, 1).flip(0).clamp(min=0)
    none = torch.zeros(0)
    logprobs = SequenceLogprobs(none, none.long(), none.long(), value=said)
    batch = {"target": target, "choice": torch.arange(len(rows))[:, None]}
    found = Classification().loss(logprobs, batch).metrics
    means = {name: float(values.mean()) for name, values in found.items()}
    ours = micro_f1(means, prefix="")
    if not any(map(any, rows)):
        assert ours != ours  # nan: there is no label
        return
    assert ours == pytest.approx(f1_score(target, said > 0, average="micro", zero_division=0))


def test_training_learns_classes_and_its_adapter_restores_them(tmp_path: Path) -> None:
    rows = [{"text": f"{n} {'+-*'[n % 3]} 1", "label": n % 3} for n in range(48)]
    loaded = load_reward_model("tiny", lora={"r": 4}, device="cpu", **head_for(rows))
    made = trainer(loaded, rows[:36], tmp_path, max_steps=15, learning_rate=5e-3)
    made.train()
    tests = trainer(loaded, rows[36:], tmp_path).evaluate()
    assert tests["eval_accuracy"] == 1
    save_adapter(loaded[0], tmp_path / "adapter", tokenizer=loaded[1])
    other, tokenizer = load_reward_model("tiny", device="cpu", seed=8, **head_for(rows))
    again = load_adapter(other, tmp_path / "adapter", is_trainable=True)
    assert (
        trainer((again, tokenizer), rows[36:], tmp_path).evaluate()["eval_loss"]
        == (tests["eval_loss"])
    )


def test_answers_and_conversations_are_read_with_their_stop_token(tmp_path: Path) -> None:
    rows = [
        {"prompt": "2 + 3 =", "completion": " 5", "label": True},
        {"prompt": "2 + 3 =", "completion": " 6", "label": False},
    ]
    loaded = loaded_for(rows)
    tokenizer = loaded[1]
    made = trainer(loaded, rows, tmp_path)
    stop = tokenizer.eos_token_id
    assert made.train_dataset["input_ids"][0] == [[*tokenizer("2 + 3 = 5").input_ids, stop, stop]]
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}<|endoftext|>{% endfor %}"
    )
    talk = [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}]
    made = trainer(loaded, [{"messages": talk, "label": True}], tmp_path)
    ids = tokenizer.apply_chat_template(talk, return_dict=True)["input_ids"]
    assert made.train_dataset["input_ids"][0] == [[*ids, stop]]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "row 1, column 'label': expected a class"),
        (-1, "row 1, column 'label'"),
        ("spam", "row 1, column 'label'"),
        (float("nan"), "row 1, column 'label'"),
        ([], "row 1, column 'label'"),
        ([0, 2], "row 1, column 'label'"),
        ([0, 1, 1], "labels of several types: 1 single_label_classification, 1 multi_label"),
        (0.5, "labels of several types"),
    ],
    ids=str,
)
def test_a_label_that_does_not_fit_is_an_error(binary: Any, label: Any, message: str) -> None:
    rows = [{"text": "2 + 3", "label": 1}, {"text": "5", "label": label}]
    with pytest.raises(ValueError, match=message):
        head_for(rows)
    with pytest.raises(ValueError, match=message):
        training_rows(rows, binary[1], Classification())


def test_lists_of_several_lengths_and_rows_without_text_are_errors(binary: Any) -> None:
    with pytest.raises(ValueError, match="labels with 2 and with 3 classes"):
        head_for([{"label": [0, 1]}, {"label": [0, 1, 1]}])
    with pytest.raises(ValueError, match="there is no row"):
        head_for([])
    rows = [{"label": 1, "words": "2 + 3"}]
    with pytest.raises(ValueError, match="row 0: expected text, or prompt and completion"):
        training_rows(rows, binary[1], Classification())


@pytest.mark.parametrize("label", [2, [0, 1, 1], 0.5], ids=str)
def test_a_head_that_does_not_fit_the_labels_is_an_error(
    binary: Any, tmp_path: Path, label: Any
) -> None:
    made = trainer(binary, [{"text": "2 + 3", "label": label}], tmp_path)
    with pytest.raises(ValueError, match="the model's head has 2 outputs, and these labels"):
        made.evaluate()


def test_unusable_texts_are_dropped_and_counted(binary: Any, capsys: Any) -> None:
    rows = [
        {"text": "2 + 3", "label": 1},
        {"text": "  ", "label": 0},
        {"text": "5<|endoftext|>6", "label": 0},
    ]
    assert len(training_rows(rows, binary[1], Classification())) == 1
    shown = capsys.readouterr().out
    assert "train: 1 rows with 1 texts" in shown
    assert "single_label_classification, 2 outputs; dropped: 1 " in shown


@pytest.mark.usefixtures("runs")
def test_a_yaml_file_trains_a_classifier_of_good_and_bad_answers(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": f"{n} + 1 =", "completion": f" {n + 1 + n % 2}", "label": n % 2 == 0}
        for n in range(8)
    ]
    source = tmp_path / "labelled.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "classify.yaml"
    sections = {
        "model": {"name": "tiny"},
        "train": {"source": str(source)},
        "classification": {"max_steps": 2, "logging_steps": 1},
    }
    recipe.write_text(yaml.safe_dump(sections))
    mathsft_("train", "--objective", "classification", "--config", recipe)
    state = json.loads((runs / "classification-1" / "trainer_state.json").read_text())
    assert state["log_history"][0]["loss"] == pytest.approx(0.69, abs=0.05)
    assert "accuracy" in state["log_history"][0]
    assert "load_reward_model('tiny', num_labels=2); model = load_adapter(" in (
        capsys.readouterr().out
    )
