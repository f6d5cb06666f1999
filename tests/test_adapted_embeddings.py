"""Adapters on embedding and output head: scores, training and answers are exact."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_variants import VARIANTS, adapted, all_logits, steps, untied_model
from gradients import assert_same_gradients
from model_files import base
from torch.nn.functional import cross_entropy

from mathsft.data.problems import read_problems
from mathsft.data.prompts import sft_completion, sft_prompt
from mathsft.evaluation.run import evaluate
from mathsft.evaluation.worked import worked_answers
from mathsft.models.adapters import load_adapter, save_adapter
from mathsft.models.isolation import check_isolation
from mathsft.models.likelihood import choice_logprobs, encode_choices
from mathsft.models.loading import load_model
from mathsft.models.projection import has_plain_head
from mathsft.training.make import multiple_choice_trainer, sft_trainer

ADAPTED = [
    name for name, settings in VARIANTS.items()
    if "words" in name or {"embed_tokens", "lm_head"} & {
        *settings.get("target_modules", ()), *settings.get("modules_to_save", ()),
        *(["embed_tokens"] if "trainable_token_indices" in settings else ()),
    }
]  # fmt: skip
CHOICES = read_problems("tiny-mathqa", split="test", limit=4)[0]
WORKED = read_problems("tiny-gsm", split="test", limit=4)[0]
ADAPTED.remove("fewer words")  # the tokenizer has all of the words


UNTIED = ["LoRA on both", "tokens", "both saved", "new words, LoRA on both", "head saved"]
PAIRS = [(v, True) for v in ADAPTED] + [(v, False) for v in UNTIED]


@pytest.fixture(scope="module")
def folders(small_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Model folders; the key says whether embedding and output head are tied."""
    other = tmp_path_factory.mktemp("models") / "untied"
    return {True: small_model_dir, False: untied_model(other, small_model_dir)}


@pytest.fixture
def tokenizer(small_model_dir: Path) -> Any:
    return load_model(small_model_dir)[1]


def logprobs(model: Any, sequence: Any) -> torch.Tensor:
    """Log-probabilities of the scored tokens, by a pass over this sequence only: (T,)."""
    ids, labels = torch.tensor(sequence["input_ids"]), torch.tensor(sequence["labels"])
    scores = model(input_ids=ids[None, :-1], use_cache=False).logits[0].float().log_softmax(-1)
    chosen = scores[torch.arange(len(ids) - 1), ids[1:]]
    return chosen[labels[1:] >= 0]


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {name: gradient for name, gradient in found.items() if gradient.any()}


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "tied"), PAIRS)
def test_choices_are_scored_as_by_separate_passes(
    folders: dict[bool, Path], tokenizer: Any, variant: str, tied: bool
) -> None:
    model = steps(adapted(folders[tied], **VARIANTS[variant]))
    for context in (contextlib.nullcontext(), model.disable_adapter()):
        with context:
            check_isolation(model)
    head = model.get_output_embeddings()
    if has_plain_head(model):  # then its weight must be all that counts
        hidden = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(head(hidden), hidden @ head.weight.T)
    found = choice_logprobs(model, tokenizer, CHOICES)
    for group, scores in zip(encode_choices(tokenizer, CHOICES), found, strict=True):
        with torch.no_grad():
            alone = [float(logprobs(model, sequence).sum()) for sequence in group]
        assert scores == pytest.approx(alone, abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "tied"), PAIRS)
