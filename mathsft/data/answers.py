"""Final answers: read one from a worked solution, compare two by value.

The normal form of an answer is a plain number: no thousands commas, no currency sign, no
percent sign, no needless zeros (``1,200`` -> ``1200``, ``$48.00`` -> ``48``, ``.25`` ->
``0.25``, ``25%`` -> ``25``). A fraction stays a fraction, in lowest terms
(``2/4`` -> ``1/2``, ``1 1/2`` -> ``3/2``). An answer is read whole or not at all: see
``mathsft.data.numerals``.
"""

import re
from fractions import Fraction

from mathsft.data.markup import without_markup
from mathsft.data.numerals import number_value, numbers_in

_MARK = re.compile(r"<<[^<>]*>>")
_FINAL_LINE = re.compile(r"####+(.*)")
# "#### 2. Add the numbers": a numbered heading.
_HEADING = re.compile(r"\s*\d{1,2}[.):]\s+[^\W\d_]")
_ROUNDED = re.compile(r"\brounds?(?:ed)?(?: it)?(?: up| down| off)? to (?=-?\.?[0-9])")
_INEQUALITY = re.compile(r"(?<![-=])[<>\u2264\u2265\u2260]")
_EQUALS = re.compile(r"(?<![<>!])=+(?!>)")
_BULLET = re.compile(
    r"^\s*(?:(?:[-*+\u2022]|\d+[.)])\s+(?=\S)|(?:Step|Day|Week|Month|Year|Part|Case) \d+\s*:)",
    re.IGNORECASE,
)
_LEADING_MINUS = re.compile(r"^\s*-\s+(?=[\d.\\])")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:(\{)|(\d))")
_UNKNOWN = re.compile(r"\s*[A-Za-z]\s*(?:\.\s*)?")
# "x = 2 or x = 3", "x = 2, y = 3": two unknowns, or one unknown with two values.
_TWO_UNKNOWNS = re.compile(
    r"(?<![A-Za-z\d])[A-Za-z]\s*=([^=A-Za-z]+?)(?:,|;|\bor|\band)\s*[A-Za-z]\s*$"
)


def strip_marks(text: str) -> str:
    """``text`` without GSM8K's calculator marks: ``48/2 = <<48/2=24>>24`` -> ``48/2 = 24``."""
    return _MARK.sub("", text)


def split_final_line(text: str) -> tuple[str, str]:
    """Return the text before the answer line, and the line's number in normal form.

    The answer line is the first ``####`` that is followed directly by a number. ``#### Step 1``
    and ``#### 2. Add`` are headings and stay in the solution. The second part is ``""`` if there
    is no such line, or if its number cannot be read.
    """
    found = _final_line(text)
    if found is None:
        return text.strip(), ""
    return text[: found.start()].strip(), _first_number(found[1]) or ""


def extract_answer(text: str) -> str:
    """The final answer of a worked solution in normal form, ``""`` if it has none.

    If ``text`` has a line ``#### x``, the answer is ``x``, and the other lines are ignored. The
    first such line counts, because a model that does not stop writes the next problem's line too
    (lm-evaluation-harness' ``gsm8k`` also takes the first). Otherwise the answer is the number
    in ``\\boxed{…}``; several boxes must agree. Without either, the plain rule applies:

    1. The answer is in the last line with a number (headings after ``####`` are a last resort).
    2. If that line rounds ("= 16.75, which rounds up to 17"): the number it rounds to.
    3. Otherwise, if the line has an ``=``: the first number after the last ``=``.
    4. Otherwise the last number before "because" (the reason repeats the numbers that were
       compared), or the last number of the line if there is none.

    A number is read whole or not at all: if the rule leads to ``3:4``, ``5 or 6`` or ``2x``,
    the answer is ``""``. On GSM8K's 7,473 train solutions without marks and ``####`` it finds
    99.3 % of the answers (``tests/test_answers.py``). The others name the answer earlier, use
    other units, or contradict their own label.
    """
    return read_answer(text) or ""


def read_answer(text: str) -> str | None:
    """As `extract_answer`, but None if there is no number where the answer could be.

    So ``""`` means that there is an answer, but it was not understood.
    """
    if found := _final_line(text):
        return _first_number(found[1])
    if boxes := _boxes(text):
        return boxes[-1] if len(set(boxes)) == 1 else ""
    text = strip_marks(text)
    without_headings = _FINAL_LINE.sub(lambda line: "" if _is_heading(line[1]) else line[1], text)
    for body in dict.fromkeys((without_headings, text)):
        for line in reversed(body.splitlines()):
            if (answer := _number_of_line(line)) is not None:
                return answer
    return None


