"""ASDiv and SVAMP: a story, a question about it, and an equation instead of a worked solution.

ASDiv (Miao et al. 2020, https://aclanthology.org/2020.acl-main.92) and SVAMP (Patel et al. 2021,
https://aclanthology.org/2021.naacl-main.168). The question alone cannot be answered, so story and
question are joined. The equation becomes the solution if it can be computed and gives the answer.
In a few rows the two disagree; these rows are dropped, since either could be wrong.
"""

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from mathsft.data.answers import normal_answer
from mathsft.data.schemas import Problem, UnusableRowError, text_of

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS = str.maketrans("×÷−–", "*/--")
_UNIT = re.compile(r"\s*\(\s*[A-Za-z][^()]*\)")  # "18 (kg) * 1000 (g/kg)"
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LONGEST = 300  # characters; a longer text is not the equation of a school problem


def from_asdiv(
    row: dict[str, Any], *, where: str, source: str, notes: Counter[str] | None = None
) -> Problem:
    """``body``, ``question``, ``answer`` (``9 (apples)``) and ``formula`` (``7+2=9``)."""
    answer = text_of(row, "answer", where=where)
    begin = answer.rfind("(")
    if begin >= 0 and answer.find(")", begin) == len(answer) - 1:  # the unit
        answer = answer[:begin].rstrip()
    return _problem(row, ("body", "question", "formula"), answer, where, source, notes)


def from_svamp(
    row: dict[str, Any], *, where: str, source: str, notes: Counter[str] | None = None
) -> Problem:
    """``Body``, ``Question``, ``Answer`` (``5``, ``5.0``) and ``Equation`` (``( 8.0 - 3.0 )``)."""
    answer = row.get("Answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):  # in the published JSON
        row = {**row, "Answer": str(answer)}
    answer = text_of(row, "Answer", where=where)
    return _problem(row, ("Body", "Question", "Equation"), answer, where, source, notes)


def _problem(
    row: dict[str, Any],
    columns: tuple[str, str, str],
    answer: str,
    where: str,
    source: str,
    notes: Counter[str] | None,
) -> Problem:
    story = text_of(row, columns[0], where=where, empty_ok=True)
    question = text_of(row, columns[1], where=where)
    equation = text_of(row, columns[2], where=where, empty_ok=True)
    found = normal_answer(answer)
    if not found:
        raise UnusableRowError("whose answer is not one number")
    try:
        solution, agrees = worked_equation(equation, found)
    except ValueError:  # the question and its answer can be used without it
        solution, agrees = "", True
        if notes is not None:
            notes[f"without a solution ({columns[2]} cannot be computed)"] += 1
    if not agrees:
        raise UnusableRowError(f"whose {columns[2]} and answer disagree")
    return Problem(
        question=" ".join(filter(None, (story, question))),
        solution=solution,
        answer=found,
        choices=[],
        label=-1,
        source=source,
    )


def worked_equation(equation: str, answer: str) -> tuple[str, bool]:
    """Return an equation as a person writes it, and whether it is right and gives ``answer``.

    ``7+2=9`` gives ``7 + 2 = 9``, ``( 8.0 - 3.0 )`` gives ``8 - 3 = 5``, and steps separated by
    ``;`` get a line each. A result may be rounded to its decimals. Units in brackets are left out.
    Raises ValueError for what is not plain arithmetic, such as a ratio or a remainder.
    """
    if len(equation) > _LONGEST:
        raise ValueError(f"not an equation: {equation!r:.60}")
    lines = []
    agrees = True
    value = Fraction()
    for step in equation.split(";"):
        sides = [_side(side) for side in step.split("=")]
        if len(sides) == 1:
            if ";" in equation:
                raise ValueError(f"a step without its result: {equation!r:.60}")
            sides.append((answer, Fraction(answer)))
        value = sides[-1][1]
        agrees &= all(_equal(number, *sides[-1]) for _, number in sides)
        lines.append(" = ".join(text for text, _ in sides))
    return "\n".join(lines), agrees and _equal(value, answer, Fraction(answer))


def _side(text: str) -> tuple[str, Fraction]:
    """One side of an equation, as text and as a number."""
    plain = _THOUSANDS.sub("", _UNIT.sub("", text.translate(_SIGNS)))
    try:
        tree = ast.parse(plain.strip(), mode="eval").body
        return ast.unparse(_tidy(tree)), _value(tree)
    except (SyntaxError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"not plain arithmetic: {text!r:.60}") from error


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_value(left), _value(right))
    raise ValueError(f"not plain arithmetic: {ast.unparse(node)!r:.60}")


def _tidy(tree: ast.expr) -> ast.expr:
    """Write ``8.0`` as ``8``. Redundant brackets are not in the tree anyway."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            node.value = int(node.value) if node.value.is_integer() else node.value
    return tree


def _equal(number: Fraction, written: str, other: Fraction) -> bool:
    """Whether two numbers are equal, up to rounding to the decimals of ``written``."""
    decimals = re.fullmatch(r"-?\d*\.(\d+)", written)
    most = Fraction(1, 2 * 10 ** len(decimals[1])) if decimals else 0
    return abs(number - other) <= most
