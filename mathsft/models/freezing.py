"""Which weights are trained, told by patterns on their names."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from mathsft.checks import unknown_name
from mathsft.processes import say


def freeze(model: Any, patterns: str | Iterable[str], *, but: str | Iterable[str] = ()) -> None:
    """Freeze what matches any of ``patterns`` and none of ``but``; prints what is left to train.

    Patterns are those of a shell, on the names of ``model.named_parameters()``:
    ``freeze(model, "*", but=["*.layers.23.*", "*norm*"])`` trains the last of 24 layers and the
    norms. What was frozen before stays so. An adapter's weights have names as well
    (``*.lora_A.*``); its base is frozen already.

    A tied weight (the embedding that is the output head too) has two names. It is frozen
    where one of them matches ``patterns`` and neither matches ``but``; the line says so.

    Args:
        patterns: one or several, for names of weights that are not to be trained.
        but: one or several, for names that are left as they are all the same.

    Raises ValueError for a pattern that matches no parameter, and where nothing would be left
    to train; the model is then as it was.
    """
    frozen = [patterns] if isinstance(patterns, str) else list(patterns)
    kept = [but] if isinstance(but, str) else list(but)
    named = list(model.named_parameters(remove_duplicate=False))
    names = [name for name, _ in named]
    for pattern in (*frozen, *kept):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"freeze: {unknown_name('parameter', pattern, names, shown=8)}. A pattern stands "
                f"for whole names, such as {names[0]!r}"
            )
    aliases: dict[int, list[str]] = {}
    for name, parameter in named:
        aliases.setdefault(id(parameter), []).append(name)
    parameters = {id(parameter): parameter for _, parameter in named}

    def matches(key: int, some: list[str]) -> bool:
        return any(fnmatchcase(name, pattern) for name in aliases[key] for pattern in some)

    chosen = {key for key in aliases if matches(key, frozen) and not matches(key, kept)}
    trained = [p for key, p in parameters.items() if p.requires_grad and key not in chosen]
    if not trained:
        raise ValueError(
            f"freeze: nothing would be left to train after {frozen}" + f" but {kept}" * bool(kept)
        )
    for key in chosen:
        parameters[key].requires_grad_(False)
    total = sum(_numbers(parameter) for parameter in parameters.values())
    left = sum(_numbers(parameter) for parameter in trained)
    tied = [
        f"; {' and '.join(aliases[key])} are one (tied), which is "
        + ("trained" if parameters[key].requires_grad else "frozen")
        for key in aliases
        if len(aliases[key]) > 1
    ]
    say(
        f"freeze: {left:,} of {total:,} parameters are trained ({left / total:.1%})" + "".join(tied)
    )


def _numbers(parameter: Any) -> int:
    """How many numbers a parameter stands for; a 4-bit one packs two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return int((parameter if state is None else state).shape.numel())
