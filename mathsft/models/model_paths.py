"""From the name of a model to its files: the embedded one, a folder, or the hub."""

import json
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


TINY = Path(__file__).parent / "tiny"


def checked_source(name: str | Path, revision: str | None) -> str:
    """What `from_pretrained` is given: a checked folder, or a hub name as it is.

    Raises FileNotFoundError where a folder or a file in it is absent, ValueError where the
    folder holds an adapter or a damaged file.
    """
    folder = TINY if name == "tiny" else Path(name).expanduser()
    if not folder.is_dir():
        _refuse_lost_folder(name, folder)
        return str(name)
    if revision is not None:
        raise ValueError(f"revision={revision!r} is for hub names; {name} is a folder")
    refuse_mixed(folder)
    if holds_adapter(folder):
        raise ValueError(
            f"{folder} holds an adapter, not a model. Load its base first "
            f"({_adapter_base(folder)}), then: model = load_adapter(model, {str(folder)!r})"
        )
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no config.json, so it is no saved model. It holds: "
            f"{', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}"
        )
    weights = model_files(folder)
    if not any(path.suffix == ".safetensors" for path in weights):
        found = f"only {weights[0].name}" if weights else "no weights"
        raise FileNotFoundError(
            f"{folder} holds {found}; model.safetensors is wanted. Other formats can run code "
            "when they are opened; save the model again with save_pretrained"
        )
    for path in weights:
        if path.suffix == ".safetensors":
            check_safetensors(path)
    return str(folder)


def _refuse_lost_folder(name: str | Path, folder: Path) -> None:
    text = str(name)
    looks_like_path = isinstance(name, Path) or text.startswith((".", "/", "~", "\\"))
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give the folder that holds config.json")
    if looks_like_path or text.count("/") > 1:
        raise FileNotFoundError(f"no folder {folder} (from {Path.cwd()})")


def _adapter_base(folder: Path) -> str:
    try:
        text = (folder / ADAPTER_CONFIG).read_text(encoding="utf-8")
        base = json.loads(text)["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return "its name is not recorded"
    return f"load_model({base!r})" if base else "its name is not recorded"
