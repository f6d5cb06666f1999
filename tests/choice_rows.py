"""Worked problems without choices, and data sets built from them."""

from datasets import Dataset

from mathsft.data.problems import FEATURES

SOLUTION = "She sold 48/2 = 24 clips in May.\nShe sold 48+24 = 72 clips altogether."


def problem(**changes: object) -> dict[str, object]:
    return {
        "question": "How many clips did she sell?",
        "solution": SOLUTION,
        "answer": "72",
        "choices": [],
        "label": -1,
        "source": "gsm8k",
    } | changes


def dataset(*rows: dict[str, object]) -> Dataset:
    return Dataset.from_list(list(rows), features=FEATURES)
