"""From a model's name to its files (embedded, in a folder, on the hub), and their contents.

Besides the weights these are the vocabulary and the text files. A chat-tuned adapter without its
chat template, or without the token that ends its turns, answers in a form that it was not trained
for, and does not stop.
"""

import copy
from pathlib import Path
from typing import Any, Literal

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from mathsft.compat import commit_of
from mathsft.files import check_writable, read_json
from mathsft.models.encoding import stop_tokens
from mathsft.models.folders import check_replaceable, repair_folder
from mathsft.processes import say

TINY = Path(__file__).parent / "tiny"
GENERATION_CONFIG = "generation_config.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKENIZER_CONFIG = "tokenizer_config.json"


def holds_model(folder: Path) -> bool:
    """Return whether the folder holds a full model, or a part of one."""
    return (folder / "config.json").exists() or bool(model_files(folder))


def holds_adapter(folder: Path) -> bool:
    """Return whether the folder holds an adapter, or a part of one."""
    return (folder / ADAPTER_CONFIG).exists() or any(folder.glob("adapter_model.*"))


def model_files(folder: Path) -> list[Path]:
    """Return the weight files of a full model: one, or the shards of a large one."""
    return sorted([*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin")])


def refuse_mixed(folder: Path) -> None:
    """Raise ValueError if the folder holds both full weights and an adapter.

    Loaders silently prefer one or the other. If the adapter was already merged into the
    weights, loading both applies it twice, and the files do not show which case it is.
    """
    if holds_model(folder) and holds_adapter(folder):
        raise ValueError(
            f"{folder} holds a full model and an adapter, so it is unclear which one to load. "
            "Keep them in two folders: move adapter_config.json, adapter_model.* and "
            "base_identity.json to another one, and make sure that the weights are the base and "
            "not base + adapter merged"
        )


def check_safetensors(path: Path) -> None:
    """Raise ValueError if the file is empty, cut short, or not a safetensors file.

    The header lists the extent of every tensor, so a cut file is found without reading the data.
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


def check_folder(folder: str | Path, *, holds: Literal["adapter", "model"]) -> None:
    """Raise ValueError, or OSError if it is read-only, if this folder could not take what it holds.

    Call it before training: saving calls it as well, but then the work is already done. A folder
    that does not exist is fine.

    Args:
        folder: where it will be saved.
        holds: what will be saved there.
    """
    folder = Path(folder)
    repair_folder(folder)
    if holds == "adapter" and holds_model(folder):
        raise ValueError(
            f"{folder} holds a full model: an adapter beside it could be applied twice or not at "
            "all. Choose another folder"
        )
    if holds == "model" and holds_adapter(folder):
        raise ValueError(
            f"{folder} holds an adapter: a loader could add it to these weights. Choose another "
            "folder"
        )
    check_replaceable(folder)
    check_writable(folder.resolve())  # a link may point to a folder that is made then


def checked_source(name: str | Path, revision: str | None) -> str:
    """Return the source for `from_pretrained`: a checked folder, or an unchanged hub name.

    Raises FileNotFoundError if a folder or a file in it is missing, ValueError if the folder
    holds an adapter or a damaged file.
    """
    folder = TINY if name == "tiny" else Path(name).expanduser()
    repair_folder(folder)
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
            f"{folder} has no config.json, so it is not a saved model. It holds: "
            f"{', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}"
        )
    weights = model_files(folder)
    if not any(path.suffix == ".safetensors" for path in weights):
        found = f"only {weights[0].name}" if weights else "no weights"
        raise FileNotFoundError(
            f"{folder} holds {found}; model.safetensors is needed. Other formats can run code "
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
        raise FileNotFoundError(f"no folder {folder} (looked from {Path.cwd()})")


def _adapter_base(folder: Path) -> str:
    try:
        base = read_json(folder / ADAPTER_CONFIG)["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return "its name is not recorded"
    return f"load_model({base!r})" if base else "its name is not recorded"


def checkpoint_folder(base: PreTrainedModel) -> Path | None:
    """Return the folder (or hub cache) that the model was loaded from; None if it is gone."""
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
    """Return the configuration on disk, or None. (Resizing changes the one in memory.)"""
    folder = checkpoint_folder(base)
    if folder is None or not (folder / "config.json").is_file():
        return None
    return type(base.config).from_pretrained(folder)


def has_new_vocabulary(base: PreTrainedModel) -> bool:
    """Return whether the embeddings were resized after loading (`resize_token_embeddings`)."""
    stored = checkpoint_config(base)
    if stored is None:
        return False
    return vocabulary(stored) != vocabulary(base.config)


def vocabulary(config: Any) -> int:
    """Return the embedding's rows; the layer itself may be sharded or wrapped by an adapter."""
    return int(config.get_text_config().vocab_size)


def weight_files(base: PreTrainedModel) -> list[Path]:
    """Return the checkpoint's safetensors files; [] without a checkpoint."""
    folder = checkpoint_folder(base)
    if folder is None:
        return []
    return [path for path in model_files(folder) if path.suffix == ".safetensors"]


def save_text_files(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the tokenizer, its chat template, and a generation config with every stop token.

    It is the model's own, with `stop_tokens` as ``eos_token_id``; a reward model has none.
    """
    tokenizer.save_pretrained(folder)
    inner = getattr(model, "get_base_model", lambda: model)()
    if (config := copy.deepcopy(getattr(inner, "generation_config", None))) is None:
        return
    config.eos_token_id = _one_or_all(stop_tokens(model, tokenizer))
    try:
        config.save_pretrained(folder)
    except ValueError as error:  # transformers loads settings that it refuses to save
        say(f"{GENERATION_CONFIG} names only the stop tokens: {str(error).splitlines()[0]}")
        GenerationConfig(
            eos_token_id=config.eos_token_id, pad_token_id=tokenizer.pad_token_id
        ).save_pretrained(folder)


def add_recorded_stops(model: Any, folder: Path) -> None:
    """Make ``model`` also stop at the tokens in ``folder``'s generation config, if it has one."""
    if not (folder / GENERATION_CONFIG).exists():
        return
    recorded, own = GenerationConfig.from_pretrained(folder), model.generation_config
    known: list[int] = []
    for stops in (own.eos_token_id, recorded.eos_token_id):
        known += [stops] if isinstance(stops, int) else list(stops or ())
    if known:
        own.eos_token_id = _one_or_all(sorted(set(known)))


def _one_or_all(stops: list[int]) -> int | list[int]:
    """Return the ids as checkpoints write them: a list only if there are several."""
    return stops[0] if len(stops) == 1 else stops