def test_the_gradients_are_those_of_the_plain_losses(
    folders: dict[bool, Path], tokenizer: Any, tmp_path: Path, variant: str, tied: bool
) -> None:
    model = steps(adapted(folders[tied], lora_dropout=0.0, **VARIANTS[variant]))
    settings = {"max_length": 256, "max_steps": 1, "disable_tqdm": True, "packing": True}
    trainer = sft_trainer(model, tokenizer, WORKED, output_dir=tmp_path / "sft", **settings)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(model, batch).backward()
    ours, total, count = gradients(model), 0.0, 0
    for problem in WORKED:
        prompt = tokenizer(sft_prompt(problem["question"])).input_ids
        end = tokenizer(sft_completion(problem["solution"], problem["answer"])).input_ids
        end += [tokenizer.eos_token_id]
        found = logprobs(model, {"input_ids": prompt + end, "labels": [-100] * len(prompt) + end})
        total, count = total - found.sum(), count + len(found)
    (total / count).backward()
    assert_same_gradients(gradients(model), ours, tolerance=1e-4)

    del settings["packing"]
    choosing = multiple_choice_trainer(
        model, tokenizer, CHOICES, output_dir=tmp_path / "choices", **settings
    )
    batch = next(iter(choosing.get_train_dataloader()))
    choosing.compute_loss(model, batch).backward()
    ours = gradients(model)
    losses = [
        cross_entropy(
            torch.stack([logprobs(model, sequence).sum() for sequence in group]),
            torch.tensor(problem["label"]),
        )
        for problem, group in zip(CHOICES, encode_choices(tokenizer, CHOICES), strict=True)
    ]
    torch.stack(losses).mean().backward()
    assert_same_gradients(gradients(model), ours, tolerance=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ADAPTED)
def test_an_adapted_embedding_is_trained_saved_loaded_and_evaluated(
    small_model_dir: Path, tokenizer: Any, tmp_path: Path, variant: str
) -> None:
    model = adapted(small_model_dir, **VARIANTS[variant])
    settings = {
        "max_length": 256, "max_steps": 3, "disable_tqdm": True, "learning_rate": 0.02,
        "per_device_train_batch_size": 2,
    }  # fmt: skip
    sft_trainer(model, tokenizer, WORKED, output_dir=tmp_path / "sft", **settings).train()
    multiple_choice_trainer(
        model, tokenizer, CHOICES, output_dir=tmp_path / "choices", **settings
    ).train()
    model.eval()
    expected = all_logits(model)
    save_adapter(model, tmp_path / "adapter")
    loaded = load_adapter(base(small_model_dir), tmp_path / "adapter")
    assert torch.equal(all_logits(loaded), expected)
    answers = worked_answers(loaded, tokenizer, WORKED, max_new_tokens=8)
    prompt = torch.tensor([tokenizer(sft_prompt(WORKED[0]["question"])).input_ids])
    written: list[int] = []
    with torch.no_grad():
        for _ in range(8):
            ids = torch.cat([prompt, torch.tensor([written], dtype=torch.long)], dim=1)
            written.append(int(loaded(input_ids=ids, use_cache=False).logits[0, -1].argmax()))
            if written[-1] == tokenizer.eos_token_id:
                break
    assert answers[0]["text"] == tokenizer.decode(written, skip_special_tokens=True)
    result = evaluate(loaded, "mathqa_tiny", tokenizer=tokenizer, limit=4)
    problems = read_problems("tiny-mathqa", split="test", limit=4)[0]
    for ours, theirs in zip(
        result.scores(), choice_logprobs(loaded, tokenizer, problems), strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-3)
    assert torch.equal(all_logits(loaded), expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", ["both saved", "tokens", "LoRA on both"])
def test_a_part_in_float32_of_a_model_in_half_precision_is_scored(
    small_model_dir: Path, tokenizer: Any, tmp_path: Path, variant: str, implementation: str
) -> None:
    save_adapter(steps(adapted(small_model_dir, **VARIANTS[variant])), tmp_path / "adapter")
    half = base(small_model_dir, dtype="bfloat16", attn_implementation=implementation)
    model = load_adapter(half, tmp_path / "adapter")
    full = load_adapter(base(small_model_dir), tmp_path / "adapter")
    for ours, exact in zip(
        choice_logprobs(model, tokenizer, CHOICES),
        choice_logprobs(full, tokenizer, CHOICES),
        strict=True,
    ):
        assert ours == pytest.approx(exact, rel=0.05)
