"""Fixtures that several test files share. Everything here runs offline."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A busy machine makes no test fail: how long an example takes is not what they test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# The expected numbers are those of a CPU, in places to the bit. To run the tests marked gpu,
# set this variable to a device.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "disabled")


# `make test-slow` gives a file to the next free process. If a long one came last, the other process
# would wait for it.
LONGEST = [
    "benchmarks", "distributed", "multiple_choice_learning", "survival", "minimal", "estimate",
    "lesson_on_real_rows", "compiling", "gpu_benchmark", "scaling", "cli_recipes", "slurm",
    "readme", "row_memory", "deduplicate_slurm", "watch_served", "preference_cli", "policy_cli",
    "adapted_embeddings", "harness", "site",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_collection_finish() -> None:
    """Exclude all imported objects from garbage collection, which every training run calls.

    Collecting all of torch and transformers takes 0.4 s, the rest only some milliseconds.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with real MathQA and GSM8K rows, which are not part of the repository."""
    folder = os.environ.get("MATHSFT_DATA_DIR")
    if not folder:
        pytest.skip("needs real rows: set MATHSFT_DATA_DIR to a folder with gsm8k/ and mathqa/")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.fail(f"MATHSFT_DATA_DIR={folder} is not a folder")
    return path


@pytest.fixture(scope="session")
def real_choices(data_dir: Path) -> Any:
    """All GSM8K training rows, with generated choices."""
    from mathsft.data.choices import add_choices
    from mathsft.data.problems import read_problems

    return add_choices(read_problems(data_dir / "gsm8k" / "train.jsonl")[0])


@pytest.fixture(scope="session")
def tiny_choices() -> Any:
    """The generated grade-school problems, with generated choices."""
    from mathsft.data.choices import add_choices
    from mathsft.data.problems import read_problems

    return add_choices(read_problems("tiny-gsm")[0])


@pytest.fixture(scope="session")
def small_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Qwen2 with its own byte-level BPE, saved like a model of the hub."""
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    from mathsft.models.tiny.corpus import train_tokenizer

    folder = tmp_path_factory.mktemp("models") / "small"
    text = [
        f"### Question:\nTom has {n} apples and eats {n // 2}. How many are left?\n\n"
        f"### Answer:\nHe has {n} - {n // 2} = {n - n // 2} apples left.\n#### {n - n // 2}"
        for n in range(100)
    ]
    tokenizer = train_tokenizer(text, vocab_size=400)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def written(small_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real training run with checkpoints 2, 4 and 6."""
    from small_training import trainer

    folder = tmp_path_factory.mktemp("training")
    trainer(small_model_dir, folder).train()
    return folder


@pytest.fixture
def training(written: Path, tmp_path: Path) -> Path:
    """A copy of that folder, which a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "training"))


@pytest.fixture
def adapter(small_model_dir: Path, tmp_path: Path) -> Path:
    """The folder of an adapter of the small model, as training leaves it."""
    from model_files import base, trained

    from mathsft.models.adapters import save_adapter

    return save_adapter(trained(base(small_model_dir)), tmp_path / "adapter")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MATHSFT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_model(**_: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("mathsft.training.by_recipe.load_model", load_model)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The system's browser; without one the test is skipped."""
    from browser import chromium

    with chromium() as it:
        yield it
