"""From the name of a model to its files (embedded, in a folder, on the hub), and what they hold.

Beside the weights that is the vocabulary and the text files. A chat-tuned adapter without its
chat template, or without the token that ends its turns, answers in another form than it was
trained for, and does not stop.
"""

import copy
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from mathsft.compat import commit_of
from mathsft.models.encoding import stop_tokens
from mathsft.processes import say

TINY = Path(__file__).parent / "tiny"
GENERATION_CONFIG = "generation_config.json"
# The files of tokenizers, chat templates and generation configs, as patterns for a download.
TEXT_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
    "*.model", "chat_template*", "additional_chat_templates/*", GENERATION_CONFIG,
)  # fmt: skip

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


def checkpoint_folder(base: PreTrainedModel) -> Path | None:
    """The folder that the model was loaded from, in the hub's cache too; None if it is gone."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if not base.name_or_path:
        return None
    folder = Path(base.name_or_path)
    if folder.is_dir():
        return folder
    revision = commit_of(base.config)
    try:
        config = try_to_load_from_cache(base.name_or_path, "config.json", revision=revision)
    except HFValidationError:  # a folder that is gone, not a hub name
        return None
    return Path(config).parent if isinstance(config, str) else None


def checkpoint_config(base: PreTrainedModel) -> Any:
    """The configuration on disk; None without one. That in memory follows every resizing."""
    folder = checkpoint_folder(base)
    if folder is None or not (folder / "config.json").is_file():
        return None
    return type(base.config).from_pretrained(folder)


def has_new_vocabulary(base: PreTrainedModel) -> bool:
    """Whether the embeddings have other rows than the checkpoint's (`resize_token_embeddings`)."""
    stored = checkpoint_config(base)
    if stored is None:
        return False
    return vocabulary(stored) != vocabulary(base.config)


def vocabulary(config: Any) -> int:
    """Rows of the embedding; the layer itself may be wrapped by an adapter, or sharded."""
    return int(config.get_text_config().vocab_size)


def weight_files(base: PreTrainedModel) -> list[Path]:
    """The checkpoint's safetensors files; [] without a checkpoint."""
    folder = checkpoint_folder(base)
    if folder is None:
        return []
    return [path for path in model_files(folder) if path.suffix == ".safetensors"]


def save_text_files(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the tokenizer, its chat template, and a generation config that names every stop.

    The config is the model's own, with `stop_tokens` as its ``eos_token_id``.
    """
    tokenizer.save_pretrained(folder)
    inner = getattr(model, "get_base_model", lambda: model)()
    config = copy.deepcopy(inner.generation_config)
    config.eos_token_id = _one_or_all(stop_tokens(model, tokenizer))
    try:
        config.save_pretrained(folder)
    except ValueError as error:  # transformers loads settings that it does not save
        say(f"{GENERATION_CONFIG} names the stop tokens alone: {str(error).splitlines()[0]}")
        GenerationConfig(
            eos_token_id=config.eos_token_id, pad_token_id=tokenizer.pad_token_id
        ).save_pretrained(folder)


def add_recorded_stops(model: Any, folder: Path) -> None:
    """Let ``model`` also end where the generation config in ``folder`` says, if there is one."""
    if not (folder / GENERATION_CONFIG).exists():
        return
    recorded, own = GenerationConfig.from_pretrained(folder), model.generation_config
    known: list[int] = []
    for stops in (own.eos_token_id, recorded.eos_token_id):
        known += [stops] if isinstance(stops, int) else list(stops or ())
    if known:
        own.eos_token_id = _one_or_all(sorted(set(known)))


def _one_or_all(stops: list[int]) -> int | list[int]:
    """As checkpoints write it: a list only where there are several."""
    return stops[0] if len(stops) == 1 else stops
