"""Numbers as people write them: a number is read whole or not at all.

``1,23,456``, ``118 000``, ``1e5``, ``2 1/2``, ``10^6`` and ``\\frac{3}{4}`` are one number each.
Half a number is worse than none: text that is not fully understood (``3:4``, ``1,5``, ``5-7``,
``2x``) has no value here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from mathsft.data.markup import CURRENCY_SIGNS, expression_value

# A number with more digits than this is runaway generated text, not an answer.
MAX_DIGITS = 40

_SCALES = {
    "hundred": 10**2, "thousand": 10**3, "lakh": 10**5, "million": 10**6, "crore": 10**7,
    "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
_SCALE = rf"(?:\s(?:{'|'.join(_SCALES)})s?\b)"
_DIGITS = (
    r"(?:(?<![\d.,'_])\d{1,3}(?: \d{3})+(?![\d'_]|,\d|-[A-Za-z])(?:\.\d+)?"  # 118 000
    r"|\d+(?:[.,'_]\d+)*|(?<![.\d])\.\d+)(?:[eE][-+]?\d+(?!\w|\.\d))?"
)
_BRACED = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
_LATEX = rf"\\(?:frac\s*(?:{_BRACED}|\d)\s*(?:{_BRACED}|\d)|sqrt\s*(?:{_BRACED}|\d))"
_ATOM = rf"(?:{_DIGITS}(?:\s?%|{_SCALE})?|{_LATEX})"
# A number does not begin inside a word, an exponent or an index: "cm2", "m^2", "x_1".
_START = r"(?<![A-Za-z_\d^\\])(?<!\^[-+({])(?<!_[({])(?<!\d[.,'_])"
# A minus belongs to the number, unless there is something before it to subtract from.
_SIGN = r"(?:(?<![\w)%}])(?<![\d)%}] )[-+](?=[\d.(\\]))?"
# What joins two numbers into an expression, a ratio, a list or a range. Not all have a value.
_LINK = (
    r"(?:[\s)]*(?:\*\*|[-+*/^:\u00d7\u00b7\u00f7])\s*(?:[-+(]\s*)*"
    r"|\)*(?<=\S)\((?=[-\d\\])|\s*[,;|&~@]\s*-?|\.\.+(?=\d)"
    r"|\s+(?:and|or|to|x|by|plus|minus|times|divided by|multiplied by|out of|through|remainder"
    rf"|r)\s+-?|\s+(?!{_DIGITS}-[A-Za-z]|\d{{1,2}} [A-Za-z])|(?=\\))"
)
_NUMBERS = re.compile(
    rf"{_SIGN}(?:\(\s*[-+]?){{0,5}}{_START}{_ATOM}(?:{_LINK}{_ATOM})*(?:\s*\))*", re.IGNORECASE
)
_ONE = re.compile(
    rf"(?P<sign>[-+]?)\s?(?:(?P<digits>{_DIGITS})(?:\s?%|(?P<scale>{_SCALE}))?"
    r"|(?:(?P<whole>\d+(?:,\d+)*)\s(?:and\s)?)?(?P<over>\d+)\s?/\s?(?P<under>\d+)(?:\s?%)?)",
    re.IGNORECASE,
)
_PLAIN = re.compile(
    r"(?P<whole>\d+|[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3}"
    r"|[1-9]\d{0,2}(?:(?: \d{3})+|(?:_\d{3})+|(?:'\d{3})+)|)"
    r"(?:\.(?P<decimals>\d+))?(?:[eE](?P<power>[-+]?\d{1,3}))?"
)


# Letters that are variables after a number. Units such as "m" and "A" are left out.
_VARIABLE = "[abdeijknopqruvwxyzBDEGHIJKMNOPQRTUXYZ\u0370-\u03ff]"
_PARTS = (
    r"(?:hours?|hrs?|h|minutes?|mins?|feet|foot|ft|pounds?|lbs?|dollars|years?|months?|weeks?"
    r"|days?|kilograms?|kg|met(?:er|re)s?|gallons?|yards?|miles?)"
)
_SMALLER = (
    r"(?:minutes?|mins?|seconds?|secs?|s|inch(?:es)?|in|ounces?|oz|cents?|months?|weeks?|days?"
    r"|hours?|hrs?|grams?|g|centimet(?:er|re)s?|cm|quarts?|pints?|feet|foot|ft|yards?)\b"
)
_AND = r"(?:,?\s+and\s+|,?\s+)"
_BEFORE = 80  # characters before a number that are checked
_CUT_BEFORE = re.compile(
    r"[\u2260\u00b1\u221a\u221b]\s*$|[|\u2308\u230a]$"
    r"|[\w)}\]]\s*[+*/^\u00d7\u00b7\u00f7]\s*$|[\w)}\]]-$|-\($|\S - $"
    r"|\w\(?$|[A-Za-z]\.$|\d'\s?$|[}\]]\s*\{$|\\[A-Za-z]+\S*\s*$"
    r"|\b(?:negative|minus|root of|power of|log|ln|sin|cos|tan|sqrt)\s+$"
    rf"|\d\s?{_PARTS}{_AND}$",
    re.IGNORECASE,
)
_ADJECTIVE = re.compile(rf"\d [{CURRENCY_SIGNS}]\s?$")  # "2 $10 bills" is 2; see `without_markup`
_CUT_AFTER = re.compile(
    r"!(?!=)|\(|'\s?\d|\||[\s)}\]]*\^|\s*(?:[\u2260\u00b1\\+*\u00d7\u00b7\u00f7]|_\w)"
    r"|(?!cc\b)[abcxyz]{2,3}\b|(?!(?:[cdkm]?m|ft|in|yd)[23]\b)[A-Za-z]+\d"
    rf"|{_VARIABLE}\b|\s?[xyzn]\b|\s*-\s*[xyzn]\b|/\s*(?:[xyzn]\b|\()"
    r"|\s*[\u03c0\u221a\u221b\u221e\u2030]|\s+(?i:to the (?:power|\w+(?:th|nd|rd)\b))"
    rf"|\s*-?(?i:{'|'.join(_SCALES)}|pi|squared|cubed|factorial)s?\b"
    r"|\s(?i:thirds|fourths|fifths|sixths|eighths|tenths|hundredths|thousandths)\b"
    r"|\s+(?i:and\s+)?(?i:an?|one)\s+(?i:half|third|quarter|fourth)\b"
    rf"|\s?(?i:{_PARTS}{_AND}\d[\d.,]*\s?{_SMALLER})"
)


@dataclass(frozen=True)
class Numbers:
    """Adjacent numbers in ``text``, from ``start`` to ``end``."""

    text: str
    start: int
    end: int

    @property
    def value(self) -> str:
        """The normal form of them together; ``3 + 4`` is 7, ``3:4`` and ``5 or 6`` are ``""``.

        Also ``""`` if the text around them changes the number: ``2x``, ``x + 5``.
        """
        before = self.text[max(0, self.start - _BEFORE) : self.start]
        repeating = "." in str(self) and self.text.startswith("..", self.end)  # 3.33...
        if repeating or _CUT_BEFORE.search(before) or _CUT_AFTER.match(self.text, self.end):
            return ""
        return number_value(str(self))

    def __str__(self) -> str:
        return self.text[self.start : self.end]


def numbers_in(text: str) -> Iterator[Numbers]:
    """Yield the numbers in ``text``, a line without markup (`without_markup`), in order."""
    for match in _NUMBERS.finditer(text):
        start, end = match.span()
        more = text.count("(", start, end) - text.count(")", start, end)
        while more > 0 and text[start] == "(":
            start, more = start + 1, more - 1
            while text[start].isspace():
                start += 1
        while more < 0 and text[end - 1] == ")":
            end, more = end - 1, more + 1
            while text[end - 1].isspace():
                end -= 1
        if not _ADJECTIVE.search(text[max(0, start - _BEFORE) : start]):
            yield Numbers(text, start, end)


def number_value(text: str) -> str:
    """The normal form of one number, or of an expression that has a value; otherwise ``""``."""
    text = text.strip()
    while text.startswith("(") and text.endswith(")") and not re.search("[()]", text[1:-1]):
        text = text[1:-1].strip()
    one = _ONE.fullmatch(text)
    if one is None and " or " in text:  # "30 + 160 or 190"; "0.6 or 60%"
        *others, text = text.split(" or ")
        value = number_value(text)
        same = {value, decimal_form(Fraction(value or 0) / 100)} if "%" in text else {value}
        return value if same.issuperset(map(number_value, others)) else ""
    if one is None:
        return _calculated(text)
    if one["under"]:
        if len(text) > MAX_DIGITS or not int(one["under"]):
            return ""
        part = Fraction(int(one["over"]), int(one["under"]))
        whole = plain_number(one["whole"] or "0")
        return _signed(one["sign"], str(int(whole) + part)) if whole else ""
    return _signed(one["sign"], plain_number(one["digits"], scale=(one["scale"] or "").strip()))


def plain_number(digits: str, *, scale: str = "") -> str:
    """The normal form of digits, which may have groups, decimals and a power of ten."""
    parts = _PLAIN.fullmatch(digits)
    if parts is None or digits == "" or len(re.findall(r"\d", digits)) > MAX_DIGITS:
        return ""
    whole, decimals = re.sub(r"\D", "", parts["whole"]), parts["decimals"] or ""
    times = _SCALES[scale.lower().removesuffix("s")] if scale else 1
    if parts["power"] is None and times == 1:
        return _trimmed(whole, decimals)
    value = Fraction(int(whole + decimals or 0), 10 ** len(decimals)) * times
    return decimal_form(value * Fraction(10) ** int(parts["power"] or 0))


def decimal_form(value: Fraction) -> str:
    """``value`` as a decimal number if it ends, else as a fraction; ``""`` if it is too long."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 4 * MAX_DIGITS:
        return ""
    places, rest = 0, value.denominator
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        places = max(places, power)
    if rest != 1:
        return fraction_form(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
    whole, decimals = digits[: len(digits) - places], digits[len(digits) - places :]
    text = _signed("-" if value < 0 else "", _trimmed(whole, decimals))
    return text if len(digits) <= MAX_DIGITS else ""


def fraction_form(value: Fraction) -> str:
    """``value`` as a whole number or a fraction in lowest terms; ``""`` if it is too long."""
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    return str(value) if bits <= 3 * MAX_DIGITS else ""


def _trimmed(whole: str, decimals: str) -> str:
    decimals = decimals.rstrip("0")
    return (whole.lstrip("0") or "0") + ("." + decimals if decimals else "")


def _signed(sign: str, number: str) -> str:
    return "-" + number if sign == "-" and number not in ("0", "") else number


_LONGEST = 1000  # characters; a longer text is no expression with a value
_OPERATORS = str.maketrans({"\u00d7": r" \times ", "\u00b7": r" \cdot ", "\u00f7": r" \div "})


def _calculated(text: str) -> str:
    """The value of an expression that is not a single number, in normal form, or ``""``."""
    if len(text) > _LONGEST:
        return ""
    signs = re.sub(r"[^-/:]", "", text.lstrip("+-"))
    if not re.search(r"\d[ )]*(?:[+*^\u00d7\u00b7\u00f7]| x )|\\", text) and signs != "/":
        return ""  # 5-7 may be a range, 3:4 a ratio, 3/4/2024 a date, 555-1234 a phone number
    unread: list[str] = []

    def spelled(match: re.Match[str]) -> str:
        number = plain_number(match[0])
        unread.extend([match[0]] if not number else [])
        whole, _, decimals = number.partition(".")
        if not decimals:
            return whole
        exact = rf"\frac{{{int(whole + decimals)}}}{{1{'0' * len(decimals)}}}"
        return f"({exact})" if match.string[match.end() :].lstrip().startswith("^") else exact

    latex = re.sub(_DIGITS, spelled, re.sub(r" [xX] ", "\u00d7", text).replace("**", "^"))
    latex = re.sub(r"\^ *(?:\(([^()]*)\)|(-? *\d+))", r"^{\1\2}", latex).replace("*", "\u00d7")
    value = None if unread else expression_value(latex.translate(_OPERATORS))
    if value is None:
        return ""
    as_fraction = re.search(r"/|\\frac|\u00f7", text) and "." not in text
    return fraction_form(value) if as_fraction else decimal_form(value)
