"""Identify the model that was evaluated, and check that two compared models differ.

A fingerprint of sixteen letters identifies a model; a name does not.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peft import PeftModel

from mathsft.compat import attention_of
from mathsft.device import hardware, installed_version
from mathsft.models.adapter_checks import adapter_effect, base_of
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

# Settings of an adapter that no longer matter once it is made: where its layers are and how they
# were initialised (the tensors show both), and what only training reads.
_MADE = {
    "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform",
    "layers_pattern", "init_lora_weights", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "lora_dropout", "task_type", "ensure_weight_tying",
}  # fmt: skip
# Settings of the harness's model that change its answers, besides the weights.
_TOLD = (
    "max_length", "add_bos_token", "prefix_token_id", "softmax_dtype", "mixed_precision_dtype",
    "backend", "truncation", "enable_thinking", "chat_template_args", "think_end_token",
)  # fmt: skip
_CODE = ("mathsft", "lm_eval", "torch", "transformers", "peft", "bitsandbytes")


def fingerprints(model: Any) -> tuple[str, str]:
    """The hashes of the base and of the adapter ("" without one); equal if both compute the same.

    Every value of every weight and buffer counts, in its dtype, and so does the configuration
    (`mathsft.models.computation`). So a model in 4 bits, or in another dtype, is a different one.
    For an adapter, ``lora_alpha`` and the like count too, and whether it is merged or switched
    off. In several processes, call it in each.
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


def about_model(lm: Any) -> dict[str, Any]:
    """What a `Result` says about the model of a `ForestLM`, and its ``device``.

    Raises ValueError for an adapter that changes nothing (`adapter_effect`).
    """
    if isinstance(lm.model, PeftModel):
        adapter_effect(lm.model)
    weights, adapter_hash = fingerprints(lm.model)
    return {
        "model": lm.pretrained,
        "adapter": lm.peft or ("adapter" if isinstance(lm.model, PeftModel) else ""),
        "weights": weights,
        "adapter_hash": adapter_hash,
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "quantized": bool(getattr(lm.model, "is_quantized", False)),
        "hardware": hardware(),
        "device": lm.device.type,
    }


def cache_name(lm: Any, weights: str, adapter: str) -> str:
    """The name of the harness's answer cache for a `ForestLM` with these fingerprints.

    The harness identifies an answer by its request alone. So the name also covers the tokenizer,
    the model's settings (`max_length`, ``add_bos_token``, …), how it generates, and the versions
    of the libraries that compute the answers. (The harness adds the process's number.)
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

# Scores of equal weights differ by at most this many nats when the batches differ. In half
# precision they differ as much as after a short training run, so there only equal scores count.
ROUNDING = {"float32": 2e-4}


def check_tuned(
    base_scores: Sequence[Sequence[float]], tuned_scores: Sequence[Sequence[float]]
) -> None:
    """Raise unless the tuned model's scores differ somewhere from those of its base.

    ``base_scores`` and ``tuned_scores`` are what `choice_logprobs` gives for the same problems:
    one list of log-probabilities in nats for each problem. Training changes every weight of an
    adapter, so at least one score changes. Scores that are all equal, to the last bit, are the
    base's own.

    Raises:
        ValueError: all scores are equal, there is no score, or the two have different numbers of
            problems, or of choices in a problem.
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
            f"all {count:,} scores of the tuned model are exactly those of the base, so the base "
            "was scored: the adapter was not in the model, or was never trained. This happens if "
            "peft only warns that an adapter's keys fit nothing (the model was wrapped twice, by "
            "running get_peft_model or add_adapter's notebook cell again), or if the base was "
            "given twice. Train with one add_adapter on a freshly loaded base, save with "
            "save_adapter, and load with load_adapter, which checks the keys"
        )


def check_distinct(a: "Result", b: "Result") -> None:
    """Raise unless two evaluated models differ in some log-likelihood by more than rounding.

    In the public experiment that this course grew from, a tuned model's accuracy equalled its
    base's to the last digit: the adapter's keys fitted nothing, and the base was scored instead.
    Different batches change the last digits of the sums, so "equal" here allows for rounding, in
    float32. Results without log-likelihoods (generated answers) are not checked.

    Raises:
        ValueError: all scores are equal; the message says what to do. Or the two have different
            numbers of questions, or of choices in a question.
    """
    if len(a.questions) != len(b.questions):
        raise ValueError(
            f"{a.name!r} has {len(a.questions):,} questions, {b.name!r} {len(b.questions):,}: a "
            "difference is measured on the same questions"
        )
    for row, (x, y) in enumerate(zip(a.scores(), b.scores(), strict=True)):
        if len(x) != len(y):
            raise ValueError(
                f"question {row} has {len(x)} log-likelihoods of {a.name!r} and {len(y)} of "
                f"{b.name!r}: evaluate both on the same task, with the same versions"
            )
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
            else "One was scored instead of the other: the adapter was not in the model (peft only "
            "warns if its keys fit nothing) or was never trained. Load the base with "
            "load_model and the adapter with load_adapter, which checks its keys, and evaluate "
            "again"
        )
        raise ValueError(
            f"all {len(pairs):,} log-likelihoods of {a.name!r} and {b.name!r} are equal "
            f"(to within {rounding} nats). {why}"
        )
