"""The time that a text takes grows with its length, not with its square: every reader of texts."""

import contextlib
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from mathsft.data import (
    answers,
    cells,
    contamination,
    distractors,
    markup,
    mathqa,
    numerals,
    pairs,
    questions,
    text,
)
from mathsft.data.choice_schemas import from_lettered_options
from mathsft.data.choices import make_choices
from mathsft.data.formulas import formula_verdict
from mathsft.data.schemas import UnusableRowError, from_gsm8k, from_mathqa
from mathsft.data.word_problems import from_asdiv, worked_equation
from mathsft.generation import claims
from mathsft.generation.rewards import FinalAnswer

ROW = {"where": "row 1", "source": "a"}
MATHQA = {
    "Problem": "p",
    "Rationale": "r",
    "correct": "a",
    "options": "a ) 1 , b ) 2 , c ) 3 , d ) 4 , e ) 5",
}
ASDIV = {"body": "b", "question": "q", "formula": "7+2=9"}
READERS: dict[str, Callable[[str], Any]] = {
    "plain_text": text.plain_text,
    "reader_text": text.reader_text,
    "without_markup": markup.without_markup,
    "numbers_in": lambda given: [found.value for found in numerals.numbers_in(given)],
    "number_value": numerals.number_value,
    "extract_answer": answers.extract_answer,
    "normal_answer": answers.normal_answer,
    "reference_answer": answers.reference_answer,
    "official options": lambda given: from_mathqa({**MATHQA, "options": given}, **ROW),
    "clean options": mathqa.clean_choices,
    "formula": lambda given: formula_verdict(given, given),
    "equation": lambda given: worked_equation(given, "4"),
    "ASDiv": lambda given: from_asdiv({**ASDIV, "answer": given}, **ROW),
    "GSM8K": lambda given: from_gsm8k({"question": given, "answer": given}, **ROW),
    "AQuA": lambda given: from_lettered_options(
        {"question": "q", "options": [f"A){given}", given], "correct": "A"}, **ROW
    ),
    "slips": lambda given: distractors.slips(distractors.read_steps(given), Fraction(4)),
    "make_choices": lambda given: make_choices("q", given, "4"),
    "choices of an answer": lambda given: make_choices("q", "", given),
    "question_key": questions.question_key,
    "question_template": questions.question_template,
    "strip_chat": questions.strip_chat,
    "find": lambda given: questions.QuestionFinder([given]).find(given),
    "overlap": lambda given: contamination.overlap([{"question": given}], [{"question": given}]),
    "rows_asking": lambda given: contamination.rows_asking(
        [{"messages": [{"role": "user", "content": given}]}], [given[:100]], name="rows"
    ),
    "answer_key": pairs.answer_key,
    "cell": cells.parsed,
    "turns": cells.turns_of,
    "scalar": lambda given: cells.scalar("label", given),
    "claimed_answer": claims.claimed_answer,
    "format think": lambda given: claims.has_format(given, "think"),
    "format boxed": lambda given: claims.has_format(given, "boxed"),
    "format hashes": lambda given: claims.has_format(given, "hashes"),
    "takes_long": claims.takes_long,
    "final_answer": lambda given: FinalAnswer()([f"#### {given}", given], answer=["4", "4"]),
}
# A text is begin + n times repeated + end.
TEXTS = [
    ("", " ", ""), ("= a", " ", "b"), ("<", " ", "x"), ("^", " ", "x"), ("9 (", " ", "x"),
    ("5", " ", "x"), ("", "\u00b2", "x"), ("", "\u2075\u2082", ""), ("", "\u00bd", ""),
    ("a", "\u0301\u0323", ""), ("", "\\", "x"), ("", "\\\\[", ""), ("", "a ) ", ""),
    ("", "a ) 1 , b ) ", ""), ("", "9", ""), ("x", "9", "e9"), ("", "1,", ""), ("", "1.5 + ", ""),
    ("1", ")", ""), ("", "(", "1"), ("", "1 or ", ""), ("", "<<1", ""), ("", "<answer>", ""),
    ("", "</think> <answer>", ""), ("", "\\boxed{", ""), ("", "#### 1\n", ""), ("", "####", ""),
    ("", "1+3=4\n", ""), ("", "4*1=4 ", ""), ("1", "*1", "=1 = 4"), ("", "I help you. ", "What?"),
    ("What?", " Thanks for any help.", ""), ("a", "?!", ""), ("", "a , ", "b"), ("", "3 + ", "3"),
    ("", "[", ""), ("", "[1,", ""), ("", "{\"a\":", ""), ("add(", "add(", ""), ("", "(1)", ""),
    ("", "$", "5"), ("", "&amp;", ""), ("", "\u200b", "1"), ("", "--", "1"), ("x = 1", ", 1", ""),
]  # fmt: skip
N = 2500  # characters, and four times as many; fewer where that is slow enough to measure
QUICK = 0.03  # seconds; in less, a growth cannot be told from chance


def seconds(read: Callable[[str], Any], given: str) -> float:
    begin = time.process_time()
    with contextlib.suppress(ValueError, UnusableRowError):
        read(given)
    return time.process_time() - begin


@pytest.mark.parametrize("name", READERS)
def test_four_times_the_text_takes_about_four_times_as_long(name: str) -> None:
    read = READERS[name]
    seconds(read, "1 + 3 = 4")  # imports
    for begin, repeated, end in TEXTS:
        for n in (N // 5, N):
            short, long = (begin + repeated * (size // len(repeated)) + end for size in (n, 4 * n))
            once = seconds(read, long)
            if once >= QUICK:
                break
        else:
            continue
        growth = once / max(seconds(read, short), QUICK / 16)
        if growth > 5:  # once may be chance
            growth = min(once, *(seconds(read, long) for _ in range(2))) / max(
                min(seconds(read, short) for _ in range(3)), QUICK / 16
            )
        assert growth < 9, (name, begin, repeated, end)


@pytest.mark.parametrize("begin", ["", "x"])
def test_a_text_of_many_marks_keeps_its_signs(begin: str) -> None:
    """A sign with two marks stays as it is; one with thousands keeps some of them."""
    assert text.plain_text(begin + "e\u0301") == begin + "\u00e9"
    assert text.plain_text(begin + "e" + "\u0301" * 5000).startswith(begin + "\u00e9")
    assert len(text.plain_text(begin + "e" + "\u0301" * 5000)) < 40
