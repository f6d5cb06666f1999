"""Which model was evaluated, and whether a comparison compares what it says.

A fingerprint of sixteen letters says which model: names do not.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peft import PeftModel

from mathsft.compat import attention_of
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
        "attention": attention_of(lm.model.config),
        "generation": {
            key: value
            for key, value in plain(generation.to_dict() if generation else {}).items()
            if key != "transformers_version"
        },
        "versions": {name: installed_version(name) for name in _CODE},
    }
    return "-".join(filter(None, [weights, adapter, json_hash(about)[:16]]))


if TYPE_CHECKING:
    from mathsft.evaluation.results import Result

# Nats by which scores of equal weights differ, at most, when they are batched in another way.
# In half precision that is as much as a short training moves, so only equal ones count there.
ROUNDING = {"float32": 2e-4}


def check_tuned(
    base_scores: Sequence[Sequence[float]], tuned_scores: Sequence[Sequence[float]]
) -> None:
    """Raise unless the tuned model's scores differ somewhere from those of its base.

    ``base_scores`` and ``tuned_scores`` are what `choice_logprobs` gives for the same problems:
    one list of log-probabilities in nats for each problem. Training moves every weight of an
    adapter, so at least one score moves by more than nothing; scores that are all equal, to the
    last bit, are the base's own.

    Raises:
        ValueError: every score is equal, there is none, or the two do not hold the same number of
            problems and of choices in each.
    """
    if len(base_scores) != len(tuned_scores):
        raise ValueError(
            f"{len(base_scores)} problems were scored with the base, {len(tuned_scores)} with the "
            "tuned model: score the same problems with both"
        )
    for index, (base, tuned) in enumerate(zip(base_scores, tuned_scores, strict=True)):
        if len(base) != len(tuned):
            raise ValueError(
                f"problem {index} has {len(base)} scores of the base and {len(tuned)} of the tuned "
                "model: score the same problems with both"
            )
    count = sum(map(len, base_scores))
    if not count:
        raise ValueError("there is no score to compare")
    if all(list(b) == list(t) for b, t in zip(base_scores, tuned_scores, strict=True)):
        raise ValueError(
            f"all {count:,} scores of the tuned model are exactly those of the base, so what was "
            "scored is the base: the adapter was not in the model, or was never trained. It "
            "happens where peft only warns that an adapter's keys fit nothing (the model was "
            "wrapped twice: get_peft_model, or add_adapter's notebook cell, run again), or where "
            "the base was given twice. Train with one add_adapter on a freshly loaded base, save "
            "with save_adapter, and load with load_adapter, which checks the keys"
        )


def check_distinct(a: "Result", b: "Result") -> None:
    """Raise unless two evaluated models differ in some log-likelihood by more than rounding.

    The failure of the public experiment this course grew from: a tuned model's accuracy
    equalled its base's to the last digit, since the adapter's keys fitted nothing and the base
    was scored in its place. With other batches the sums differ in their last digits, so "equal"
    here allows for rounding, in float32. Results without log-likelihoods (generated
    answers) are not judged.

    Raises:
        ValueError: all scores are equal; the message says what to do.
    """
    pairs = [
        (one, other)
        for x, y in zip(a.scores(), b.scores(), strict=True)
        for one, other in zip(x, y, strict=True)
    ]
    rounding = max(ROUNDING.get(result.dtype, 0.0) for result in (a, b))
    if pairs and all(abs(x - y) <= rounding for x, y in pairs):
        same = (a.weights, a.adapter_hash) == (b.weights, b.adapter_hash)
        why = (
            "The same weights were scored twice: remove one of the two results, or evaluate the "
            "model that was meant"
            if same
            else "One was scored in the other's place: the adapter was not in the model (peft only "
            "warns where its keys fit nothing) or was never trained. Load the base with "
            "load_model and the adapter with load_adapter, which checks its keys, and evaluate "
            "again"
        )
        raise ValueError(
            f"all {len(pairs):,} log-likelihoods of {a.name!r} and {b.name!r} are equal "
            f"(to within {rounding} nats). {why}"
        )
