"""Which of transformers' classes to load: one that predicts tokens, or one with another head."""

from collections.abc import Mapping
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
)

# What is missing and left over if a language model is loaded for sequence classification.
_OF_A_NEW_HEAD = {
    "missing_keys": {"score.weight"},
    "unexpected_keys": {"lm_head.weight", "lm_head.bias", "embed_out.weight"},
}


def auto_class(options: Mapping[str, Any]) -> Any:
    """The class to load with these options: with ``num_labels`` for sequence classification."""
    return AutoModelForSequenceClassification if "num_labels" in options else AutoModelForCausalLM


def classifies(config: PreTrainedConfig) -> bool:
    """Return whether the checkpoint is a model for sequence classification, with its own head."""
    return any("ForSequenceClassification" in name for name in config.architectures or ())


def misfits(
    report: Mapping[str, Any], config: PreTrainedConfig, options: Mapping[str, Any]
) -> dict[str, list[str]]:
    """The weights that did not fit, from `from_pretrained`'s report, by kind; {} if all did.

    A head that is new because the files are those of a language model is no misfit.
    """
    new = _OF_A_NEW_HEAD if "num_labels" in options and not classifies(config) else {}
    found = {
        kind: sorted(set(map(str, names)) - new.get(kind, set())) for kind, names in report.items()
    }
    return {kind: names for kind, names in found.items() if names}
