"""Pairs, labelled answers and groups of answers for tests, as texts and as messages."""

from typing import Any


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


PAIR = {"prompt": "2 + 3 =", "chosen": " 5", "rejected": " 6"}
TALK = {
    "prompt": [user("What is 2 + 3?")],
    "chosen": [assistant("It is 5.")],
    "rejected": [assistant("It is 6.")],
}
GROUP = {"prompt": "2 + 3 =", "completions": [" 6", " 5"], "rewards": [0, 1.0]}
UNPAIRED = {"prompt": "2 + 3 =", "completion": " 5", "label": True}
TALK_UNPAIRED = {"prompt": TALK["prompt"], "completion": TALK["chosen"], "label": True}
TALK_GROUP = {
    "prompt": TALK["prompt"],
    "completions": [TALK["rejected"], TALK["chosen"]],
    "rewards": [0.0, 1.0],
}
