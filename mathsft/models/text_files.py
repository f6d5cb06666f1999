"""What stands beside weights so that text goes in and out as in training.

A chat-tuned adapter without its chat template, or without the stop that its turns end with,
answers in another form than it was trained for, and does not stop.
"""

import copy
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from mathsft.models.encoding import stop_tokens
from mathsft.processes import say

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
