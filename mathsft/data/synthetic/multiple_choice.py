"""Multiple-choice problems in MathQA's published schema and style.

**No shortcut in the choices.** Five sibling problems are drawn independently around
one centre, with the same wording and other numbers. Their five answers are the choices,
and a fair draw decides which sibling is asked. By symmetry, each choice is the right one
with probability 1/5 if only the choices are known. So a model that does not see the
question scores at chance, whatever it learns.
"""

import random
from fractions import Fraction

from mathsft.data.synthetic import rows_of_split
from mathsft.data.synthetic.patterns import PATTERNS, Pattern

LETTERS = "abcde"


def _siblings(rng: random.Random, pattern: Pattern) -> tuple[list[tuple[int, ...]], list[Fraction]]:
    """Draw five operand tuples near one another with different values; return both."""
    while True:
        centre = [rng.choice(numbers) for numbers in pattern.operands]
        around = []
        for numbers, middle in zip(pattern.operands, centre, strict=True):
            at = numbers.index(middle)
            reach = max(2, len(numbers) // 3)
            around.append(numbers[max(0, at - reach) : at + reach + 1])
        operands = [tuple(rng.choice(numbers) for numbers in around) for _ in LETTERS]
        values = [pattern.value(*numbers) for numbers in operands]
        if len(set(values)) == len(LETTERS) and min(values) > 0:
            return operands, values


def write_value(value: Fraction, pattern: Pattern) -> str:
    """A value as MathQA writes a choice: ``144 km``, ``rs . 40``, ``3 / 8``."""
    number = str(value.numerator)
    if value.denominator != 1:
        number += f" / {value.denominator}"
    return pattern.unit.format(number)


def draw_problem(rng: random.Random) -> tuple[Pattern, tuple[int, ...], list[str], int]:
    """Draw a pattern, the numbers in the question's text, five choices and the right index."""
    pattern = rng.choice(PATTERNS)
    operands, values = _siblings(rng, pattern)
    asked = rng.randrange(len(LETTERS))
    numbers = pattern.shown(*operands[asked])
    return pattern, numbers, [write_value(value, pattern) for value in values], asked


def _make_row(rng: random.Random) -> dict[str, str]:
    """One problem as the published MathQA files write it."""
    pattern, numbers, choices, label = draw_problem(rng)
    answer = choices[label]
    return {
        "Problem": rng.choice(pattern.questions).format(*numbers, thing=rng.choice(pattern.things)),
        "Rationale": f"explanation : {pattern.steps.format(*numbers)} = {answer} . "
        f"answer : {LETTERS[label]}",
        "options": " , ".join(
            f"{letter} ) {choice}" for letter, choice in zip(LETTERS, choices, strict=True)
        ),
        "correct": LETTERS[label],
        "annotated_formula": pattern.formula.format(*numbers),
        "linear_formula": pattern.linear,
        "category": pattern.category,
    }


def tiny_mathqa_rows(split: str = "train", limit: int | None = None) -> list[dict[str, str]]:
    """Return rows with MathQA's seven keys; deterministic, no question in two splits.

    Args:
        split: ``train``, ``validation``, ``test`` or ``pretrain``.
        limit: number of rows; None takes 4,000 / 500 / 1,000 (``pretrain`` has no default).

    Raises:
        ValueError: unknown split, or no limit for ``pretrain``.
    """
    return rows_of_split(
        _make_row, question_key="Problem", split=split, limit=limit, seed="tiny-mathqa"
    )
