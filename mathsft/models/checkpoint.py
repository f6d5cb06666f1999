"""What lies on disk under the name that a model in memory bears."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from mathsft.models.folders import model_files


def checkpoint_folder(base: PreTrainedModel) -> Path | None:
    """The folder that the model was loaded from, in the hub's cache too; None if it is gone."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if not base.name_or_path:
        return None
    folder = Path(base.name_or_path)
    if folder.is_dir():
        return folder
    revision = getattr(base.config, "_commit_hash", None)
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
