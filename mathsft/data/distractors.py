"""Wrong choices that look right: slips of arithmetic, and how often numbers are answers.

The kit's ``solution`` column has no calculator marks, so the steps are read from the text:
"7 shirts * $7 = $49". A step counts only if its two sides really have the same value. This
check makes a simple reader safe: brackets are ignored, words are skipped, and a misread step is
hardly ever right by accident. In 94 % of GSM8K's train solutions the answer is the result of
such a step.
"""

import math
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

from mathsft.data.numerals import MAX_DIGITS

Law = Callable[[int, int], float]  # takes ``lead`` and ``zeros`` of the number lead * 10**zeros


def kind_of(lead: int) -> int:
    """Return 5 if it divides ``lead``, else the greatest common divisor with 12."""
    return 5 if lead % 5 == 0 else math.gcd(lead, 12)


def grade_school_law(lead: int, zeros: int) -> float:
    """How often ``lead * 10**zeros`` is the answer in GSM8K, up to a constant factor.

    A power law in size. Numbers with small factors are more frequent, and this effect grows with
    size (24 is hardly more frequent than 23, but 240 far more than 239). The constants are one
    maximum-likelihood fit to the 7,473 train answers.
    """
    middle, power = ((16.8, 2.25), (5.4, 2.09), (3.8, 1.97), (2.15, 1.69))[min(zeros, 3)]
    rest = lead
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    liked = 0.72 * (lead % 5 == 0) + 0.27 * (lead % 3 == 0) + 0.32 * (rest in (1, 7))
    liked += 0.32 * (lead % 2 == 0) + 0.25 * (lead % 4 == 0)
    liked *= min(4.0, max(0.0, 1 + 0.47 * math.log(lead / 20)))  # no rows to fit above 4
    if lead == 1 and not zeros:
        liked -= 1.34
    return math.exp(liked) * (1 + lead / middle) ** -power


def tiny_law(lead: int, zeros: int) -> float:
    """The same for ``tiny-gsm``, whose results go up to 150; a fit to 60,000 of its rows."""
    size = lead * 10**zeros / 100
    if size > 1.5:
        return 0.0
    kind = kind_of(lead)
    two, four, three, five = kind % 2 == 0, kind % 4 == 0, kind % 3 == 0, kind == 5
    slope, steep = (0.24, 1.0) if zeros else (0.47, 2.2)
    liked = slope * size * (two + four + three + five)
    if not zeros:
        liked += -0.27 * two + 0.04 * four - 0.11 * three - 0.19 * five
    return math.exp(liked - steep * size - size**2 / 2)


_SIGNS = {"–": "-", "−": "-", "x": "*", "X": "*", "×": "*", "÷": "/"}
_TOKEN = re.compile(
    r"(?P<number>\d[\d,]*(?:\.\d+)?|\.\d+)|(?P<sign>[-+*/×÷–−]|[xX](?![A-Za-z]))|(?P<equals>=)"
    r"|(?P<word>[A-Za-z]+)|(?P<stop>[.;:?!\n])"
)
_UNIT_WORDS = 3  # "20 pounds of rice * 3": at most so many words between number and sign
# What is read of a solution. GSM8K's largest one has 1,228 characters, 10 steps and 13 numbers in
# a step. Text of a model that does not stop is longer, and its slips are a power of its length.
_LONGEST = 5000  # characters
_MOST_NUMBERS = 100  # in all steps together


class Step(NamedTuple):
    """``numbers[0] signs[0] numbers[1] … = result``; each sign is one of ``+ - * /``."""

    numbers: tuple[Fraction, ...]
    signs: tuple[str, ...]
    result: Fraction


def calculate(numbers: tuple[Fraction, ...], signs: tuple[str, ...]) -> Fraction | None:
    """The value with the usual precedence; None for a division by zero."""
    total, term, sign = Fraction(0), numbers[0], 1
    for operation, number in zip(signs, numbers[1:], strict=True):
        if operation == "*":
            term *= number
        elif operation == "/":
            if not number:
                return None
            term /= number
        else:
            total, term, sign = total + sign * term, number, 1 if operation == "+" else -1
    return total + sign * term


