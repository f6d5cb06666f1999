"""Numbers in answers are read whole or not at all."""

import ast
import operator
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.data.answers import extract_answer, normal_answer, same_answer

pytestmark = pytest.mark.same_everywhere

WHOLE = [
    (r"\boxed{\frac{3}{4}}", "3/4"), (r"\$9{,}500", "9500"), ("Rs.500", "500"),
    ("$10^{6}$", "1000000"), ("15 cm^2", "15"), ("1,23,456", "123456"), ("1e5", "100000"),
    ("2½", "5/2"), ("$118 000", "118000"), (r"1.5 \times 10^3", "1500"),
    # grouped
    ("1 000 000", "1000000"), ("1\u00a0000", "1000"), ("1\u2009000", "1000"), ("1_000", "1000"),
    (r"1\,000\,000", "1000000"), ("1{,}234{,}567.89", "1234567.89"), ("1'000", "1000"),
    ("12,34,567.50", "1234567.5"), ("1,200.", "1200"), ("007", "7"),
    # currencies, units, percent
    ("Rs. 1,200", "1200"), ("rs . 40", "40"), ("USD 5.50", "5.5"), ("US$5", "5"),
    ("₹1,23,456", "123456"),
    ("-$3", "-3"), ("20€", "20"), (r"15\text{ cm}^2", "15"), ("15 m²", "15"), ("15m2", "15"),
    ("10am", "10"), ("10:00 am", "10"), ("90°", "90"), (r"90^\circ", "90"), ("5 km/h", "5"),
    (r"50\%", "50"),
    # fractions
    (r"\dfrac{3}{4}", "3/4"), (r"-\frac12", "-1/2"), (r"2\frac{1}{2}", "5/2"), ("12 1/2", "25/2"),
    ("½", "1/2"), ("is -½", "-1/2"), ("1¾ cups", "7/4"), ("2 and 1/2", "5/2"), ("1\u20442", "1/2"),
    ("16 2/3 %", "50/3"), (r"\left(\frac{1}{2}\right)", "1/2"),
    (r"\boxed{\frac{\frac12}{2}}", "1/4"),
    # powers and sums
    ("10^-3", "0.001"), ("10⁶", "1000000"), ("2**10", "1024"), ("5 x 10^3", "5000"),
    ("1.5·10^{-2}", "0.015"),
    ("-1.5e3", "-1500"), ("1E+5", "100000"), ("3 million", "3000000"), ("2.5 thousand", "2500"),
    ("2×3", "6"), ("(3 + 4) * 2", "14"), ("36.5/2", "18.25"), (r"\sqrt{16}", "4"), ("1 ÷ 3", "1/3"),
    # markup
    (r"\(18\)", "18"), (r"\[x = \frac{36}{2}\]", "18"), ("$x = 5$", "5"),
    ("The answer is **18**.", "18"),
    ("<answer>18</answer>", "18"), (r"\boxed{18 \text{ pens}}", "18"), (r"\textbf{18}", "18"),
    (r"\begin{aligned} x &= 5 \\ \end{aligned}", "5"), (r"$$\boxed{x = -5}$$", "-5"),
    # other scripts
    ("１２３", "123"), ("٣٫٥", "3.5"), ("१२", "12"), ("1\u200b8", "18"),
    # beside another number
    ("There are 2 $10 bills", "2"), ("It makes 2400 / 200 = 12 200-kilobyte films", "12"),
    ("That is $210 / $350 = 0.60 or 60%", "60"), ("100/5 = 5A/5 or 20 = A", "20"),
]  # fmt: skip

PARTS = [
    "3:4", r"\boxed{2\sqrt{3}}",
    # ratios, times, dates, ranges, lists, telephones, versions
    "3 : 4", "at 3:45 pm", "2:3:5", "5-7", "5 – 7", "5 to 7", "5~6", "5..6", "3/4/2024",
    "2024-01-05",
    "2 and 3", "5 or 6", "3, 4", "5;6", "(3, 4)", r"\boxed{3, 4}", "555-1234", "(555) 123-4567",
    "+1 555 123 4567", "3.5.1", "1/2/3", "7 out of 10", "x = 2 or x = 3", "x = 2, y = 3",
    # digits in no common grouping
    "€1.234,56", "1.234.567", "1,5", "12,34", "0,500", "1,000,00", "1 000 0000", "12345 67",
    # more text follows
    "2x", "3xy", "2 pi", "3π", "5k", "1e5x", "4x6 photo", "2 thirds", "2 and a half hours",
    "5 squared",
    "0.333...", r"0.\overline{3}", "5 ± 2", "5!", "5 feet 6 inches",
    "1 hour and 30 minutes", "5'6\"",
    "20 R 3", "2 to the power of 3", "f(5)", "5(x)", "x^2 + 3", "12 apples + 3 apples",
    # more text comes before
    "√16", r"\sqrt[3]{8}", r"\binom{5}{2}", r"\log_2 8", "log 8", "negative 5", "|-5|", "COVID-19",
    "apples.5", "1 + x", "The answer is - 5", r"{3}^{2}",
    # no value, no plain value, or one that takes too long to compute
    "3/0", "(2)(3)", "6/2(1+2)", "9^9^9", r"9^{9^{9}}", "1e400", "1e-50",
    r"\boxed{18", r"\boxed{\pi}",
    r"\boxed{12} or \boxed{13}", r"\boxed{x > 5}", "1/3 × 9^999",
]  # fmt: skip


