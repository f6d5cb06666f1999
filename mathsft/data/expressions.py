"""The exact value of a short arithmetic expression, by math-verify (LaTeX) and SymPy."""

import logging
import math
import re
from fractions import Fraction
from itertools import accumulate

_MOST_CHARACTERS = 120
_DEEPEST = 6  # brackets in brackets; the time that the parser takes doubles with each
_MOST_POWER = 1000  # of all exponents together: 9^9^9 has more digits than fit into memory

# After the operators are LaTeX's and each number is whole, this is all that may be left.
_ALPHABET = re.compile(r"(?:\d+|\\(?:frac|sqrt|times|cdot|div)(?![a-zA-Z])|[-+/^(){} ])+")
# Two factors side by side: people do not agree on 6/2(1+2), nor does math-verify on (2)(3).
_SIDE_BY_SIDE = re.compile(
    r"\d +\d|[\d)}] *\(|\) *[\d\\](?!times|cdot|div)|\} +\d|\} *\\(?:frac|sqrt)"
)
_POWER = re.compile(r"\^ *(?:\{ *(-? *\d{1,4}) *\}|(\d)(?!\d))")


def expression_value(latex: str) -> Fraction | None:
    """The value of ``latex``: whole numbers, + - * /, powers, fractions and roots of such.

    None if that is no rational number, or the expression is not understood: two factors side by
    side (``2(3)``), a power that is no whole number, more than a line of text. ``2\\frac{1}{2}``
    is the mixed number 5/2.

    Importing math-verify takes half a second; hence the import in the function. Its own time
    limit is off, because that works by a signal, which only the main thread can have; what
    would take long is refused before.
    """
    if len(latex) > _MOST_CHARACTERS or not _ALPHABET.fullmatch(latex):
        return None
    depths = accumulate({"(": 1, "{": 1, ")": -1, "}": -1}.get(sign, 0) for sign in latex)
    if max(depths, default=0) > _DEEPEST or re.search("[-+] *[-+] *[-+]", latex):
        return None
    exponents = [int((one or two).replace(" ", "")) for one, two in _POWER.findall(latex)]
    if len(exponents) != latex.count("^") or _SIDE_BY_SIDE.search(_POWER.sub("", latex)):
        return None
    if math.prod(max(1, abs(exponent)) for exponent in exponents) > _MOST_POWER:
        return None
    import sympy
    from math_verify import LatexExtractionConfig, parse

    # It warns, once, that there is no time limit.
    logging.getLogger("math_verify.parser").setLevel(logging.ERROR)
    found = parse(
        f"${latex}$",
        [LatexExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,  # type: ignore[arg-type]  # documented; the annotation says int
    )
    if len(found) != 1 or not isinstance(found[0], sympy.Expr):
        return None
    try:
        value = found[0].doit()
    except (ArithmeticError, ValueError, TypeError, RecursionError):
        return None
    return Fraction(int(value.p), int(value.q)) if isinstance(value, sympy.Rational) else None
