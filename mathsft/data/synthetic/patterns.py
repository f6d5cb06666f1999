"""What the generated multiple-choice problems ask: wording, numbers, formula.

A pattern is data. ``operands`` lists the values that each number may take. From them, ``value``
computes the answer, and ``shown`` the numbers that the text names as ``{0}``, ``{1}``, … (the
operands themselves, unless a division must have no remainder). ``formula`` is MathQA's
``annotated_formula``. ``facts`` state the same content with its result (``{answer}``); only the
pre-training text of the tiny model uses them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

_VEHICLES = ("train", "car", "bus", "truck", "boat")
_GOODS = ("watch", "chair", "radio", "book", "lamp", "table")
_FIELDS = ("field", "garden", "room", "plate", "park")
_BALLS = ("balls", "marbles", "beads", "tickets")
_MEN = ("men", "workers", "women", "machines")
_FRUIT = ("mangoes", "oranges", "pens", "notebooks", "toys")


@dataclass(frozen=True)
class Pattern:
    """One kind of problem; the module's docstring explains the fields."""

    category: str
    operands: tuple[Sequence[int], ...]
    value: Callable[..., Fraction]
    questions: tuple[str, ...]
    facts: tuple[str, ...]
    things: tuple[str, ...]
    steps: str
    formula: str
    linear: str
    unit: str = "{}"
    shown: Callable[..., tuple[int, ...]] = lambda *operands: operands


PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        category="physics",
        operands=(range(10, 61, 2), range(2, 10)),
        value=lambda speed, hours: Fraction(speed * hours),
        questions=(
            "a {thing} runs at {0} km / hr for {1} hours . what distance does it cover ?",
            "find the distance covered by a {thing} in {1} hours at a speed of {0} km / hr .",
        ),
        facts=("in {1} hours at {0} km / hr every {thing} goes {answer}",),
        things=_VEHICLES,
        steps="{0} * {1}",
        formula="multiply({0}, {1})",
        linear="multiply(n0,n1)|",
        unit="{} km",
    ),
    Pattern(
        category="physics",
        operands=(range(5, 81, 5), range(2, 13)),
        value=lambda speed, hours: Fraction(hours),
        shown=lambda speed, hours: (speed, speed * hours),
        questions=(
            "how many hours does a {thing} need for {1} km at {0} km / hr ?",
            "a {thing} covers {1} km at {0} km / hr . find the time taken in hours .",
        ),
        facts=("{1} km at {0} km / hr take a {thing} {answer} hours",),
        things=_VEHICLES,
        steps="{1} / {0}",
        formula="divide({1}, {0})",
        linear="divide(n0,n1)|",
    ),
    Pattern(
        category="gain",
        operands=(range(20, 100), range(5, 60)),
        value=lambda cost, gain: Fraction(gain),
        shown=lambda cost, gain: (cost, cost + gain),
        questions=(
            "a man buys a {thing} for rs . {0} and sells it for rs . {1} . what is his gain ?",
            "the cost price of a {thing} is rs . {0} and the selling price is rs . {1} . "
            "find the profit .",
        ),
        facts=("bought at {0} and sold at {1} , a {thing} leaves {answer}",),
        things=_GOODS,
        steps="{1} - {0}",
        formula="subtract({1}, {0})",
        linear="subtract(n1,n0)|",
        unit="rs . {}",
    ),
    Pattern(
        category="gain",
        operands=(range(20, 601, 20), (5, 10, 20, 25, 50)),
        value=lambda cost, percent: Fraction(cost * (100 + percent), 100),
        questions=(
            "a {thing} costs rs . {0} . at what price must it be sold to gain {1} % ?",
            "by selling a {thing} that cost rs . {0} a man makes {1} % profit . "
            "find the selling price .",
        ),
        facts=("{1} % on top of {0} makes {answer} for the {thing}",),
        things=_GOODS,
        steps="{0} + {0} * {1} / 100",
        formula="add({0}, divide(multiply({0}, {1}), const_100))",
        linear="multiply(n0,n1)|divide(#0,const_100)|add(n0,#1)|",
        unit="rs . {}",
    ),
    Pattern(
        category="geometry",
        operands=(range(4, 31), range(3, 13)),
        value=lambda length, width: Fraction(length * width),
        questions=(
            "the length of a {thing} is {0} m and its width is {1} m . what is its area in sq m ?",
            "find the area of a rectangular {thing} {0} m long and {1} m wide .",
        ),
        facts=("a {thing} of {0} m by {1} m has {answer} sq m inside",),
        things=_FIELDS,
        steps="{0} * {1}",
        formula="rectangle_area({0}, {1})",
        linear="rectangle_area(n0,n1)|",
    ),
    Pattern(
        category="geometry",
        operands=(range(5, 41), range(3, 31)),
        value=lambda length, width: Fraction(2 * (length + width)),
        questions=(
            "the sides of a rectangular {thing} are {0} m and {1} m . what is its perimeter ?",
            "how many metres of fence go around a {thing} {0} m long and {1} m wide ?",
        ),
        facts=("to walk around a {thing} of {0} m by {1} m is {answer}",),
        things=_FIELDS,
        steps="2 * ( {0} + {1} )",
        formula="rectangle_perimeter({0}, {1})",
        linear="rectangle_perimeter(n0,n1)|",
        unit="{} m",
    ),
    Pattern(
        category="general",
        operands=(range(10, 60), range(-8, 9)),
        value=lambda middle, spread: Fraction(middle),
        shown=lambda middle, spread: (middle - spread, middle + spread),
        questions=(
            "what is the average of {0} {thing} and {1} {thing} ?",
            "two boxes hold {0} and {1} {thing} . find the average number .",
        ),
        facts=("halfway from {0} to {1} {thing} lies {answer}",),
        things=_FRUIT,
        steps="( {0} + {1} ) / 2",
        formula="divide(add({0}, {1}), const_2)",
        linear="add(n0,n1)|divide(#0,const_2)|",
    ),
    Pattern(
        category="general",
        operands=((5, 10, 20, 25, 50, 75), range(20, 601, 20)),
        value=lambda percent, whole: Fraction(percent * whole, 100),
        questions=(
            "what is {0} % of {1} {thing} ?",
            "{0} % of the {1} {thing} in a shop are sold . how many {thing} are sold ?",
        ),
        facts=("{0} in a hundred among {1} {thing} are {answer}",),
        things=_FRUIT,
        steps="{1} * {0} / 100",
        formula="divide(multiply({1}, {0}), const_100)",
        linear="multiply(n0,n1)|divide(#0,const_100)|",
    ),
    Pattern(
        category="general",
        operands=(range(3, 60), range(3, 60), range(3, 60)),
        value=lambda first, second, third: Fraction(first + second + third),
        questions=(
            "three boys have {0} , {1} and {2} {thing} . how many {thing} have they in all ?",
            "find the total of {0} , {1} and {2} {thing} .",
        ),
        facts=("{0} , {1} and {2} {thing} put together are {answer}",),
        things=_FRUIT,
        steps="{0} + {1} + {2}",
        formula="add(add({0}, {1}), {2})",
        linear="add(n0,n1)|add(n2,#0)|",
    ),
    Pattern(
        category="other",
        operands=(range(2, 21), range(2, 13)),
        value=lambda men, days: Fraction(men * days),
        questions=(
            "{0} {thing} can do a piece of work in {1} days . in how many days can one do it ?",
            "if {0} {thing} finish a job in {1} days , how long would one alone take ?",
        ),
        facts=("the work of {0} {thing} for {1} days keeps one busy for {answer}",),
        things=_MEN,
        steps="{0} * {1}",
        formula="multiply({0}, {1})",
        linear="multiply(n0,n1)|",
        unit="{} days",
    ),
    Pattern(
        category="other",
        operands=(range(2, 16), range(2, 13), range(1, 40)),
        value=lambda each, number, extra: Fraction(each * number + extra),
        questions=(
            "{1} {thing} at rs . {0} each and a bag of rs . {2} are bought . find the bill .",
            "a boy pays for {1} {thing} at rs . {0} each and rs . {2} for the way . "
            "what does he pay ?",
        ),
        facts=("{1} {thing} , each {0} , and {2} more come to {answer}",),
        things=_FRUIT,
        steps="{0} * {1} + {2}",
        formula="add(multiply({0}, {1}), {2})",
        linear="multiply(n0,n1)|add(n2,#0)|",
        unit="rs . {}",
    ),
    Pattern(
        category="probability",
        operands=(range(1, 16), range(1, 16)),
        value=lambda red, blue: Fraction(red, red + blue),
        questions=(
            "a bag has {0} red and {1} blue {thing} . what is the probability of drawing red ?",
            "from {0} red and {1} blue {thing} one is drawn . "
            "find the probability that it is red .",
        ),
        facts=("red has a share of {answer} where {0} {thing} are red and {1} are blue",),
        things=_BALLS,
        steps="{0} / ( {0} + {1} )",
        formula="divide({0}, add({0}, {1}))",
        linear="add(n0,n1)|divide(n0,#0)|",
    ),
)