def read_steps(solution: str) -> list[Step]:
    """Return the correct calculations ``a + b = c`` in ``solution``, in order.

    Only the beginning of a very long solution is read, and no number of more than 40 digits.
    """
    steps: list[Step] = []
    numbers: list[Fraction] = []
    signs: list[str] = []
    last, words, left = "stop", 0, _MOST_NUMBERS
    for token in _TOKEN.finditer(re.sub(r"[$€£()]", "", solution[:_LONGEST])):
        kind = token.lastgroup
        if kind == "word":
            words += 1
            if words <= _UNIT_WORDS:
                continue
            kind = "stop"
        words = 0
        if kind == "number" and len(token[0]) > MAX_DIGITS:
            kind = "stop"
        if kind == "number":
            number = Fraction(token[0].replace(",", ""))
            if last == "equals" and signs:
                left -= len(numbers)
                if left < 0:
                    break
                step = Step(tuple(numbers), tuple(signs), number)
                if calculate(step.numbers, step.signs) == number:
                    steps.append(step)
            if last == "sign":
                numbers.append(number)
            else:  # a result may begin the next step: 2 + 3 = 5 * 4 = 20
                numbers, signs = [number], []
        elif kind == "sign" and last == "number":
            signs.append(_SIGNS.get(token[0], token[0]))
        elif kind != "equals" or last != "number":
            numbers, signs, kind = [], [], "stop"
        last = kind or "stop"
    return steps


def _wrong_results(step: Step) -> Iterator[Fraction | None]:
    """Yield what ``step`` gives with one slip: another operation, a part left out, a near miss."""
    numbers, signs = step.numbers, step.signs
    for i, sign in enumerate(signs):
        for other in "+-*/".replace(sign, ""):
            yield calculate(numbers, (*signs[:i], other, *signs[i + 1 :]))
        yield calculate((*numbers[: i + 1], *numbers[i + 2 :]), (*signs[:i], *signs[i + 1 :]))
        # The next row of the times table. (No forgotten carry: choices that are 10 apart are easy
        # to see, and the one with such neighbours on both sides would be the right one.)
        places = {"*": (i, i + 1), "/": (i + 1,)}.get(sign, ())
        for place in places:
            for near in (numbers[place] - 1, numbers[place] + 1):
                yield calculate((*numbers[:place], near, *numbers[place + 1 :]), signs)


def slips(steps: list[Step], answer: Fraction) -> set[Fraction]:
    """Return the wrong answers after one slip in one step, if all later steps are right.

    If a number in a step equals an earlier result, it is taken to be that result. The set is
    empty if no step has the answer as its result.
    """
    ends = [i for i, step in enumerate(steps) if step.result == answer]
    if not ends:
        return set()
    steps = steps[: ends[-1] + 1]
    results = [step.result for step in steps]
    source = [  # where each number comes from: the latest step with that result, or the question
        [max((j for j in range(i) if results[j] == number), default=-1) for number in step.numbers]
        for i, step in enumerate(steps)
    ]
    found = set()
    for i, step in enumerate(steps):
        for wrong in _wrong_results(step):
            changed: dict[int, Fraction | None] = {i: wrong}
            for j in range(i + 1, len(steps)):
                if not changed.keys() & set(source[j]):
                    continue
                carried = [
                    changed.get(k, number)
                    for k, number in zip(source[j], steps[j].numbers, strict=True)
                ]
                known = tuple(number for number in carried if number is not None)
                whole = len(known) == len(carried)
                changed[j] = calculate(known, steps[j].signs) if whole else None
            end = changed.get(len(steps) - 1)
            if end is not None:
                found.add(end)
    return found - {answer}
