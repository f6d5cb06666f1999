"""Open what a training run left, a model or an adapter on its base; merge it into a folder."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mathsft.models.adapter_files import local_adapter, read_config
from mathsft.models.adapters import load_adapter
from mathsft.models.loading import adapter_tokenizer, load_model
from mathsft.models.merging import merge_adapter
from mathsft.models.model_files import TINY, check_folder, holds_adapter, holds_model


def load_tuned(
    source: str | Path = "tiny",
    *,
    peft: str | Path | None = None,
    quantize: bool = False,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Load a model with its tokenizer, also from an adapter's folder, whose base is then found.

    Args:
        source: "tiny", a folder with a model, a hub name, or a folder with an adapter. The
            adapter's configuration names its base.
        peft: an adapter to put on ``source``, which is then its base; a folder or a hub name.
        quantize: load the base in 4 bits (`load_model`).
        dtype: of the base's weights, as in `load_model`.
        device: as in `load_model`.
        revision: branch, tag or commit of a base from the hub.

    The tokenizer is the one that was saved with the adapter, if there is one: it has the chat
    template of the training.

    Raises:
        ValueError: ``source`` is an adapter and ``peft`` another one; the adapter names no base, or
            is that of a reward model; and what `load_model` and `load_adapter` raise.
        FileNotFoundError: a folder is missing, also that of the adapter's base.
    """
    folder = Path(source).expanduser()
    if source != "tiny" and folder.is_dir() and holds_adapter(folder) and not holds_model(folder):
        if peft is not None:
            raise ValueError(
                f"{source} is an adapter, and peft={str(peft)!r} is another one: give the base and "
                "one adapter"
            )
        source, peft = base_name(folder), folder
    if peft is not None:
        _refuse_reward_model(peft)
    base, tokenizer = load_model(
        source, quantize=quantize, dtype=dtype, device=device, revision=revision
    )
    if peft is None:
        return base, tokenizer
    model = load_adapter(base, peft)
    return model, adapter_tokenizer(peft, model) or tokenizer


def base_name(adapter: str | Path) -> str:
    """The name or folder of the base that an adapter was trained on; "tiny" for the embedded model.

    Args:
        adapter: an adapter's folder, or its name on the hub.

    The embedded model is recorded with its folder on the machine of the training. On another one
    that folder may be absent, and its last parts tell the model.

    Raises FileNotFoundError if the base was a folder that does not exist here, and ValueError if
    the adapter does not name its base.
    """
    where = local_adapter(adapter, None)
    name = read_config(where).base_model_name_or_path
    again = "give the base yourself, and the adapter as peft"
    if not name:
        raise ValueError(f"{where}: the adapter does not name its base: {again}")
    path = Path(name)
    if path == TINY or path.parts[-3:] == TINY.parts[-3:]:
        return "tiny"
    if path.is_absolute() and not path.exists():
        raise FileNotFoundError(
            f"{where} was trained on {name}, which is not on this machine: {again}"
        )
    return str(name)


def merge_folder(
    adapter: str | Path,
    output_dir: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str = "float32",
    revision: str | None = None,
) -> Path:
    """Merge an adapter into its base, and save the whole model with its tokenizer.

    Args:
        adapter: an adapter's folder, or its name on the hub.
        output_dir: a new folder, or an empty one. The model is written beside it and renamed, so
            it is there completely or not at all.
        base: the base model; default: the one that the adapter names.
        dtype: of the weights, while they are merged and in the files. "float32" loses nothing;
            "bfloat16" and "float16" need half the memory and space, and round.
        revision: branch, tag or commit of a base from the hub.

    The logits of the merged model must be those of base and adapter (`merge_adapter`), and the
    files must hold the weights in memory.

    Raises:
        ValueError: the folder is not empty; merging changes the logits by more than rounding; or
            what `load_tuned` and `merge_adapter` raise.
    """
    target = Path(output_dir).expanduser()
    if target.is_dir() and any(target.iterdir()):
        raise ValueError(f"{output_dir} is not empty: give a new folder for the merged model")
    check_folder(target, holds="model")
    found = base if base is not None else base_name(adapter)
    model: Any
    model, tokenizer = load_tuned(found, peft=adapter, dtype=dtype, revision=revision)
    merge_adapter(model, target, tokenizer=tokenizer)
    return target


def _refuse_reward_model(adapter: str | Path) -> None:
    config = read_config(local_adapter(adapter, None))
    if config.task_type == "SEQ_CLS":
        raise ValueError(
            f"{adapter} is the adapter of a reward model or a classifier, which writes no text: "
            "load_reward_model and load_adapter load it, merge_adapter merges it"
        )
