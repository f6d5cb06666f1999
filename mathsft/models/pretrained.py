"""Load with transformers: only safetensors, no code from the hub, errors that say what to do.

The report of missing and unexpected weights is checked, not only logged. bitsandbytes makes the
4-bit weights (NF4), on a GPU and on a CPU alike.
"""

import copy
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from mathsft.compat import attention_of
from mathsft.models.attention import caps_attention
from mathsft.models.heads import auto_class, misfits
from mathsft.models.model_files import checked_source
from mathsft.processes import say


def load_tokenizer(source: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Load the tokenizer that is stored with the weights; it gets a padding token.

    Raises OSError if there is none, ValueError if it is damaged or has no padding and no end token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
    except OSError as error:
        raise _unreachable(source, "tokenizer", error) from error
    # If the files of the tokenizer are missing, transformers silently makes an empty one.
    if not tokenizer("a 1", add_special_tokens=False)["input_ids"]:
        raise ValueError(
            f"{source}: the tokenizer turns text into nothing; its files (tokenizer.json) are "
            "missing or damaged. Save it beside the model with tokenizer.save_pretrained"
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"{source}: the tokenizer has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_weights(source: str, revision: str | None, options: dict[str, Any]) -> PreTrainedModel:
    """Load the model; every weight must come from the files, and none may be left over.

    ``options`` are those of `from_pretrained`, with an ``attn_implementation``. With ``num_labels``
    it is a model for sequence classification. If the files are those of a language model, its head
    ``score`` is new and random, and the projection onto the vocabulary is left out.
    Raises OSError if there is no model, ValueError if its files are damaged or do not fit.
    """
    from safetensors import SafetensorError

    loaded: Any
    try:
        loaded = auto_class(options).from_pretrained(
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
    wrong = misfits(report, model.config, options)
    if wrong:
        found = "; ".join(
            f"{len(names)} {kind.replace('_', ' ')} ({', '.join(names[:3])}"
            f"{', …' if len(names) > 3 else ''})"
            for kind, names in wrong.items()
        )
        raise ValueError(
            f"{source}: the weights do not fit the model: {found}. Missing weights would be "
            "random; save the model again, or use the config.json that belongs to it"
        )
    _check_shapes(source, model)
    if attention_of(model.config) != options["attn_implementation"]:
        # transformers prefers an implementation named in config.json to its own argument.
        model.set_attn_implementation(options["attn_implementation"])
    return model


def load_with_attention(
    source: str, revision: str | None, implementation: str, options: dict[str, Any]
) -> PreTrainedModel:
    """Call `load_weights` with this attention, or with "eager" if the model does not support it.

    Models without sdpa are gpt-oss and Bloom, for example. Gemma 2 caps its attention scores,
    which sdpa cannot do. Some versions of transformers then ignore the cap, so eager is used.
    A printed line says so.
    """
    try:
        model = load_weights(source, revision, {**options, "attn_implementation": implementation})
    except ValueError:  # the files are at fault, or were not read yet
        if _has_attention(source, revision, implementation, options):
            raise
        model = load_weights(source, revision, {**options, "attn_implementation": "eager"})
    if implementation == "sdpa" and caps_attention(model.config):
        model.set_attn_implementation("eager")
    if attention_of(model.config) != implementation:
        say(f"{source}: attention is eager: {type(model).__name__} has no {implementation}")
    return model


def _has_attention(
    source: str, revision: str | None, implementation: str, options: dict[str, Any]
) -> bool:
    """Test it on a model without memory; also True if eager attention fails as well."""
    for tried in (implementation, "eager"):
        config = model_config(source, revision)
        try:
            with torch.device("meta"):
                auto_class(options).from_config(config, attn_implementation=tried)
        except ValueError:
            continue
        return tried == implementation
    return True


def model_config(name: str | Path = "tiny", revision: str | None = None) -> PreTrainedConfig:
    """Load only the model's configuration, its config.json, without its weights.

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


def refuse_hub_adapter(source: str, revision: str | None) -> None:
    """Raise ValueError for a hub adapter: transformers would silently load it with its base."""
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


def _check_shapes(source: str, model: PreTrainedModel) -> None:
    """Compare shapes with the architecture; for 4-bit weights, transformers does not."""
    with torch.device("meta"):
        empty = type(model)(copy.deepcopy(model.config))
    wanted = {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()}
    for name, parameter in model.named_parameters():
        shape = tuple(getattr(parameter, "quant_state", parameter).shape)
        if shape != wanted[name]:
            raise _other_shapes(source, f"{name} is {shape}, {wanted[name]} expected")


def _other_shapes(source: str, detail: str) -> ValueError:
    return ValueError(
        f"{source}: the weights have other shapes than config.json says, so the two files "
        f"belong to different models: {detail}"
    )


def _unreachable(source: str, part: str, error: OSError) -> OSError:
    """Return an OSError that says what to do; FileNotFoundError if the source is a folder."""
    first_line = str(error).strip().split("\n")[0]
    if Path(source).is_dir():
        return FileNotFoundError(f"{source}: no usable {part} in this folder: {first_line}")
    offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "TRUE", "YES", "ON"}
    advice = (
        "HF_HUB_OFFLINE is set: unset it"
        if offline
        else "check the spelling and the connection; for a gated model, accept its licence and "
        "set HF_TOKEN"
    )
    return OSError(
        f"the {part} {source!r} could not be loaded: {first_line}\n"
        f"What helps: {advice}; or download it once on a machine with a connection "
        f"(hf download {source}) and give the folder; or use name='tiny', which needs no network"
    )


def nf4_config(compute_dtype: torch.dtype) -> Any:
    """Return QLoRA's settings: NF4 with quantised constants (arXiv:2305.14314, section 3).

    Raises ImportError without bitsandbytes.
    """
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise ImportError("quantize=True needs bitsandbytes: pip install bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def stay_trainable(model: torch.nn.Module) -> None:
    """Keep 4-bit layers on the kernel that has a gradient, whatever passes come next.

    On CPUs with AVX512-BF16, bitsandbytes (0.50) repacks a layer's weights at its first pass in
    evaluation mode, for a kernel that computes in bfloat16 and has no gradient. The layer stays
    repacked in training. A model that was evaluated once then fails in its first training step,
    or, if its layers have no bias, would train without the gradient through them.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # bitsandbytes' Linear4bit
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def check_trainable(model: torch.nn.Module) -> None:
    """Raise ValueError if a layer is already repacked (see `stay_trainable`).

    It is not unpacked here: that is possible, but rounds the scales to bfloat16.
    """
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise ValueError(
                f"{name}: bitsandbytes has repacked this 4-bit layer for evaluation on this CPU, "
                "so it has no gradient. Load the model again, with load_model, or train it "
                "before you call it in eval mode"
            )
