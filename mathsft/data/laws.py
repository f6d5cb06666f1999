"""How often a number is the answer to a problem, up to a factor: a law for each kind of problem."""

import math
from collections.abc import Callable

Law = Callable[[int, int], float]  # of ``lead`` and ``zeros``, for the number lead * 10**zeros


def kind_of(lead: int) -> int:
    """Which small numbers divide ``lead``: 5, or the common divisor with 12."""
    return 5 if lead % 5 == 0 else math.gcd(lead, 12)


def grade_school_law(lead: int, zeros: int) -> float:
    """How often ``lead * 10**zeros`` answers a GSM8K problem, up to a constant factor.

    A power law in size. Numbers with small factors are more frequent, and the more so the
    larger they are (24 hardly more than 23, but 240 far more than 239). The constants are one
    maximum-likelihood fit to the 7,473 train answers.
    """
    middle, power = ((16.8, 2.25), (5.4, 2.09), (3.8, 1.97), (2.15, 1.69))[min(zeros, 3)]
    rest = lead
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    liked = 0.72 * (lead % 5 == 0) + 0.27 * (lead % 3 == 0) + 0.32 * (rest in (1, 7))
    liked += 0.32 * (lead % 2 == 0) + 0.25 * (lead % 4 == 0)
    liked *= min(4.0, max(0.0, 1 + 0.47 * math.log(lead / 20)))  # 4: beyond, no rows to fit
    if lead == 1 and not zeros:
        liked -= 1.34
    return math.exp(liked) * (1 + lead / middle) ** -power


def tiny_law(lead: int, zeros: int) -> float:
    """The same for ``tiny-gsm``, whose results reach up to 150; a fit to 60,000 of its rows."""
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
