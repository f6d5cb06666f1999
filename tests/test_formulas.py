"""MathQA's formulas: executed safely, compared with the label with a stated tolerance."""

import json
import math
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.data.formulas import (
    AGREES,
    DISAGREES,
    INCOMPARABLE,
    UNKNOWN,
    FormulaError,
    formula_value,
    formula_verdict,
    label_number,
)

pytestmark = pytest.mark.same_everywhere


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("power(5, 4)", 625),
        ("divide(1, 3)", Fraction(1, 3)),
        ("multiply(divide(25, const_100), 0.1)", Fraction(1, 40)),
        ("multiply(const_3_6, const_0_2778)", Fraction("3.6") * Fraction("0.2778")),
        ("add(const_4.0, 06)", 10),
        ("divide(800, 1,000)", Fraction(4, 5)),
        ("subtract(3, -2)", 5),
        ("choose(10, 3)", 120),
        ("permutation(4, 2)", 12),
        ("lcm(4, 6)", 12),
        ("reminder(power(3682, 2), 19)", 3682**2 % 19),
        ("floor(divide(7, 2))", 3),
        ("quadrilateral_area(11, 18, 20)", 209),
        ("original_price_before_loss(50, 5000)", 10000),
        ("stream_speed(19, 9)", 14),
        ("triangle_area_three_edges(3, 4, 5)", 6),
        ("circle_area(2)", 4 * math.pi),
        ("multiply(const_pi, 2)", 2 * math.pi),
    ],
)
def test_a_formula_has_its_value(formula: str, value: float) -> None:
    assert formula_value(formula) == pytest.approx(value, rel=1e-12)


def test_fractions_stay_exact() -> None:
    assert formula_value("multiply(divide(1, 3), 3)") == 1
    assert isinstance(formula_value("subtract(0.3, 0.1)"), Fraction)


@pytest.mark.parametrize(
    "formula",
    [
        "",
        "add(1",
        "add(1)",
        "add(1, 2, 3)",
        "subtract(x, 1)",
        "divide(1, 0)",
        "sqrt(-4)",
        "factorial(2.5)",
        "factorial(100000000)",
        "power(10, power(10, 10))",
        "exp(2)",
        "const_e",
        "__import__('os').system('true')",
        "add(1, *[2])",
        "add(True, 1)",
        "(" * 5000 + "1" + ")" * 5000,
        "volume_cube(" * 14 + "10" + ")" * 14,
        "multiply(" + "square_area(" * 30 + "3" + ")" * 30 + ", 2)",
        "subtract(" + "power(2.5, 900.5), " * 1 + "power(10, 400.5))",
    ],
)
def test_a_formula_without_a_value_is_an_error_within_a_second(formula: str) -> None:
    start = time.perf_counter()
    with pytest.raises(FormulaError):
        formula_value(formula)
    assert time.perf_counter() - start < 1


numbers = st.integers(1, 500)


@settings(max_examples=100, deadline=None)
@given(numbers, numbers, numbers)
def test_formulas_calculate_as_python_does(a: int, b: int, c: int) -> None:
    said = formula_value(f"divide(subtract(multiply({a}, {b}), {c}), add({b}, const_2))")
    assert said == Fraction(a * b - c, b + 2)


@pytest.mark.parametrize(
    ("choice", "number"),
    [
        ("24", 24),
        ("1,024", 1024),
        ("rs . 40", 40),
        ("$ 14.10", Fraction("14.1")),
        ("- 25", -25),
        ("− 7", -7),
        ("13 1 / 2", Fraction(27, 2)),
        ("16 2 / 3 %", Fraction(50, 3)),
        ("3 / 8", Fraction(3, 8)),
        ("33.3 %", Fraction("33.3")),
        ("750 cm 2", 750),
        ("20 sq . m", 20),
        ("12 hours", 12),
    ],
)
def test_a_labels_number_is_read_past_currency_percent_and_unit(
    choice: str, number: Fraction
) -> None:
    found = label_number(choice)
    assert found is not None
    assert found[0] == number


@pytest.mark.parametrize(
    "choice",
    [
        "4 : 5",
        "none of these",
        "10 ^ 20",
        "4 π",
        "6 and 9",
        "30 , 5",
        "1 hr 6 min",
        "1 million km",
        "16 pi feet",
        "144 pi",
        "c - 13500",
        "3 pm .",
        "5 sqrt 2",
        "sqrt 5",
        "2 x 3",
        "2 x",
        "5 or 2",
        "minus 5",
        "2 dozen",
        "between 4",
        "5 months 2",
        "7 !",
    ],
)
def test_what_is_not_one_number_is_not_compared(choice: str) -> None:
    assert label_number(choice) is None
    assert formula_verdict("add(1, 1)", choice) == INCOMPARABLE


@pytest.mark.parametrize(
    ("formula", "choice", "said"),
    [
        ("divide(100, 3)", "33.33 %", AGREES),
        ("divide(100, 3)", "33", AGREES),  # rounded
        ("divide(200, 3)", "66.6", AGREES),  # cut off
        ("divide(100, 3)", "34", DISAGREES),
        ("divide(200, 3)", "66.5", DISAGREES),
        ("divide(1, 3)", "1 / 3", AGREES),
        ("divide(1, 3)", "3 / 8", DISAGREES),
        ("multiply(900, const_0_2778)", "250 m", AGREES),
        ("multiply(36000, const_0_2778)", "10000 m", AGREES),  # one part in a thousand
        ("multiply(2, 3)", "- 6", DISAGREES),
        ("divide(1, 0)", "6", UNKNOWN),
    ],
)
def test_formula_and_label_agree_as_far_as_the_label_is_written_out(
    formula: str, choice: str, said: str
) -> None:
    assert formula_verdict(formula, choice) == said


def test_all_but_three_real_formulas_can_be_executed_in_seconds(data_dir: Path) -> None:
    rows = json.loads((data_dir / "mathqa" / "dev.json").read_text(encoding="utf-8"))
    failed = []
    start = time.perf_counter()
    for row in rows:
        try:
            formula_value(row["annotated_formula"])
        except FormulaError as error:
            failed.append(str(error))
    assert time.perf_counter() - start < 5
    assert len(failed) == 3
