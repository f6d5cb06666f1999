"""The memory estimated before anything is loaded is the memory that training then uses."""

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from allocations import PeakMemory
from model_files import qwen_config
from transformers import Qwen2Config, Qwen2ForCausalLM

from mathsft.data.problems import read_problems
from mathsft.device import PROFILES
from mathsft.models.loading import load_model
from mathsft.objectives import objective_class
from mathsft.recipes import load_recipe
from mathsft.recipes.estimate import estimate_memory
from mathsft.training import footprint as counting
from mathsft.training.footprint import MemoryEstimate, Shapes
from mathsft.training.make import make_trainer


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Width, heads and vocabulary of Qwen2.5-0.5B, with two of its 24 layers."""
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    Qwen2ForCausalLM(qwen_config(layers=2)).save_pretrained(folder)
    load_model("tiny")[1].save_pretrained(folder)
    return folder


def measured_and_estimated(
    name: str | Path, folder: Path, *, section: str, quantize: bool,
    lora: bool | dict[str, Any], **settings: Any,
) -> tuple[float, float]:  # fmt: skip
    """Peak GB of two optimiser steps, and the estimate of `estimate_memory` for them."""
    model, tokenizer = load_model(name, quantize=quantize, lora=lora, device="cpu")
    own = sum(p.numel() * p.element_size() for p in model.parameters())
    peak = PeakMemory()
    rows: Any = read_problems("tiny-mathqa" if section == "multiple_choice" else "tiny-gsm")[0]
    rows = rows.select(range(200)).to_list()
    if section == "dpo":
        rows = [
            {"prompt": row["question"], "chosen": row["solution"], "rejected": other["solution"]}
            for row, other in pairwise(rows)
        ]
    trainer = make_trainer(
        model, tokenizer, rows, objective_class(section)(), output_dir=folder, max_steps=2,
        callbacks=[peak], disable_tqdm=True, **settings,
    )  # fmt: skip
    # The estimate cannot know lengths and numbers of trained tokens: they come from the batches.
    size, collate = settings["per_device_train_batch_size"], trainer.data_collator
    batches: list[Any] = []
    trainer.data_collator = lambda rows: batches.append(collate(rows)) or batches[-1]
    trainer.train()
    tokens = [batch["input_ids"].numel() for batch in batches]
    trained = sum(len(batch["predictor"]) for batch in batches) / sum(tokens)
    settings["max_length"] = max(batch["input_ids"].shape[1] for batch in batches)
    recipe = {"model": {"name": str(name), "quantize": quantize, "lora": lora}, section: settings}
    group = None if section == "sft" else max(tokens) // size
    found = estimate_memory(
        recipe, section, device="cpu", trained_share=trained, question_tokens=group
    )
    return (own + peak.bytes) / 1e9, found.total


CASES = [
    ("tiny", "sft", True, 0.05, 8, 256, False),
    ("tiny", "sft", False, 0.0, 8, 256, False),
    ("tiny", "sft", True, 0.05, 8, 256, True),
    ("tiny", "multiple_choice", True, 0.05, 32, 256, False),
    ("tiny", "dpo", True, 0.05, 16, 256, False),
    ("wide", "sft", True, 0.05, 4, 512, False),
    ("wide", "sft", True, 0.05, 4, 512, True),
    ("wide", "sft", False, 0.0, 2, 512, False),
    ("wide", "multiple_choice", True, 0.0, 16, 512, False),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "section", "quantize", "dropout", "batch", "length", "checkpointing"), CASES
)
def test_the_estimate_is_within_fifteen_per_cent_of_the_peak_of_real_allocations(
    model: str, section: str, quantize: bool, dropout: float, batch: int, length: int,
    checkpointing: bool, request: pytest.FixtureRequest, tmp_path: Path,
) -> None:  # fmt: skip
    name = request.getfixturevalue("wide") if model == "wide" else model
    measured, estimated = measured_and_estimated(
        name, tmp_path, section=section, quantize=quantize, lora={"lora_dropout": dropout},
        max_length=length, per_device_train_batch_size=batch, gradient_checkpointing=checkpointing,
    )  # fmt: skip
    print(f"measured {measured:.4f} GB, estimated {estimated:.4f}: {estimated / measured:.3f}")
    assert estimated == pytest.approx(measured, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "section", "batch", "length", "steps", "checkpointing"),
    [
        ("tiny", "sft", 8, 256, 1, False),
        ("tiny", "sft", 8, 256, 1, True),
        ("tiny", "multiple_choice", 32, 256, 2, False),
        ("wide", "sft", 1, 256, 1, False),
    ],
)
def test_the_estimate_of_full_fine_tuning_is_as_close(
    model: str, section: str, batch: int, length: int, steps: int, checkpointing: bool,
    request: pytest.FixtureRequest, tmp_path: Path,
) -> None:  # fmt: skip
    name = request.getfixturevalue("wide") if model == "wide" else model
    measured, estimated = measured_and_estimated(
        name, tmp_path, section=section, quantize=False, lora=False, max_length=length,
        per_device_train_batch_size=batch, gradient_accumulation_steps=steps,
        gradient_checkpointing=checkpointing,
    )  # fmt: skip
    print(f"measured {measured:.4f} GB, estimated {estimated:.4f}: {estimated / measured:.3f}")
    assert estimated == pytest.approx(measured, rel=0.15)


def test_the_shapes_are_those_of_the_loaded_model() -> None:
    shapes = Shapes.of("tiny")
    model, _ = load_model("tiny", lora=True, device="cpu")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert shapes.adapted == trained
    assert shapes.projected + shapes.other + trained == sum(p.numel() for p in model.parameters())


def test_shipped_recipes_fit_their_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the published shapes of Qwen2.5; the hub is not contacted."""
    published = {
        "Qwen/Qwen2.5-0.5B": qwen_config(layers=24),
        "Qwen/Qwen2.5-1.5B": Qwen2Config(
            vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
            num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True,
        ),
    }  # fmt: skip
    real = counting.model_config
    monkeypatch.setattr(
        counting,
        "model_config",
        lambda name, revision: published.get(name) or real(name, revision),
    )
    for profile in PROFILES:
        for section in ("sft", "multiple_choice", "mixing"):
            found = estimate_memory(profile, section)
            print(profile, section, found, sep="\n")
            if profile != "tiny":
                assert found.verdict.startswith(("fits a T4 (15 GB)", "fits an A100 (42 GB)"))
    small, large = load_recipe("t4"), load_recipe("t4")
    large["model"]["name"] = "Qwen/Qwen2.5-1.5B"
    assert estimate_memory(small, device="t4").weights == pytest.approx(0.46, abs=0.01)
    print(estimate_memory(large, device="t4"))

    # The verdict names the first change that helps, and it does help.
    for recipe, batch in ((small, 32), (large, 4)):
        recipe["sft"]["per_device_train_batch_size"] = batch
        del recipe["sft"]["step_rows"]
    found = estimate_memory(small, device="t4")
    assert found.total > 15
    assert "does not fit a T4 (15 GB); with gradient_checkpointing: true it would" in found.verdict
    small["sft"]["gradient_checkpointing"] = True
    assert estimate_memory(small, device="t4").verdict == "fits a T4 (15 GB)"
    tight = estimate_memory(large, device="t4", memory=1.9)
    assert "gradient_checkpointing: true, per_device_train_batch_size: " in tight.verdict
    assert "take a smaller model" in estimate_memory(large, device="t4", memory=0.1).verdict
    plain = {"model": {"name": "Qwen/Qwen2.5-1.5B"}, "sft": {"per_device_train_batch_size": 1}}
    needed = estimate_memory(plain, device="t4").total
    halved = estimate_memory(plain, device="t4", memory=needed - 1)
    assert "with quantize: true it would" in halved.verdict


