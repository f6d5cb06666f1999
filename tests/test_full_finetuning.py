"""Training all weights of a model: gradients, precision, checkpoints, saving and loading."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from gradients import assert_same_gradients
from made_rows import choice_batch, multiple_choice_rows, sft_batch, sft_rows
from small_training import PROBLEMS, trainer
from torch import Tensor
from torch.nn.functional import cross_entropy

from mathsft.data.problems import read_problems
from mathsft.models.adapters import add_adapter
from mathsft.models.likelihood import encode_choices
from mathsft.models.loading import load_model
from mathsft.models.logprobs import sequence_logprobs
from mathsft.models.saving import save_model
from mathsft.models.trained_weights import freeze
from mathsft.objectives.multiple_choice import MultipleChoice
from mathsft.objectives.sft import tokenize_problems
from mathsft.training.make import multiple_choice_trainer, sft_trainer

WORKED = read_problems("tiny-gsm", limit=12)[0]


def gradients(model: Any) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.fixture
def small(small_model_dir: Path) -> Any:
    return load_model(small_model_dir, device="cpu")


def plain_sft_loss(model: Any, tokenizer: Any) -> Tensor:
    """Sum transformers' loss over whole sequences, with each document in its own pass."""
    losses = []
    for document in tokenize_problems(WORKED, tokenizer)[0]:
        tensors = {key: torch.tensor([value]) for key, value in document.items()}
        count = (tensors["labels"][:, 1:] >= 0).sum()
        losses.append(model(**tensors, use_cache=False).loss * count)
    return torch.stack(losses).sum()


def plain_choice_loss(model: Any, tokenizer: Any, problems: list[dict[str, Any]]) -> Tensor:
    losses = []
    for problem, group in zip(problems, encode_choices(tokenizer, problems), strict=True):
        sums = []
        for sequence in group:
            tensors = {key: torch.tensor([value]) for key, value in sequence.items()}
            logits = model(input_ids=tensors["input_ids"], use_cache=False).logits[0, :-1]
            sums.append(-cross_entropy(logits, tensors["labels"][0, 1:], reduction="sum"))
        losses.append(cross_entropy(torch.stack(sums), torch.tensor(problem["label"])))
    return torch.stack(losses).sum()


@pytest.mark.parametrize("objective", ["sft", "multiple_choice"])
def test_gradients_of_every_weight_the_tied_head_included_are_those_of_separate_passes(
    small: Any, objective: str
) -> None:
    model, tokenizer = small
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if objective == "sft":
        batch = sft_batch(sft_rows(WORKED, tokenizer).to_list())
        (-sequence_logprobs(model, batch).sum.sum()).backward()
        ours = gradients(model)
        plain_sft_loss(model, tokenizer).backward()
    else:
        problems = PROBLEMS.to_list()[:8]
        rows = multiple_choice_rows(problems, tokenizer).to_list()
        batch = choice_batch(rows)
        scores = MultipleChoice().scores(sequence_logprobs(model, batch), batch)
        cross_entropy(scores, batch["labels"], reduction="sum").backward()
        ours = gradients(model)
        plain_choice_loss(model, tokenizer, problems).backward()
    theirs = gradients(model)
    assert ours.keys() == {name for name, _ in model.named_parameters()}
    assert_same_gradients(ours, theirs)


