"""The tables of docs/scaling.md, made from the results of `scaling.py`."""

from collections.abc import Iterable, Sequence
from typing import Any


def tables(result: dict[str, Any]) -> list[str]:
    """Tables of the data, the course's runs, adapters and full fine-tuning at all sizes."""
    adapters, full = ([s for s in result["sizes"] if s["full"] is kind] for kind in (False, True))
    return [data(result["data"]), course(result["course"]), sizes(adapters), sizes(full)]


def data(found: Iterable[dict[str, Any]]) -> str:
    """The rows of a pass, and the tokens of a row."""
    head = ["one pass", "rows", "tokens a row", "of them trained", "padding", "tiny's tokens a row"]
    names = {"gsm8k": "GSM8K train, worked solutions", "mathqa": "MathQA train, five choices"}
    return _table(
        head,
        [
            [
                names[f["source"]],
                f"{f['rows']:,}",
                f"{f['tokens_a_row']:.0f}",
                f"{f['trained_share']:.0%}".replace("%", " %"),
                f"{f['padding']:.0%}".replace("%", " %"),
                f"{f['tiny_tokens_a_row']:.0f}",
            ]
            for f in found
        ],
    )


def course(found: Iterable[dict[str, Any]]) -> str:
    """One line for each training run of a recipe."""
    head = ["recipe", "lesson", "model", "rows × passes", "tokens", "PFLOP", "GB", "minutes"]
    return _table(
        head,
        [
            [
                f["recipe"],
                f["lesson"],
                f["model"],
                f"{f['rows']:,} × {f['passes']}",
                f"{f['tokens'] / 1e6:.2f} M",
                _number(f["flops"] / 1e15),
                _number(f["memory_gb"]),
                _minutes(f["hours"]),
            ]
            for f in found
        ],
    )


def sizes(found: Iterable[dict[str, Any]]) -> str:
    """One line for each model and machine: how it is trained, and what that costs."""
    head = ["model", "on", "trained as", "rows a batch", "GB a card", "PFLOP: GSM8K", "MathQA"]
    head += ["minutes: GSM8K", "MathQA"]
    lines = []
    for f in found:
        line = [f["model"], f["machine"]]
        if f["way"] is None:
            line += ["does not fit", *["–"] * 6]
        else:
            line += [
                f["way"] + ", checkpointing" * f["checkpointing"],
                str(f["batch"]),
                _number(f["memory_gb"]),
                _number(f["sft_flops"] / 1e15),
                _number(f["multiple_choice_flops"] / 1e15),
                _minutes(f["sft_hours"]),
                _minutes(f["multiple_choice_hours"]),
            ]
        lines.append(line)
    return _table(head, lines)


def _number(value: float) -> str:
    """The number with two significant digits: 0.026, 0.85, 3.4, 52, 1,200."""
    if value >= 100:
        return f"{float(f'{value:.2g}'):,.0f}"
    return f"{value:.0f}" if value >= 10 else f"{value:#.2g}"


def _minutes(value: Sequence[float] | None) -> str:
    return "–" if value is None else "–".join(_number(60 * hours) for hours in value)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
