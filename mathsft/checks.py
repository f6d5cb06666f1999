"""Check what a user gives: names, numbers, and keys of YAML.

Impossible numbers: minus one epoch, half a question, a rate that is not a number. Python and
transformers would compute with most of them: a limit of -1 leaves out the last question, and 0
steps count as not given. An argument means the same in a function, a recipe and a command line, so
its rule is here, under its name.

Keys given twice: YAML parsers keep the last of two equal keys. A recipe with two blocks ``sft:``
would train with the second one alone.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from numbers import Real
from typing import Any, NamedTuple


def unknown_name(kind: str, name: str, known: Iterable[str], *, shown: int | None = None) -> str:
    """The message for an unknown ``name``: what is known, and which known name is nearest.

    If more than ``shown`` names are known, only the nearest is listed.
    """
    names = list(known)
    near = nearest(name, names)
    hint = f"; did you mean {near!r}?" if near else ""
    some = f"{len(names):,} are known" if shown and len(names) > shown else None
    return f"unknown {kind} {name!r}: {some or 'known are ' + ', '.join(names)}{hint}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to ``name``, in upper or lower case; None if none is near."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return near[0]
    folded = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    return folded[near[0]] if near else None


class Rule(NamedTuple):
    """Which numbers an argument takes, and the words that say so."""

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
            "processes", "question_tokens", "r", "samples", "save_total_limit", "shards",
            "step_rows", "torch_empty_cache_steps", "total", "world_size", "ddp_bucket_cap_mb",
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


def _chosen_later(name: str, value: Any) -> bool:
    """Whether it is no number here: a size that the memory decides, or the harness's ``samples``.

    The harness takes "auto:4" as well, and for ``samples`` the questions of each task.
    """
    if name == "samples":
        return isinstance(value, Mapping)
    if name == "batch_size":
        return str(value).startswith("auto")
    return name == "per_device_train_batch_size" and value == "auto"


def check_number(name: str, value: Any, rule: Rule) -> None:
    """Raise ValueError unless ``value`` is a finite number that the rule holds for.

    True and False do not count as numbers; 3.0 counts as a whole one.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and rule.holds(value)):
        raise ValueError(f"{name}={value!r}: give {rule.give}")


def check_numbers(given: Mapping[str, Any], *, where: str = "") -> None:
    """Call `check_number` for each argument in ``given`` that has a rule; None means not given.

    Messages have ``where`` before the name, such as a file and a recipe's section. Other arguments,
    and a ``batch_size`` or ``per_device_train_batch_size`` of "auto", are ignored; in ``lora`` each
    setting is checked.
    """
    for name, value in given.items():
        if name == "lora" and isinstance(value, Mapping):
            check_numbers(value, where=f"{where}lora.")
        elif name in _RULES and value is not None and not _chosen_later(name, value):
            check_number(f"{where}{name}", value, _RULES[name])


_MOST_DIGITS = 1000
_MOST_VALUES = 100_000  # of a YAML text, with its anchors written out


class _GivenTwiceError(ValueError):
    """A mapping has a key twice; the message names the place."""


def load_yaml(text: str, where: Any) -> Any:
    """Read ``text`` as YAML, plain values only; ``where`` names it in an error.

    Anchors and merge keys (``<<: *base``) work as in YAML: an own key wins over a merged one.

    Raises ValueError for invalid YAML; for a mapping that has a key twice, at any depth; and for
    what can be written in a few lines and is too large to be read: values nested too deep, numbers
    of thousands of digits, anchors in anchors that stand for millions of values.
    """
    import yaml

    try:
        with usable_yaml(where):
            check_keys(text, where)
            return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not valid YAML: {error}") from None


@contextmanager
def usable_yaml(where: Any) -> Iterator[None]:
    """Name the place in errors of valid YAML that cannot be read: each is a ValueError."""
    try:
        yield
    except _GivenTwiceError:
        raise
    except ValueError as error:  # a date that is none, or a very long number
        raise ValueError(f"{where}: not usable as YAML: {error}") from None
    except RecursionError:
        raise ValueError(f"{where}: not usable as YAML: values nested too deep") from None


def check_keys(text: str, where: Any = "") -> None:
    """Raise ValueError, with the lines, if a mapping in ``text`` has a key twice.

    This is checked before anything is merged: afterwards a merged key looks like an own one.
    Also raised if anchors make more than 100,000 values of it. Invalid YAML raises yaml.YAMLError.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node and _values_in(node, {}) > _MOST_VALUES:
            raise ValueError(f"anchors make more than {_MOST_VALUES:,} values of it")
        for path, first, second in _twice(node, "", set(), loader) if node else ():
            before = f"{where}, " if where else ""
            raise _GivenTwiceError(
                f"{before}line {second}: {path} is given twice (first in line {first}), and only "
                "one of the two would count: put them together"
            )
    finally:
        loader.dispose()


def check_values(arguments: Sequence[str]) -> None:
    """`check_keys` for the mappings and lists on a command line, such as ``--mix.parts '{…}'``."""
    import yaml

    for before, argument in zip(["", *arguments], arguments, strict=False):
        name, _, value = argument.partition("=") if argument[:2] == "--" else (before, "", argument)
        if value.lstrip()[:1] in ("{", "["):
            with suppress(yaml.YAMLError), usable_yaml(name):  # invalid YAML may be a text
                check_keys(value, name)


def _values_in(node: Any, known: dict[int, int]) -> int:
    """How many values a node stands for if each anchor is written out."""
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _MOST_DIGITS:
        raise ValueError(f"a number of more than {_MOST_DIGITS:,} characters")  # also 1:59:59, 0xff
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1  # what holds itself has no end
        inner = node.value if isinstance(node.value, list) else ()
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_values_in(part, known) for part in parts)
    return known[id(node)]


def _twice(node: Any, path: str, seen: set[int], loader: Any) -> Iterator[tuple[str, int, int]]:
    """The keys that a mapping has twice: their path, and the lines of both."""
    import yaml

    if id(node) in seen:  # an anchor, which may even contain itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, inner in enumerate(node.value):
            yield from _twice(inner, f"{path}[{number}]", seen, loader)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[Any, int] = {}
    for key, inner in node.value:
        here = f"{path}.{key.value}" if path else str(key.value)
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            name = loader.construct_object(key)  # 'a' and "a" are one key; so are 1 and 0x1
            if name in lines:
                yield here, lines[name], key.start_mark.line + 1
            lines[name] = key.start_mark.line + 1
        yield from _twice(inner, here, seen, loader)
