"""Load a language model and its tokenizer, or say plainly why not.

The embedded default, a local folder and a hub name take one and the same path:
`transformers`' `from_pretrained`, safetensors only, no code from the hub, and its
report of missing and unexpected weights read instead of logged.
"""

import copy
import os
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from mathsft.device import Policy, policy
from mathsft.models.adapters import add_adapter
from mathsft.models.chat_template import set_chat_template
from mathsft.models.quantization import nf4_config, stay_trainable
from mathsft.models.sources import checked_source
from mathsft.names import unknown_name

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_model(
    name: str | Path = "tiny",
    *,
    quantize: bool = False,
    lora: bool | dict[str, Any] = False,
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
        lora: True adds a LoRA adapter (see `add_adapter` for the defaults); a dict overrides
            single settings of it, such as ``{"r": 8}``. The model is then a `peft.PeftModel`.
        dtype: of the weights, and the compute dtype of 4-bit layers; default: `policy`.
        attn_implementation: default: `policy`.
        device: default: the CUDA device of this process (``LOCAL_RANK``), else the CPU.
        revision: branch, tag or commit of a hub name.
        chat_template_path: a Jinja file that takes the place of the checkpoint's chat template.
            No token is added for it: turns should end with a special token that the tokenizer
            has, which is checked where conversations are tokenized.

    The embedding is not upcast to float32 as `prepare_model_for_kbit_training` would do: for a
    vocabulary of 151,936 that alone costs 0.5 GB and more, and nothing here needs it.

    The tokenizer has a padding token; where the checkpoint names none it is the end-of-text
    token (as in Qwen2.5 base), so padding is told from a real stop by position, never by id.
    Its `padding_side` is the checkpoint's own: set it where it matters ("left" to generate).

    Raises:
        FileNotFoundError: no such folder, or it holds no config.json or no weights; no such
            chat template.
        OSError: the hub could not give the model (offline, unknown, or gated).
        ValueError: weights missing, left over, damaged or of another shape; the folder holds an
            adapter; an unknown `lora` key or dtype; more tokens than embeddings; a chat
            template that is no Jinja.
    """
    settings = _lora_settings(lora)
    source = checked_source(name, revision)
    target, choice = _device_and_policy(device)
    weights_dtype = _dtype(dtype, choice)
    _refuse_hub_adapter(source, revision)
    tokenizer = _load_tokenizer(source, revision)
    if chat_template_path is not None:
        set_chat_template(tokenizer, chat_template_path)
    options: dict[str, Any] = {
        "dtype": weights_dtype,
        "attn_implementation": attn_implementation or choice.attn_implementation,
    }
    if quantize:
        options["quantization_config"] = nf4_config(weights_dtype)
    if quantize or target.type == "cuda":
        options["device_map"] = {"": str(target)}  # straight to the device, no copy in main memory
    model: Any = _load_weights(source, revision, options)
    if quantize:
        stay_trainable(model)
    else:
        model.to(target)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens, the model only {rows} "
            "embeddings: the tokenizer belongs to another model"
        )
    for config in (model.config, model.generation_config):
        if config is not None and config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id
    if settings is not None:
        model = add_adapter(model, **settings)
    return model, tokenizer


def model_config(name: str | Path = "tiny", revision: str | None = None) -> PreTrainedConfig:
    """The model's configuration alone: its config.json, and nothing of its weights.

    Raises FileNotFoundError and OSError as `load_model` does.
    """
    from transformers import AutoConfig

    source = checked_source(name, revision)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
    except OSError as error:
        raise _unreachable(source, "configuration", error) from error
    return config


def _lora_settings(lora: bool | dict[str, Any]) -> dict[str, Any] | None:
    """Keyword arguments of `add_adapter`, or None; checked before anything is loaded."""
    if lora is False or lora is None:
        return None
    settings = {} if lora is True else dict(lora)
    known = list(add_adapter.__kwdefaults__ or ())
    for key in settings:
        if key not in known:
            raise ValueError(unknown_name("LoRA setting", key, known))
    return settings


def _device_and_policy(device: torch.device | str | None) -> tuple[torch.device, Policy]:
    if device is None:
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        device = f"cuda:{rank}" if torch.cuda.is_available() else "cpu"
    target = torch.device(device)
    if target.type != "cuda":
        return target, policy(None)
    if not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} was asked for, but PyTorch finds no CUDA device")
    return target, policy(torch.cuda.get_device_capability(target))


def _dtype(dtype: torch.dtype | str | None, choice: Policy) -> torch.dtype:
    if dtype is None:
        return choice.dtype
    if isinstance(dtype, str):
        name = dtype.removeprefix("torch.")
        if name not in _DTYPES:
            raise ValueError(unknown_name("dtype", name, _DTYPES))
        return _DTYPES[name]
    return dtype


def _load_tokenizer(source: str, revision: str | None) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
    except OSError as error:
        raise _unreachable(source, "tokenizer", error) from error
    # Where the files of the tokenizer are absent, transformers makes an empty one in silence.
    if not tokenizer("a 1", add_special_tokens=False)["input_ids"]:
        raise ValueError(
            f"{source}: the tokenizer turns text into nothing; its files (tokenizer.json) are "
            "absent or damaged. Save it beside the model with tokenizer.save_pretrained"
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"{source}: the tokenizer has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_weights(source: str, revision: str | None, options: dict[str, Any]) -> PreTrainedModel:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    loaded: Any
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except SafetensorError as error:
        raise ValueError(
            f"{source}: a weight file is damaged or cut short ({error}): download it again"
        ) from error
    except OSError as error:
        raise _unreachable(source, "model", error) from error
    except RuntimeError as error:
        if "mismatch" not in str(error):
            raise
        raise _other_shapes(source, str(error).split("\n")[0]) from error
    model, report = loaded
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if wrong:
        found = "; ".join(
            f"{len(names)} {kind.replace('_', ' ')} ({', '.join(names[:3])}"
            f"{', …' if len(names) > 3 else ''})"
            for kind, names in wrong.items()
        )
        raise ValueError(
            f"{source}: the weights do not fit the model: {found}. Missing weights would be "
            "random; save the model again, or take the config.json that belongs to it"
        )
    _check_shapes(source, model)
    return model


def _check_shapes(source: str, model: PreTrainedModel) -> None:
    """Shapes against the architecture: with 4-bit weights transformers does not compare them."""
    with torch.device("meta"):
        empty = type(model)(copy.deepcopy(model.config))
    wanted = {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()}
    for name, parameter in model.named_parameters():
        shape = tuple(getattr(parameter, "quant_state", parameter).shape)
        if shape != wanted[name]:
            raise _other_shapes(source, f"{name} is {shape}, {wanted[name]} wanted")


def _other_shapes(source: str, detail: str) -> ValueError:
    return ValueError(
        f"{source}: the weights have other shapes than config.json says, so the two files "
        f"belong to different models: {detail}"
    )


def _refuse_hub_adapter(source: str, revision: str | None) -> None:
    """transformers would load the adapter's base, put the adapter on it, and not say so."""
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        found = find_adapter_config_file(source, revision=revision)
    except OSError as error:
        raise _unreachable(source, "model", error) from error
    if found is not None:
        raise ValueError(
            f"{source} is an adapter, not a model: load its base, then "
            f"model = load_adapter(model, {source!r})"
        )


def _unreachable(source: str, part: str, error: OSError) -> OSError:
    """An OSError of the same kind that says what to do."""
    first_line = str(error).strip().split("\n")[0]
    if Path(source).is_dir():
        return FileNotFoundError(f"{source}: no usable {part} in this folder: {first_line}")
    offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "TRUE", "YES", "ON"}
    advice = (
        "HF_HUB_OFFLINE is set: unset it"
        if offline
        else "check the spelling and the connection; a gated model wants HF_TOKEN and its "
        "licence accepted"
    )
    return OSError(
        f"the {part} {source!r} could not be loaded: {first_line}\n"
        f"What helps: {advice}; or download it once on a machine with a connection "
        f"(hf download {source}) and give the folder; or take name='tiny', which needs no network"
    )
