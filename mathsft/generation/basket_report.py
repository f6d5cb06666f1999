"""What became of a prompt basket: counts, cost, errors, and what looks wrong about the answers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mathsft.generation.basket_cost import Estimate, cost_of
from mathsft.generation.baskets import BasketPrompt, left_out
from mathsft.processes import say

Todo = list[tuple[BasketPrompt, int]]  # prompts, and the number of the conversation of each
_TOKENS = ("prompt_tokens", "completion_tokens")
_ERRORS_SHOWN = 3


@dataclass(frozen=True)
class Answers:
    """What `generate_basket` returns.

    ``rows``: the lines of the basket's conversations (`mathsft.generation.baskets`), in the
    basket's order. ``counts``: how many "conversations" the basket asks for, how many were
    "generated" in this call, and if not 0: "failed", "cut", "empty", "stopped by the server",
    "half line removed", "failures tried again" and "other rows in the file". ``estimate``: what
    was still to be generated when the call began.
    """

    rows: list[dict[str, Any]]
    counts: dict[str, int]
    estimate: Estimate


def failed(line: Mapping[str, Any]) -> bool:
    """Whether a line of answers holds a conversation that failed."""
    return "error" in line


def told(
    every: Todo,
    todo: Todo,
    done: Mapping[Any, dict[str, Any]],
    counts: Mapping[str, int],
    estimate: Estimate,
    prices: tuple[float, float] | None,
) -> Answers:
    """Print what was generated, what failed and why, and what it cost."""
    lines = [done[prompt.id, sample] for prompt, sample in every]
    new = [done[prompt.id, sample] for prompt, sample in todo]
    maybe = {
        **Counter(filter(None, map(left_out, lines))),
        **counts,
        "other rows in the file": len(done) - len(lines),
    }
    found = {"conversations": len(lines), "generated": len(new)}
    found |= {name: n for name, n in maybe.items() if n}
    used = [sum(n or 0 for line in new for n in line[name]) for name in _TOKENS]
    cost = f"{used[0]:,} prompt tokens and {used[1]:,} tokens of answers"
    if any(n is None for line in new for name in _TOKENS for n in line[name]):
        cost += " (some answers came without counts)"
    if prices:
        cost += f", cost {cost_of(used[0], used[1], prices):.4f}"
    say(f"basket: {', '.join(f'{n:,} {name}' for name, n in found.items())}; {cost}")
    errors = Counter(line["error"] for line in new if failed(line))
    for error, n in errors.most_common(_ERRORS_SHOWN):
        say(f"failed {n:,} times: {error}")
    if errors:
        say("the same call tries the failed ones again")
    for remark in _remarks(lines):
        say(remark)
    return Answers(lines, found, estimate)


def _remarks(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What looks wrong about a server's answers."""
    first: dict[Any, list[str]] = {}
    echoes = 0
    for line in lines:
        if line["generated_message_indices"]:
            place = line["generated_message_indices"][0]
            asked, text = (line["conversation"][n]["content"] for n in (place - 1, place))
            first.setdefault(line["id"], []).append(text)
            echoes += text.startswith(asked)
    several = [texts for texts in first.values() if len(texts) > 1]
    found = []
    if several and all(len(set(texts)) == 1 for texts in several):
        found.append(
            "all samples of each prompt are the same: the server seems to ignore temperature and "
            "seed (transformers serve samples only if the model's generation config says do_sample)"
        )
    if echoes > len(lines) // 2:
        found.append(
            f"{echoes:,} answers begin with their prompt: does the server repeat it? (transformers "
            "serve does if the chat template is not the one of the model's family)"
        )
    return found