def test_what_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'multiple_choice'"):
        estimate_memory("tiny", "multiple-choice")
    with pytest.raises(ValueError, match=r"unknown device 'l4'.*give its memory in GB"):
        estimate_memory("tiny", device="L4")
    with pytest.raises(ValueError, match="unknown LoRA setting 'rank'"):
        estimate_memory("tiny", lora={"rank": 8})
    with pytest.raises(ValueError, match="shards=0: give the number of processes"):
        estimate_memory("tiny", shards=0)
    with pytest.raises(ValueError, match="4-bit weights cannot be trained"):
        estimate_memory("tiny", lora=False)  # the recipe quantises
    with pytest.raises(FileNotFoundError, match="recipe"):
        estimate_memory("t5")
    with pytest.raises(OSError, match=r"configuration 'Qwen(.|\n)*HF_HUB_OFFLINE is set"):
        estimate_memory("t4")


def test_free_memory_of_a_cpu_is_read_and_fewer_adapters_count_less() -> None:
    found = estimate_memory("tiny")
    assert re.fullmatch(r"fits \d+\.\d GB", found.verdict)
    assert f"{found.total:8.4f} GB: fits" in str(found)
    assert "does not fit 0.1 GB; with " in estimate_memory("tiny", memory=0.1).verdict
    fewer = estimate_memory("tiny", lora={"target_modules": ("q_proj", "v_proj")})
    assert 0 < fewer.adapters < found.adapters / 2