def test_under_bfloat16_autocast_the_gradients_are_those_of_a_plain_loss_to_rounding(
    small: Any,
) -> None:
    model, tokenizer = small
    batch = sft_batch(sft_rows(WORKED, tokenizer).to_list())
    with torch.autocast("cpu", torch.bfloat16):
        loss = -sequence_logprobs(model, batch).sum.sum()
    loss.backward()
    ours = gradients(model)
    plain_sft_loss(model, tokenizer).backward()
    exact = gradients(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = plain_sft_loss(model, tokenizer)
    loss.backward()
    rounded = gradients(model)
    for name, gradient in exact.items():
        assert ours[name].dtype == torch.float32
        off, usual = ours[name] - gradient, rounded[name] - gradient
        assert off.norm() <= 2 * usual.norm() + 1e-3 * gradient.norm(), name


@pytest.mark.parametrize("make", [sft_trainer, multiple_choice_trainer])
def test_every_weight_moves_and_a_killed_training_ends_with_the_same_weights(
    small_model_dir: Path, tmp_path: Path, make: Any
) -> None:
    def trained(folder: Path, *, resume: str | None = None) -> dict[str, Tensor]:
        model, tokenizer = load_model(small_model_dir, device="cpu")
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        ours = make(
            model, tokenizer, WORKED if make is sft_trainer else PROBLEMS, output_dir=folder,
            max_steps=4, save_strategy="steps", save_steps=2, per_device_train_batch_size=1,
            learning_rate=1e-3, disable_tqdm=True, max_length=256, warmup_steps=0,
        )  # fmt: skip
        ours.train(resume_from_checkpoint=resume)
        after = {name: p.detach() for name, p in model.named_parameters()}
        assert not any(torch.equal(after[name], before[name]) for name in before)
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        return after

    whole = trained(tmp_path)
    resumed = trained(tmp_path, resume=str(tmp_path / "checkpoint-2"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    loaded, _ = load_model(tmp_path / "checkpoint-4", device="cpu")
    assert all(torch.equal(p, whole[name]) for name, p in loaded.named_parameters())


def test_a_saved_model_gives_the_same_logits_and_keeps_template_and_stops(
    small: Any, tmp_path: Path
) -> None:
    model, tokenizer = small
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    model.generation_config.eos_token_id = [0, 5]
    with torch.no_grad():
        model.model.norm.weight.mul_(1.5)
    for _ in range(2):  # the second replaces the first
        assert save_model(model, tokenizer, tmp_path / "model") == tmp_path / "model"
    loaded, told = load_model(tmp_path / "model", device="cpu")
    ids = torch.arange(20)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert told.chat_template == tokenizer.chat_template
    assert loaded.generation_config.eos_token_id == [0, 5]
    assert loaded.name_or_path == model.name_or_path == str(tmp_path / "model")


def test_what_is_no_full_model_is_not_saved_as_one(small: Any, tmp_path: Path) -> None:
    model, tokenizer = small
    adapted, _ = load_model(model.name_or_path, lora=True, device="cpu")
    quantized, _ = load_model(model.name_or_path, quantize=True, device="cpu")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    for given, folder, message in (
        (quantized, "new", "4-bit weights are not what the checkpoint had"),
        (model, "adapter", "holds an adapter"),
        (model, "other", "holds other files"),
        (adapted, "new", "the model has an adapter: save_adapter writes that"),
    ):
        with pytest.raises(ValueError, match=message):
            save_model(given, tokenizer, tmp_path / folder)
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_to_train_in_half_precision_are_refused_and_frozen_ones_are_not(
    small_model_dir: Path, tmp_path: Path, dtype: str
) -> None:
    model, tokenizer = load_model(small_model_dir, dtype=dtype, device="cpu")
    for make, problems in ((sft_trainer, WORKED), (multiple_choice_trainer, PROBLEMS)):
        with pytest.raises(ValueError, match=rf"would be trained in {dtype}: .*dtype='float32'"):
            make(model, tokenizer, problems, output_dir=tmp_path)
    freeze(model, "*", but="model.norm.weight")
    with pytest.raises(ValueError, match=re.escape("model.norm.weight would be trained in")):
        sft_trainer(model, tokenizer, WORKED, output_dir=tmp_path)
    sft_trainer(add_adapter(model), tokenizer, WORKED, output_dir=tmp_path)


def test_a_model_in_four_bits_needs_an_adapter(small_model_dir: Path, tmp_path: Path) -> None:
    model, _ = load_model(small_model_dir, quantize=True, device="cpu")
    with pytest.raises(ValueError, match=r"4-bit weights have no gradient.*lora=True, or without"):
        trainer(small_model_dir, tmp_path, model=model)
