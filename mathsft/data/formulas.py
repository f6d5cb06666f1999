"""MathQA's ``annotated_formula``, executed and compared with the labelled choice.

A formula such as ``divide(multiply(n, const_100), m)`` says how the annotators think the
answer is calculated. Formulas and labels are both noisy; if they disagree, at least one of
them is wrong.
"""

import ast
import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

from mathsft.data.mathqa import choice_answer

Number: TypeAlias = Any  # a Fraction while it is exact, else a float
AGREES, DISAGREES = "formula agrees with the label", "formula disagrees with the label"
UNKNOWN, INCOMPARABLE = "formula cannot be executed", "label is not one number"

_LONGEST = 5000  # characters; MathQA's own formulas have up to about a thousand
_MOST_BITS = 1000  # a larger number is not the answer to a school problem


class FormulaError(ValueError):
    """This formula has no value; the message says why."""


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(exponent) <= _MOST_BITS:
            return base ** int(exponent)
    return math.pow(base, exponent)


def _whole(operation: Callable[..., int]) -> Callable[..., Any]:
    """``operation`` for whole numbers only; numbers so large that it takes long are refused."""

    def over_fractions(*numbers: Number) -> Number:
        if any(number != int(number) or abs(number) > 1e15 for number in numbers):
            raise FormulaError(f"{operation.__name__} is for whole numbers")
        if operation in (math.factorial, math.comb, math.perm) and numbers[0] > 500:
            raise FormulaError(f"{operation.__name__} of {numbers[0]} is too large")
        return Fraction(operation(*map(int, numbers)))

    return over_fractions


def _heron(a: Number, b: Number, c: Number) -> Number:
    half = (a + b + c) / 2
    return math.sqrt(half * (half - a) * (half - b) * (half - c))


# Each operation by MathQA's name ("reminder" and "circumface" are MathQA's spelling): how many
# numbers it takes, and what it does. If a name is unclear, its meaning is taken from the rows.
_OPERATIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "add": (2, lambda a, b: a + b),
    "subtract": (2, lambda a, b: a - b),
    "multiply": (2, lambda a, b: a * b),
    "divide": (2, lambda a, b: a / b),
    "speed": (2, lambda distance, time: distance / time),
    "power": (2, _power),
    "sqrt": (1, math.sqrt),
    "log": (1, math.log),
    "inverse": (1, lambda a: 1 / a),
    "negate": (1, lambda a: -a),
    "negate_prob": (1, lambda p: 1 - p),
    "floor": (1, lambda a: Fraction(math.floor(a))),
    "max": (2, max),
    "min": (2, min),
    "reminder": (2, lambda a, b: a % b),
    "gcd": (2, _whole(math.gcd)),
    "lcm": (2, _whole(math.lcm)),
    "factorial": (1, _whole(math.factorial)),
    "choose": (2, _whole(math.comb)),
    "permutation": (2, _whole(math.perm)),
    "sine": (1, math.sin),
    "cosine": (1, math.cos),
    "tangent": (1, math.tan),
    "circle_area": (1, lambda r: math.pi * r**2),
    "circumface": (1, lambda r: 2 * math.pi * r),
    "diagonal": (2, math.hypot),
    "quadrilateral_area": (3, lambda height, a, b: height * (a + b) / 2),
    "rectangle_area": (2, lambda a, b: a * b),
    "rectangle_perimeter": (2, lambda a, b: 2 * (a + b)),
    "rhombus_area": (2, lambda d, e: d * e / 2),
    "rhombus_perimeter": (1, lambda a: 4 * a),
    "square_area": (1, lambda a: a**2),
    "square_edge_by_area": (1, math.sqrt),
    "square_edge_by_perimeter": (1, lambda p: p / 4),
    "square_perimeter": (1, lambda a: 4 * a),
    "triangle_area": (2, lambda base, height: base * height / 2),
    "triangle_area_three_edges": (3, _heron),
    "triangle_perimeter": (3, lambda a, b, c: a + b + c),
    "cube_edge_by_volume": (1, lambda v: math.pow(v, 1 / 3)),
    "surface_cube": (1, lambda a: 6 * a**2),
    "surface_cylinder": (2, lambda r, h: 2 * math.pi * r * (r + h)),
    "surface_rectangular_prism": (3, lambda a, b, c: 2 * (a * b + b * c + c * a)),
    "surface_sphere": (1, lambda r: 4 * math.pi * r**2),
    "volume_cone": (2, lambda r, h: math.pi * r**2 * h / 3),
    "volume_cube": (1, lambda a: a**3),
    "volume_cylinder": (2, lambda r, h: math.pi * r**2 * h),
    "volume_rectangular_prism": (3, lambda a, b, c: a * b * c),
    "volume_sphere": (1, lambda r: 4 * math.pi * r**3 / 3),
    "original_price_before_gain": (2, lambda percent, price: price * 100 / (100 + percent)),
    "original_price_before_loss": (2, lambda percent, price: price * 100 / (100 - percent)),
    "p_after_gain": (2, lambda percent, price: price * (100 + percent) / 100),
    "stream_speed": (2, lambda down, up: (down + up) / 2),
}