Estimator = Callable[..., MemoryEstimate]


@pytest.fixture
def half_a_billion(monkeypatch: pytest.MonkeyPatch) -> Estimator:
    """Estimates at the sizes of Qwen2.5-0.5B on an A100, for batches of 4 rows of 512 tokens."""
    monkeypatch.setattr(counting, "model_config", lambda name, revision: qwen_config(layers=24))

    def estimate(*, model: dict[str, Any] | None = None, **options: Any) -> MemoryEstimate:
        return estimate_memory({"model": model or {}, "sft": {}}, device="a100", **options)

    return estimate


def test_shards_divide_stored_tensors_and_not_activations(
    half_a_billion: Estimator,
) -> None:
    for lora in (True, False):
        whole = half_a_billion(lora=lora)
        shared = half_a_billion(lora=lora, shards=8)
        for part in ("weights", "adapters", "optimizer"):
            assert getattr(shared, part) == pytest.approx(getattr(whole, part) / 8), part
        assert shared.logits == whole.logits
        assert whole.gathered == 0
        # Embedding and two of the 24 layers in half precision, plus the gradients of a layer.
        layer = (494_032_768 - 136_134_656) / 24
        expected = 2 * (136_134_656 + 2 * layer) + 4 * layer * (not lora)
        assert shared.gathered == pytest.approx(expected / 1e9, rel=0.01)
        assert "gathered" in str(shared)
        assert "gathered" not in str(whole)

    packed = half_a_billion(quantize=True)
    shared = half_a_billion(quantize=True, shards=8)
    embedding = 2 * 136_134_656 / 1e9
    assert shared.weights == pytest.approx(packed.weights - embedding * 7 / 8, rel=0.01)


def test_the_recipe_says_what_is_trained_and_an_argument_wins(half_a_billion: Estimator) -> None:
    plain = half_a_billion()
    eight = half_a_billion(model={"lora": {"r": 8}})
    assert eight.adapters == pytest.approx(plain.adapters / 2)
    full = half_a_billion(model={"lora": False})
    assert full.weights == pytest.approx(2 * plain.weights, rel=0.01)
    assert half_a_billion(model={"lora": False}, lora=True) == plain
    packed = half_a_billion(model={"quantize": True})
    assert half_a_billion(quantize=True) == packed
    assert half_a_billion(model={"quantize": True}, quantize=False) == plain
    tight = half_a_billion(lora=False, memory=full.total - 1)
    assert re.search(r"with lora: true it would \(\d", tight.verdict)


def test_checkpointing_counts_by_its_newer_name_as_by_its_older(
    half_a_billion: Estimator,
) -> None:
    named = [
        estimate_memory({"model": {}, "sft": {f"{kind}_checkpointing": True}}, device="a100")
        for kind in ("gradient", "activation")
    ]
    assert named[0] == named[1]
    assert named[0].activations < half_a_billion().activations / 2
    recipe = {"model": {}, "sft": {"activation_checkpointing": True}}
    tight = estimate_memory(recipe, device="a100", memory=named[0].total - 1)
    assert "gradient_checkpointing" not in tight.verdict  # the recipe has it already


def test_a_recipe_that_shards_must_give_the_number_of_shards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counting, "model_config", lambda name, revision: qwen_config(layers=24))
    whole, shared = estimate_memory("cluster"), estimate_memory("cluster", shards=16)
    assert whole.verdict.startswith("fits 84.0 GB; the recipe shards the model (fsdp): give shards")
    assert shared.verdict == "fits 84.0 GB"


def test_pairs_are_counted_as_long_as_a_row_unless_their_length_is_given() -> None:
    def of(length: int, **more: Any) -> float:
        recipe = {"model": {"name": "tiny"}, "dpo": {"max_length": length}}
        return estimate_memory(recipe, "dpo", device="cpu", **more).activations

    assert of(1024) > 1.9 * of(512)
    assert of(512, question_tokens=100) < of(512) / 4