def normal_answer(text: str) -> str:
    """Return ``text``, an answer on its own, in normal form; ``""`` if it is not one number.

    A currency sign before the number, a percent or currency sign after it, and a final full stop
    are ignored: ``$1,200.`` -> ``1200``, ``50%`` -> ``50``. Units and words are not ignored.
    LaTeX and sums are calculated: ``\\frac{36}{2}`` -> ``18``.
    """
    if boxes := _boxes(text):
        return boxes[0] if len(boxes) == 1 else ""
    line = _LEADING_MINUS.sub("-", without_markup(text)).strip().removesuffix(".").rstrip()
    numbers = next(numbers_in(line), None)
    return numbers.value if numbers and str(numbers) == line else ""


def same_answer(a: str, b: str) -> bool:
    """Whether ``a`` and ``b`` have the same value: 1,200 = 1200 = 1200.0, 1/2 = 0.5, $48. = 48.

    Values are compared exactly, as fractions: 0.333 is not 1/3. ``50%`` is 50 and not 0.5,
    as in GSM8K's own labels: a question that asks "what percentage" is labelled 50. Text that
    is not one number equals nothing, not even itself: two missing answers are not equal.
    """
    one, other = normal_answer(a), normal_answer(b)
    return one != "" and other != "" and Fraction(one) == Fraction(other)


def reference_answer(answer: object) -> str:
    """Return the reference answer, with which others are compared, in normal form.

    It may be a number, a number with a unit (``18 pens``), LaTeX (``\\frac{36}{2}``), or GSM8K's
    ``answer`` column (worked text with ``#### 18``).

    Raises:
        ValueError: there is no answer, or it is not one number. A reference that is read wrongly
            would mark right answers wrong. So nothing is guessed if a text has several numbers
            and no answer line.
    """
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError("no answer to compare with")
    if _final_line(answer) or _boxes(answer):
        value = extract_answer(answer)
    else:
        value = _only_number(answer)
    if not value:
        raise ValueError(f"an answer that cannot be read as one number: {answer!r:.80}")
    return value


def _final_line(text: str) -> re.Match[str] | None:
    """Find the first ``####`` followed by a number; else the first without number or word."""
    if "####" not in text:
        return None
    empty = None
    for found in _FINAL_LINE.finditer(text):
        rest = _without_minus_gap(found[1])
        numbers = next(numbers_in(rest), None)
        if _BOX.match(found[1].lstrip(" $")) or (
            numbers and numbers.start == 0 and not _HEADING.match(rest)
        ):
            return found
        empty = empty or (None if re.search(r"\w", rest) else found)
    return empty


def _is_heading(line: str) -> bool:
    return not re.search(r"=|\b(?:answer|is|are)\b", line, re.IGNORECASE)


def _without_minus_gap(text: str) -> str:
    return _LEADING_MINUS.sub("-", without_markup(text).strip())


def _boxes(text: str) -> list[str]:
    """The values of all ``\\boxed{…}``; ``""`` for one that is no number or is not closed."""
    values, end = [], 0
    while box := _BOX.search(text, end):
        end, depth = box.end(), 1
        while box[1] and depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0) * (text[end - 1] != "\\")
            end += 1
        values.append(box[2] or ("" if depth else _only_number(text[box.end() : end - 1])))
    return values


def _first_number(line: str) -> str | None:
    """The number at the beginning of an answer line; in an equation, the one after ``=``."""
    if boxes := _boxes(line):
        return boxes[0]
    line = _without_minus_gap(line)
    numbers = next(numbers_in(line), None)
    if numbers and line[numbers.end :].lstrip().startswith("="):
        return _number_of_line(line)
    return numbers.value if numbers else None


def _only_number(text: str) -> str:
    """The only number of a text; only a sum before it (``3 + 4 = 7``) may hold others."""
    lines = [without_markup(line) for line in text.splitlines()]
    holding = [line for line in lines if any(numbers_in(line))]
    if len(holding) != 1 or _INEQUALITY.search(holding[0]):
        return ""
    *before, line = _EQUALS.split(holding[0])
    found = list(numbers_in(_without_minus_gap(line)))
    return _one_of(before, found[0].value) if len(found) == 1 else ""


def _one_of(before: list[str], value: str) -> str:
    """``value``, the number after the last ``=``; ``""`` if an unknown has another value."""
    two = _TWO_UNKNOWNS.search("=".join(before[-2:]))
    return "" if two and number_value(two[1]) != value else value


def _number_of_line(line: str) -> str | None:
    """The answer by the plain rule; None if the line holds no number."""
    if not any(map(str.isnumeric, line)):
        return None
    line = without_markup(_BULLET.sub("", line))
    if rounded := _ROUNDED.search(line):
        numbers = next(numbers_in(line[rounded.end() :]), None)
        return numbers.value if numbers else ""
    *before, after = _EQUALS.split(line)
    if before:
        if numbers := next(numbers_in(_without_minus_gap(after)), None):
            return _one_of(before, numbers.value)
        line = before[-1].rpartition(" or ")[2] if _UNKNOWN.fullmatch(after) else "=".join(before)
    for part in (line.split(" because ")[0], line):
        if found := list(numbers_in(part)):
            return found[-1].value
    return None