@pytest.mark.parametrize(("text", "answer"), WHOLE)
def test_a_number_is_read_whole(text: str, answer: str) -> None:
    assert extract_answer(text) == answer
    assert normal_answer(answer) == answer


@pytest.mark.parametrize("text", PARTS)
def test_half_a_number_is_not_read(text: str) -> None:
    assert extract_answer(text) == ""
    assert normal_answer(text) == ""
    assert not same_answer(text, text)


@pytest.mark.parametrize("text", [r"\frac{36}{2}", "$18", "18.0", "1.8e1", "36/2", "9 + 9", "18%"])
def test_answers_are_compared_by_the_value_of_all_their_forms(text: str) -> None:
    assert same_answer(text, "18")
    assert not same_answer(text, "17")


# --- compared with Python's arithmetic -----------------------------------------------------

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
             ast.Div: operator.truediv}  # fmt: skip


def worked_out(node: ast.expr) -> Fraction:
    """Compute the value with Python's own parser and fractions."""
    match node:
        case ast.Constant(value=value):
            return Fraction(str(value))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -worked_out(operand)
        case ast.BinOp(left=left, op=sign, right=right):
            return OPERATORS[type(sign)](worked_out(left), worked_out(right))
    raise AssertionError(ast.unparse(node))


pieces = st.sampled_from(["3", "12", "0.5", "2.25", "100", "7"])
sums = st.lists(
    st.tuples(st.sampled_from([" + ", " - ", " * ", "/"]), pieces), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(pieces, sums, st.booleans())
def test_a_sum_has_the_value_that_python_gives_it(
    first: str, rest: list[tuple[str, str]], latex: bool
) -> None:
    text = first + "".join(sign + piece for sign, piece in rest)
    plain = text.replace(" * ", r" \times ").replace("/", r" \div ") if latex else text
    answer = extract_answer(f"So it is {plain}.")
    if answer:
        assert Fraction(answer) == worked_out(ast.parse(text, mode="eval").body)
    else:  # ranges and dates
        assert not {" + ", " * "} & {sign for sign, _ in rest}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 999), st.integers(1, 999), st.integers(0, 5), st.booleans())
def test_fractions_and_powers_of_ten_are_exact(a: int, b: int, power: int, minus: bool) -> None:
    sign = "-" if minus else ""
    for text, value in (
        (rf"\boxed{{{sign}\frac{{{a}}}{{{b}}}}}", Fraction(a, b)),
        (f"{sign}{a}.{b} x 10^{power}", Fraction(f"{a}.{b}") * 10**power),
        (f"{sign}{a}.{b}e-{power}", Fraction(f"{a}.{b}") / 10**power),
        (f"{sign}${a:,} {b}/{a + b}", a + Fraction(b, a + b)),
    ):
        assert Fraction(extract_answer(text)) == (-value if minus else value)


@given(st.integers(0, 10**12), st.integers(0, 99))
def test_two_numbers_joined_by_a_sign_are_never_cut(whole: int, more: int) -> None:
    """Two numbers joined by a sign are read together or not at all, never in part."""
    for sign in ",.:/-_';~|":
        text = f"{whole}{sign}{more:02}"
        answer = extract_answer(f"It is {text}")
        wholes = [f"{whole}.{more:02}", f"{whole}{more:02}", f"{whole}/{more or 1}"]
        assert answer == "" or Fraction(answer) in map(Fraction, wholes)


# --- in every thread, and fast -------------------------------------------------------------


def test_expressions_are_read_in_other_threads_than_the_main_one() -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(extract_answer(r"\boxed{\frac{36}{2}}")))
    thread.start()
    thread.join()
    assert found == ["18"]


@pytest.mark.parametrize(
    "text",
    ["(" * 9999 + "1", "1+" * 9999 + "1", "9^" * 9999 + "9", r"\frac{" * 9999, r"\boxed{" * 9999,
     r"\text{" * 9999 + "1" + "}" * 9999, "(" * 30 + "1+1" + ")" * 30, "1 or " * 9999 + "1",
     r"99999999999999999999^{9999}", "2^{1000}^{1000}", "- " * 9999 + "5", "#### a\n" * 9999,
     "½" * 9999, "5" + " " * 9999 + "x", "$" * 9999 + "1"],
)  # fmt: skip
def test_monstrous_text_takes_no_time(text: str) -> None:
    extract_answer(r"\boxed{1+1}")  # imports math-verify
    start = time.perf_counter()
    extract_answer(text)
    normal_answer(text)
    assert time.perf_counter() - start < 5
