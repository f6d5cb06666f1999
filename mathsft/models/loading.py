"""Load a language model and its tokenizer, or say plainly why not.

The embedded default, a local folder and a hub name are all loaded by the same code
(`mathsft.models.pretrained`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mathsft.checks import check_numbers, unknown_name
from mathsft.device import DeviceDefaults, device_defaults
from mathsft.models.adapter_files import local_adapter
from mathsft.models.adapters import add_adapter
from mathsft.models.chat_template import set_chat_template
from mathsft.models.heads import classifies
from mathsft.models.model_files import TOKENIZER_CONFIG, checked_source
from mathsft.models.pretrained import (
    load_tokenizer,
    load_weights,
    load_with_attention,
    model_config,
    nf4_config,
    refuse_hub_adapter,
    stay_trainable,
)
from mathsft.models.trained_weights import lora_config

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_model(
    name: str | Path = "tiny",
    *,
    quantize: bool = False,
    lora: bool | dict[str, Any] | LoraConfig = False,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    chat_template_path: str | Path | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, in eval mode, on one device.

    Args:
        name: "tiny" for the model that comes with the package, a folder, or a hub name.
        quantize: load the projections as 4-bit NF4 with double quantisation (Dettmers et al.
            2023, QLoRA, arXiv:2305.14314). Embedding, norms and output head stay in `dtype`.
        lora: True adds a LoRA adapter (see `add_adapter` for the defaults). A dict overrides
            single settings, such as ``{"r": 8, "use_dora": True}``: any setting of peft's
            `LoraConfig`, and ``seed``. A `LoraConfig` is used without our defaults. The model is
            then a `peft.PeftModel`.
        dtype: of the weights, and the compute dtype of 4-bit layers; default: `device_defaults`.
        attn_implementation: default: `device_defaults`, or "eager" if the model does not support
            that attention (a printed line says so).
        device: default: the CUDA device of this process (``LOCAL_RANK``), else the CPU.
        revision: branch, tag or commit of a hub name.
        chat_template_path: a Jinja file that replaces the checkpoint's chat template. No token
            is added for it: turns should end with a special token that the tokenizer already
            has. This is checked when conversations are tokenised.

    The embedding is not upcast to float32 as `prepare_model_for_kbit_training` would do: for a
    vocabulary of 151,936 that alone costs 0.5 GB and more, and nothing here needs it.

    The tokenizer has a padding token. If the checkpoint names none, it is the end-of-text token
    (as in Qwen2.5 base), so padding is distinguished from a real stop by position, never by id.
    Its `padding_side` is the checkpoint's own: set it if it matters ("left" to generate).

    Raises:
        FileNotFoundError: the folder does not exist, or it has no config.json or no weights; the
            chat template does not exist.
        OSError: the hub could not provide the model (offline, unknown, or gated).
        ValueError: weights are missing, unexpected, damaged or of another shape; the folder holds
            an adapter; an unknown `lora` key or dtype; more tokens than embeddings; a chat
            template that is not valid Jinja.
    """
    settings = lora_settings(lora)
    model, tokenizer = load_base(
        name,
        quantize=quantize,
        dtype=dtype,
        attn_implementation=attn_implementation,
        device=device,
        revision=revision,
        chat_template_path=chat_template_path,
    )
    if settings is not None:
        model = add_adapter(model, **settings)
    return model, tokenizer


def load_base(
    name: str | Path,
    *,
    quantize: bool,
    dtype: torch.dtype | str | None,
    attn_implementation: str | None,
    device: torch.device | str | None,
    revision: str | None,
    chat_template_path: str | Path | None,
    **head: Any,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a model without an adapter; ``head``: options of a model for sequence classification.

    The arguments and errors are those of `load_model`.
    """
    source = checked_source(name, revision)
    target, choice = _device_and_defaults(device)
    weights_dtype = _dtype(dtype, choice)
    refuse_hub_adapter(source, revision)
    if not head and classifies(model_config(name, revision)):
        raise ValueError(
            f"{source} is a model for sequence classification (a reward model, or a classifier), "
            "which writes no text: load it with load_reward_model"
        )
    tokenizer = load_tokenizer(source, revision)
    if chat_template_path is not None:
        set_chat_template(tokenizer, chat_template_path)
    options: dict[str, Any] = {"dtype": weights_dtype, **head}
    if quantize:
        options["quantization_config"] = nf4_config(weights_dtype)
    if quantize or target.type == "cuda":
        options["device_map"] = {"": str(target)}  # straight to the device, no copy in main memory
    model: Any
    if attn_implementation is None:
        model = load_with_attention(source, revision, choice.attn_implementation, options)
    else:
        named = {**options, "attn_implementation": attn_implementation}
        model = load_weights(source, revision, named)
    if quantize:
        stay_trainable(model)
    else:
        model.to(target)
    check_vocabulary(tokenizer, model, source=source)
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None and config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def adapter_tokenizer(folder: str | Path, model: Any) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer that `save_adapter` stored beside an adapter, with its chat template.

    Returns None if there is none: the base's own is then right. ``folder`` may be a hub name.
    Raises ValueError if it has more tokens than the model has embeddings.
    """
    where = local_adapter(folder, None)
    if not (where / TOKENIZER_CONFIG).exists():
        return None
    tokenizer = load_tokenizer(str(where), None)
    check_vocabulary(tokenizer, model, source=str(where))
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: Any, *, source: str) -> None:
    """Raise ValueError if the tokenizer has more tokens than the model has embeddings."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens, the model only {rows} "
            "embeddings: the tokenizer belongs to another model"
        )


def lora_settings(lora: bool | dict[str, Any] | LoraConfig) -> dict[str, Any] | None:
    """Return keyword arguments for `add_adapter`, or None; checked before anything is loaded."""
    if lora is False or lora is None:
        return None
    if lora is True:
        return {}
    if not isinstance(lora, Mapping):
        return {"config": lora_config(lora)}
    check_numbers({"lora": lora})
    lora_config(**{key: value for key, value in lora.items() if key != "seed"})
    return dict(lora)


def _device_and_defaults(device: torch.device | str | None) -> tuple[torch.device, DeviceDefaults]:
    if device is None:
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        device = f"cuda:{rank}" if torch.cuda.is_available() else "cpu"
    target = torch.device(device)
    if target.type != "cuda":
        return target, device_defaults(None)
    if not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} was requested, but PyTorch finds no CUDA device")
    return target, device_defaults(torch.cuda.get_device_capability(target))


def _dtype(dtype: torch.dtype | str | None, choice: DeviceDefaults) -> torch.dtype:
    if dtype is None:
        return choice.dtype
    if isinstance(dtype, str):
        name = dtype.removeprefix("torch.")
        if name not in _DTYPES:
            raise ValueError(unknown_name("dtype", name, _DTYPES))
        return _DTYPES[name]
    return dtype
