"""Which model was evaluated, in sixteen letters: names do not tell."""

from typing import Any

from peft import PeftModel

from mathsft.device import installed_version
from mathsft.models.adapter_checks import base_of
from mathsft.models.computation import (
    adapter_layers,
    adapter_values,
    base_and_adapter,
    config_values,
    json_hash,
    plain,
    tensors_hash,
)
from mathsft.models.encoding import tokenizer_values

# Of an adapter's configuration what is over when it has been made: where its layers are, and what
# they began with (both are in the tensors), and what only training reads.
_MADE = {
    "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform",
    "layers_pattern", "init_lora_weights", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "lora_dropout", "task_type", "ensure_weight_tying",
}  # fmt: skip
# What the harness's model was told, beside the weights, that changes what it answers.
_TOLD = (
    "max_length", "add_bos_token", "prefix_token_id", "softmax_dtype", "mixed_precision_dtype",
    "backend", "truncation", "enable_thinking", "chat_template_args", "think_end_token",
)  # fmt: skip
_CODE = ("mathsft", "lm_eval", "torch", "transformers", "peft", "bitsandbytes")


def fingerprints(model: Any) -> tuple[str, str]:
    """Of the base and of the adapter ("" without one): equal where both compute the same.

    Every value of every weight and buffer counts, as it is in its dtype, with the configuration
    (`mathsft.models.computation`). So a model in 4 bits, or in another dtype, is another one. Of
    an adapter count also ``lora_alpha`` and the like, and whether it is merged or switched off.
    In several processes call it in each.
    """
    base, adapter = base_and_adapter(model)
    inside = base_of(model) if isinstance(model, PeftModel) else model
    of_base = [type(inside).__name__, config_values(inside.config), tensors_hash(base.items())]
    layers = adapter_layers(model)
    if not layers:
        return json_hash(of_base)[:16], ""
    configs = {
        name: {key: value for key, value in adapter_values(config).items() if key not in _MADE}
        for name, config in getattr(model, "peft_config", {}).items()
    }
    of_adapter = [configs, layers, tensors_hash(adapter.items())]
    return json_hash(of_base)[:16], json_hash(of_adapter)[:16]


def cache_name(lm: Any, weights: str, adapter: str) -> str:
    """What the harness's cache of answers is to be called, of a `ForestLM` with these fingerprints.

    The harness knows an answer by its request alone. So the name also says the tokenizer, what
    the model was told (`max_length`, ``add_bos_token``, …), how it generates, and which versions
    of the libraries computed the answers. (The harness adds the process's number.)
    """
    generation = getattr(lm.model, "generation_config", None)
    about = {
        "told": {name: plain(getattr(lm, name, None)) for name in _TOLD},
        "tokenizer": tokenizer_values(lm.tokenizer),
        "attention": getattr(lm.model.config, "_attn_implementation", None),
        "generation": {
            key: value
            for key, value in plain(generation.to_dict() if generation else {}).items()
            if key != "transformers_version"
        },
        "versions": {name: installed_version(name) for name in _CODE},
    }
    return "-".join(filter(None, [weights, adapter, json_hash(about)[:16]]))
