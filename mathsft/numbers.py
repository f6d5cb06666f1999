"""Numbers that cannot be meant: minus one epoch, half a question, a rate that is no number.

Python would compute with most of them, and so would transformers: a limit of -1 leaves the last
question out, and 0 steps count as none given. An argument has one meaning wherever it stands, in
a function, a recipe or a command line, so its rule stands here, by its name.
"""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """Which numbers an argument takes, and in words what to give."""

    holds: Callable[[Any], bool]
    give: str


def at_least(least: int) -> Rule:
    """A whole number from ``least`` up."""
    return Rule(
        lambda value: value >= least and value == int(value), f"{least} or more, a whole number"
    )


AT_LEAST_0 = Rule(lambda value: value >= 0, "0 or more")
ABOVE_0 = Rule(lambda value: value > 0, "a number above 0")
BELOW_1 = Rule(lambda value: 0 <= value < 1, "0 or more and below 1")
SHARE = Rule(lambda value: 0 < value <= 1, "a share, above 0 and at most 1")
_INSIDE = Rule(lambda value: 0 < value < 1, "a share, above 0 and below 1")
_STEPS = Rule(
    lambda value: 0 < value < 1 or at_least(1).holds(value),
    "1 or more, a whole number, or below 1 a share of all steps",
)
_MAX_STEPS = Rule(
    lambda value: value == -1 or at_least(1).holds(value),
    "1 or more, a whole number, or -1 for as many as the epochs have",
)
_RULES = {
    **dict.fromkeys(
        (
            "batch_size", "dataloader_prefetch_factor", "ddp_timeout", "early_stopping_patience",
            "eval_accumulation_steps", "gradient_accumulation_steps", "keep", "limit",
            "max_new_tokens", "n", "per_device_eval_batch_size", "per_device_train_batch_size",
            "question_tokens", "r", "samples", "save_total_limit", "shards",
            "torch_empty_cache_steps", "total", "world_size", "ddp_bucket_cap_mb",
        ),
        at_least(1),
    ),
    **dict.fromkeys(
        ("bootstrap_iters", "data_seed", "dataloader_num_workers", "num_fewshot", "seed"),
        at_least(0),
    ),
    "max_length": at_least(2),  # the first token of a text is not predicted
    "max_steps": _MAX_STEPS,
    **dict.fromkeys(("logging_steps", "save_steps", "eval_steps"), _STEPS),
    **dict.fromkeys(
        ("adam_epsilon", "lora_alpha", "memory", "num_train_epochs", "poll", "temperature"), ABOVE_0
    ),
    **dict.fromkeys(
        (
            "early_stopping_threshold", "eval_delay", "learning_rate", "max_grad_norm", "minutes",
            "neftune_noise_alpha", "timeout", "warmup_steps", "weight_decay",
        ),
        AT_LEAST_0,
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "lora_dropout"), BELOW_1),
    **dict.fromkeys(("threshold", "trained_share"), SHARE),
    "confidence": _INSIDE,
}  # fmt: skip


def check_number(name: str, value: Any, rule: Rule) -> None:
    """Raise ValueError unless ``value`` is a finite number that the rule holds for.

    True and False are no numbers here, and 3.0 is a whole one.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and rule.holds(value)):
        raise ValueError(f"{name}={value!r}: give {rule.give}")


def check_numbers(given: Mapping[str, Any], *, where: str = "") -> None:
    """`check_number` for each argument in ``given`` that has a rule; None is not given.

    ``where`` stands before the name, such as a file and a recipe's section. Other arguments are
    passed over, and so is a ``batch_size`` that is "auto"; of ``lora`` the settings are checked.
    """
    for name, value in given.items():
        if name == "lora" and isinstance(value, Mapping):
            check_numbers(value, where=f"{where}lora.")
        elif name == "batch_size" and str(value).startswith("auto"):
            continue
        elif name in _RULES and value is not None:
            check_number(f"{where}{name}", value, _RULES[name])
