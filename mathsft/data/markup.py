"""Numbers in markup: a line without LaTeX and Markdown, and the value of an expression."""

import logging
import math
import re
from fractions import Fraction
from itertools import accumulate

from mathsft.data.text import plain_text

_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*\n]+)(?<=[^\s*])\1(?![\w*])")
_WRAPPED = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|sf|tt|normal)|mbox|bm|boldsymbol"
    r"|operatorname|underline)\s*\{([^{}]*)\}"
)
_DEEPEST_BOX = 3  # boxes in boxes; a deeper one stays as it is, and has no value
_SPELLINGS = [
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\\!|\{\}", ""),
        (r"\{\s*([,.])\s*\}", r"\1"),  # 9{,}500
        (r"\\[(),;:\s\[\]]|(?<!\\)~|\\q?quad(?![A-Za-z])|\\\\(?:\[[^\[\]]*\])?", " "),
        (r"\\(?:begin|end)\{[^{}]*\}|&", " "),
        (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?|checkmark|square|blacksquare|Box)"
         r"(?![A-Za-z])\.?", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:times|ast)(?![A-Za-z])", "\u00d7"),
        (r"\\cdot(?![A-Za-z])", "\u00b7"),
        (r"\\div(?![A-Za-z])", "\u00f7"),
        (r"\\(?:pm|mp)(?![A-Za-z])", "\u00b1"),
        (r"\\(?:approx|sim|simeq|equiv)(?![A-Za-z])", "\u2248"),
        (r"\\(?:leq?|leqslant|lt)(?![A-Za-z])", "\u2264"),
        (r"\\(?:geq?|geqslant|gt)(?![A-Za-z])", "\u2265"),
        (r"\\neq?(?![A-Za-z])", "\u2260"),
        (r"\\(?:Rightarrow|implies|rightarrow|longrightarrow|to|therefore|because)(?![A-Za-z])",
         " \u2192 "),
        (r"\\[lc]?dots(?![A-Za-z])", "..."),
        (r"\\pi(?![A-Za-z])", "\u03c0"),
        (r"\^\s*(?:\{\s*)?\\circ(?![A-Za-z])\s*\}?|\\(?:degree|circ)(?![A-Za-z])", "\u00b0"),
        (r"\\([$%&#_])", r"\1"),
        (r"\^\s*\{([^{}]*)\}", r"^(\1)"),
    )
]  # fmt: skip
_FULL_HOUR = re.compile(r"\b(\d{1,2}):00(?=\s?[ap]\.?m\b)", re.IGNORECASE)
CURRENCY_SIGNS = "$\u20ac\u00a3\u00a5\u20b9\u20a8\u20a9\u20bd\u20aa\u20ab\u20ba\u20a6\u20b1\u00a2"
_CURRENCY = re.compile(
    rf"[{CURRENCY_SIGNS}](?!(?<=\d .)\s?\d)"
)  # "2 $10 bills": without the sign these would be one number
_DOLLAR = re.compile(r"\b(?:US|CA|AU|NZ|HK|[AC])\$")
_CODE = re.compile(
    r"\b(?:rs|re|inr|usd|eur|gbp|cad|aud)\b(?:\s?\.\s|\.|\s)?\s*(?=-?\.?\d)", re.IGNORECASE
)


def without_markup(text: str) -> str:
    """Return a line in plain spelling, with its numbers and operators as a reader sees them.

    TeX's ``$…$``, ``\\(…\\)``, ``\\text{…}`` (not what is inside) and spaces, Markdown's stars,
    HTML's tags and currency signs are removed; ``\\times`` becomes ``×``, ``^{6}`` becomes
    ``^(6)``. ``\\frac``, ``\\sqrt`` and unknown commands stay.
    """
    text = plain_text(text)
    if "\\" in text or "{" in text:
        for _ in range(_DEEPEST_BOX):
            text = _WRAPPED.sub(r" \1 ", text)
        for pattern, plain in _SPELLINGS:
            text = pattern.sub(plain, text)
    if "<" in text:
        text = _TAG.sub(" ", text)
    if "*" in text:
        text = _EMPHASIS.sub(r"\2", text)
    if ":00" in text:
        text = _FULL_HOUR.sub(r"\1", text)
    return _CODE.sub("", _CURRENCY.sub("", _DOLLAR.sub("$", text) if "$" in text else text))


_MOST_CHARACTERS = 120
_DEEPEST_BRACKET = 6  # brackets in brackets; each doubles the time that the parser takes
_MOST_POWER = 1000  # the product of all exponents: 9^9^9 has more digits than fit into memory

# When all operators are in LaTeX and all numbers are whole, nothing else may be left.
_ALPHABET = re.compile(r"(?:\d+|\\(?:frac|sqrt|times|cdot|div)(?![a-zA-Z])|[-+/^(){} ])+")
# Two factors side by side: people disagree about 6/2(1+2), and math-verify reads (2)(3) as 5.
_SIDE_BY_SIDE = re.compile(
    r"\d +\d|[\d)}] *\(|\) *[\d\\](?!times|cdot|div)|\} +\d|\} *\\(?:frac|sqrt)"
)
_POWER = re.compile(r"\^ *(?:\{ *(-? *\d{1,4}) *\}|(\d)(?!\d))")


def expression_value(latex: str) -> Fraction | None:
    """Return the value of ``latex``: whole numbers, + - * /, powers, fractions, and roots of these.

    None if the value is not a rational number, or if the expression is not understood: two
    factors side by side (``2(3)``), a power that is not a whole number, more than a line of
    text. ``2\\frac{1}{2}`` is the mixed number 5/2.

    Importing math-verify takes half a second, so it is imported in the function. Its own time
    limit is off, because it uses a signal, which works only in the main thread. Expressions
    that would take long are refused first.
    """
    if len(latex) > _MOST_CHARACTERS or not _ALPHABET.fullmatch(latex):
        return None
    depths = accumulate({"(": 1, "{": 1, ")": -1, "}": -1}.get(sign, 0) for sign in latex)
    if max(depths, default=0) > _DEEPEST_BRACKET or re.search("[-+] *[-+] *[-+]", latex):
        return None
    exponents = [int((one or two).replace(" ", "")) for one, two in _POWER.findall(latex)]
    if len(exponents) != latex.count("^") or _SIDE_BY_SIDE.search(_POWER.sub("", latex)):
        return None
    if math.prod(max(1, abs(exponent)) for exponent in exponents) > _MOST_POWER:
        return None
    import sympy
    from math_verify import LatexExtractionConfig, parse

    # Otherwise it warns once that there is no time limit.
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
