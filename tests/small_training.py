"""A short multiple-choice training run of a small random model, for tests of checkpoints."""

from pathlib import Path
from typing import Any

from mathsft.data.problems import read_problems
from mathsft.models.loading import load_model
from mathsft.training.make import multiple_choice_trainer

PROBLEMS = read_problems("tiny-mathqa", limit=40)[0]


def trainer(small_model_dir: Path, folder: Path, **arguments: Any) -> Any:
    quantize = arguments.pop("quantize", False)
    model, tokenizer = load_model(small_model_dir, quantize=quantize, lora={"r": 4}, device="cpu")
    model = arguments.pop("model", model)
    settings = {
        "output_dir": folder, "max_steps": 6, "save_strategy": "steps", "save_steps": 2,
        "per_device_train_batch_size": 4, "max_length": 256, "learning_rate": 1e-3,
        "disable_tqdm": True, "logging_steps": 1,
    }  # fmt: skip
    rows = arguments.pop("problems", PROBLEMS)
    return multiple_choice_trainer(model, tokenizer, rows, **{**settings, **arguments})


def weights(checkpoint: Path) -> bytes:
    return (checkpoint / "adapter_model.safetensors").read_bytes()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path: Path) -> None:
    path.write_bytes(b"")
