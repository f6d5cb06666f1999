"""A line of text without its markup: what LaTeX, Markdown and currencies put around a number."""

import re

from mathsft.data.plain_text import plain_text

_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*\n]+)(?<=[^\s*])\1(?![\w*])")
_WRAPPED = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|sf|tt|normal)|mbox|bm|boldsymbol"
    r"|operatorname|underline)\s*\{([^{}]*)\}"
)
_DEEPEST = 3  # boxes in boxes; what is deeper stays as it is, and has no value
_SPELLINGS = [
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\\!|\{\}", ""),
        (r"\{\s*([,.])\s*\}", r"\1"),  # 9{,}500
        (r"\\[(),;:\s\[\]]|(?<!\\)~|\\q?quad(?![A-Za-z])|\\\\(?:\[[^\]]*\])?", " "),
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
        (r"\^\s*\{?\s*\\circ(?![A-Za-z])\s*\}?|\\(?:degree|circ)(?![A-Za-z])", "\u00b0"),
        (r"\\([$%&#_])", r"\1"),
        (r"\^\s*\{([^{}]*)\}", r"^(\1)"),
    )
]  # fmt: skip
_FULL_HOUR = re.compile(r"\b(\d{1,2}):00(?=\s?[ap]\.?m\b)", re.IGNORECASE)
CURRENCY_SIGNS = "$\u20ac\u00a3\u00a5\u20b9\u20a8\u20a9\u20bd\u20aa\u20ab\u20ba\u20a6\u20b1\u00a2"
_CURRENCY = re.compile(
    rf"[{CURRENCY_SIGNS}](?!(?<=\d .)\s?\d)"
)  # "2 $10 bills": else these were one number
_DOLLAR = re.compile(r"\b(?:US|CA|AU|NZ|HK|[AC])\$")
_CODE = re.compile(
    r"\b(?:rs|re|inr|usd|eur|gbp|cad|aud)\b(?:\s?\.\s|\.|\s)?\s*(?=-?\.?\d)", re.IGNORECASE
)


def without_markup(text: str) -> str:
    """A line in plain spelling, its numbers and operators as they are read.

    TeX's ``$…$``, ``\\(…\\)``, spaces and ``\\text{…}``, Markdown's stars, HTML's tags and currency
    signs go; ``\\times`` is ``×``, ``^{6}`` is ``^(6)``. ``\\frac`` and ``\\sqrt`` stay, and so do
    commands that are not known here.
    """
    text = plain_text(text)
    if "\\" in text or "{" in text:
        for _ in range(_DEEPEST):
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
