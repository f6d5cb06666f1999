"""The text from which the tiny model is trained from scratch.

It tells the model what a base model would know: how worked solutions go, what plain
arithmetic gives, and statements with their results. It holds none of the course's
formats (no ``### Question``, no ``Question:``, no ``Answer:``, no ``####``, no choices)
and no question of a lesson: its problems are the generators' split ``pretrain``.
"""

import random
from collections.abc import Iterator

from mathsft.data.synthetic.grade_school import tiny_gsm_rows
from mathsft.data.synthetic.multiple_choice import draw_problem, tiny_mathqa_rows

_MARK = "<<"


def _worked(row: dict[str, str]) -> str:
    """A grade-school problem and its solution, as a textbook would set it."""
    lines = row["answer"].split("\n")
    plain = "\n".join(_without_marks(line) for line in lines[:-1])
    return f"{row['question']}\n{plain}\nSo it is {lines[-1].removeprefix('#### ')}."


def _without_marks(line: str) -> str:
    while _MARK in line:
        before, rest = line.split(_MARK, 1)
        line = before + rest.split(">>", 1)[1]
    return line


def _facts(rng: random.Random) -> str:
    """Four statements with their results, in the multiple-choice problems' voice."""
    said = []
    for _ in range(4):
        pattern, numbers, choices, label = draw_problem(rng)
        fact = rng.choice(pattern.facts)
        thing = rng.choice(pattern.things)
        said.append(fact.format(*numbers, thing=thing, answer=choices[label]))
    return " . ".join(said) + " ."


def _sums(rng: random.Random) -> str:
    """Eight lines of arithmetic, each ``a * b = c`` or its like."""
    lines = []
    for _ in range(8):
        sign = rng.choice("+-*/")
        if sign == "+":
            a, b = rng.randint(1, 150), rng.randint(1, 99)
            result = a + b
        elif sign == "-":
            b, result = rng.randint(1, 99), rng.randint(1, 99)
            a = b + result
        else:
            a, b = rng.randint(2, 60), rng.randint(2, 12)
            result = a * b
            if sign == "/":
                a, result = result, a
        lines.append(f"{a} {sign} {b} = {result}")
    return "\n".join(lines)


def _explained(row: dict[str, str]) -> str:
    """A problem in the multiple-choice voice with its calculation, without its choices."""
    steps = row["Rationale"].removeprefix("explanation : ").split(" . answer", 1)[0]
    return f"{row['Problem']} {steps} ."


def documents(count: int, *, seed: int) -> Iterator[str]:
    """``count`` documents, mixed at random: worked 30 %, facts 40 %, sums 15 %, explained 15 %.

    Deterministic; ``seed`` decides the order of kinds, the statements and the sums, while
    the problems are the generators' own. A document is a few lines of text.
    """
    rng = random.Random(seed)
    kinds = rng.choices(["worked", "facts", "sums", "explained"], [30, 40, 15, 15], k=count)
    worked = iter(tiny_gsm_rows("pretrain", kinds.count("worked")))
    explained = tiny_mathqa_rows("pretrain", min(kinds.count("explained"), 8000))
    for kind in kinds:
        if kind == "worked":
            yield _worked(next(worked))
        elif kind == "facts":
            yield _facts(rng)
        elif kind == "sums":
            yield _sums(rng)
        else:
            yield _explained(rng.choice(explained))
