"""What a checkpoint on disk holds beside its weights: its vocabulary, and its text files.

A chat-tuned adapter without its chat template, or without the stop that its turns end with,
answers in another form than it was trained for, and does not stop.
"""

import copy
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from mathsft.compat import commit_of
from mathsft.models.encoding import stop_tokens
from mathsft.models.model_paths import model_files
from mathsft.processes import say


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


GENERATION_CONFIG = "generation_config.json"
# The files of tokenizers, chat templates and generation configs, as patterns for a download.
TEXT_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
    "*.model", "chat_template*", "additional_chat_templates/*", GENERATION_CONFIG,
)  # fmt: skip


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