def formula_value(formula: str) -> Number:
    """Return the value of an ``annotated_formula``; exact if every step gives a fraction.

    Args:
        formula: such as ``divide(const_100, 60)``. It is parsed, never run as code. Constants are
            written ``const_100``, ``const_3_6`` (3.6) and ``const_pi``.

    Raises:
        FormulaError: not of that form, an unknown operation, a wrong number of
            arguments, or no value (a division by 0, the root of a negative number).
    """
    if len(formula) > _LONGEST:
        raise FormulaError(f"{len(formula):,} characters, more than {_LONGEST:,}: {formula!r:.60}")
    # Arguments are separated by comma and space; a comma without a space is a thousands comma.
    plain = re.sub(r"(?<=\d),(?=\d)", "", formula)
    plain = re.sub(r"(?<![\w.])0+(?=\d)", "", plain)  # 06
    plain = re.sub(r"(const_\d+)\.0\b", r"\1", plain)  # const_4.0
    try:
        return _value(ast.parse(plain.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise FormulaError(f"not a formula: {formula!r:.60}") from error
    except (ArithmeticError, ValueError, TypeError) as error:
        raise FormulaError(f"{error}: {formula!r:.60}") from error


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return Fraction(str(node.value))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.Name(id="const_pi"):
            return math.pi
        case ast.Name(id=name) if constant := re.fullmatch(r"const_(\d+)(?:_(\d+))?", name):
            return Fraction(f"{constant[1]}.{constant[2] or 0}")
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _OPERATIONS:
            wanted, operation = _OPERATIONS[name]
            if len(args) != wanted:
                raise FormulaError(f"{name} takes {wanted} numbers, not {len(args)}")
            return _bounded(operation(*map(_value, args)))
    named = node.func if isinstance(node, ast.Call) else node
    name = named.id if isinstance(named, ast.Name) else type(named).__name__
    raise FormulaError(f"unknown {name!r:.40}")


def _bounded(value: Number) -> Number:
    """Return ``value``; an error if it has more than ``_MOST_BITS`` bits, or is not finite."""
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
            raise FormulaError("too large")
    elif not math.isfinite(value):
        raise FormulaError("not finite")
    return value


_CURRENCY = re.compile(r"^(?:rs|re|s|inr|usd) ?\.? (?=[\d$-])")
_UNIT = re.compile(r"(?<=[\d%]) ([a-z][a-z .]*?)( [23])?[ .]*$")
_LENGTHS = {"mm", "cm", "m", "km", "ft", "feet", "inch", "inches"}  # only these have squares
# After a number, these words change its value or make it no number; so do names of unknowns.
_NO_UNITS = {"and", "or", "to", "pi", "sqrt", "root", "log", "am", "pm", "dozen", "hundred",
             "thousand", "lakh", "lakhs", "million", "crore", "crores", "billion",
             *"abdeijknopqrtuvwxyz"}  # fmt: skip


def _without_unit(choice: str) -> str:
    """``choice`` without currency and unit; "" if the words after the number are no unit."""
    plain = _CURRENCY.sub("", choice)
    unit = _UNIT.search(plain)
    if unit is None:
        return plain
    words = unit[1].replace(".", " ").split()
    if _NO_UNITS.intersection(words) or (unit[2] and words[-1] not in _LENGTHS):
        return ""
    return plain[: unit.start()]


def label_number(choice: str) -> tuple[Fraction, float] | None:
    """Return the number in a choice, and how far a value may be from it and still count as equal.

    A currency, a percent sign and a unit are ignored (``rs . 40``, ``21 %``, ``12 cm 2``). The
    tolerance is 0.5 for a whole number, one unit of the last decimal for a decimal number (some
    labels are rounded, some cut off), and 0 for a fraction. It is at least one part in a
    thousand, because formulas have constants such as 0.2778 (for 5 / 18), and labels have
    22 / 7. None for ratios, powers, several numbers, and words.
    """
    answer = choice_answer(_without_unit(choice))
    if not answer:
        return None
    number = Fraction(answer)
    decimals = re.search(r"\.(\d+)", choice)
    last = 10.0 ** -len(decimals[1]) if decimals else 0.0 if "/" in choice else 0.5
    return number, max(last, float(abs(number)) / 1000)


def formula_verdict(formula: str, choice: str) -> str:
    """Say whether the value of ``formula`` is the number in ``choice``, the labelled choice.

    Returns ``AGREES``, ``DISAGREES``, ``UNKNOWN`` or ``INCOMPARABLE``.
    """
    try:
        value = formula_value(formula)
    except FormulaError:
        return UNKNOWN
    labelled = label_number(choice)
    if labelled is None:
        return INCOMPARABLE
    number, tolerance = labelled
    return AGREES if abs(value - number) <= tolerance * (1 + 1e-9) else DISAGREES
