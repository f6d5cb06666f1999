"""What a folder holds, and writing one so that it is either whole or not there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKENIZER_CONFIG = "tokenizer_config.json"


def holds_model(folder: Path) -> bool:
    """Whether a full model, or a part of one, lies in the folder."""
    return (folder / "config.json").exists() or bool(model_files(folder))


def holds_adapter(folder: Path) -> bool:
    """Whether an adapter, or a part of one, lies in the folder."""
    return (folder / ADAPTER_CONFIG).exists() or any(folder.glob("adapter_model.*"))


def model_files(folder: Path) -> list[Path]:
    """The weight files of a full model: one, or the shards of a large one."""
    return sorted([*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin")])


def refuse_mixed(folder: Path) -> None:
    """Raise ValueError where full weights and an adapter lie together.

    Loaders prefer one or the other without a word. An adapter on top of weights into which
    it was merged already counts twice, and which weights were meant cannot be told.
    """
    if holds_model(folder) and holds_adapter(folder):
        raise ValueError(
            f"{folder} holds a full model and an adapter: which one is meant cannot be told. "
            "Keep them in two folders: move adapter_config.json, adapter_model.* and "
            "base_identity.json to one of their own, and be sure that the weights are the base "
            "and not base + adapter merged"
        )


def check_safetensors(path: Path) -> None:
    """Raise ValueError where the file is empty, cut short, or no safetensors file.

    The header lists the extent of every tensor, so a cut file shows without reading the data.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as tensors:
            names = list(tensors.keys())
    except SafetensorError as error:
        raise ValueError(
            f"{path} ({path.stat().st_size:,} bytes) is damaged or cut short ({error}): "
            "copy or download it again"
        ) from error
    if not names:
        raise ValueError(f"{path} holds no tensors: save or download it again")


@contextmanager
def replaced_folder(folder: Path, *, keep_others: bool = True) -> Iterator[Path]:
    """Give a new empty folder to write to; it takes the place of `folder` when all went well.

    A failure or a kill leaves what was there before. Files of other names in an existing
    `folder` would be lost, so they are an error (ValueError) unless `keep_others` is False.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)  # what a process of the same number left
    new.mkdir()
    try:
        yield new
        if not folder.exists():
            os.rename(new, folder)
            return
        if not folder.is_dir():
            raise ValueError(f"{folder} is a file: choose a folder")
        others = sorted({p.name for p in folder.iterdir()} - {p.name for p in new.iterdir()})
        if others and keep_others:
            raise ValueError(
                f"{folder} holds other files ({', '.join(others[:5])}): choose an empty folder"
            )
        old = new.with_name(new.name.replace(".new-", ".old-"))
        os.rename(folder, old)
        os.rename(new, folder)
        shutil.rmtree(old)
    finally:
        shutil.rmtree(new, ignore_errors=True)
