"""One spelling for signs that look the same; signs that change a question stay different."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathsft.data.text import plain_text, reader_text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("don\u2019t \u201csay\u201d \u00abno\u00bb", 'don\'t "say" "no"'),
        ("a \u2013 b \u2014 c \u2212 d \u2011 e", "a - b - c - d - e"),
        ("5\u00a0000 and\u2009six", "5 000 and six"),
        ("a\u200bb\u00adc\ufeffd\u2060e\ufe0ff\u202ag\u034fh", "abcdefgh"),
        ("cafe\u0301", "caf\u00e9"),
        ("\uff11\uff12\uff05", "12%"),
        ("\u0663\u066b\u0665 and \u0967\u0968", "3.5 and 12"),
        ("2\u00bd cups, \u00bd cup, -\u00be", "2 1/2 cups, 1/2 cup, -3/4"),
        ("\u00b9\u2044\u2082 and 5\u00b9\u2044\u2082", "1/2 and 5 1/2"),
        ("x\u00b2 + 10\u207b\u00b3", "x^2 + 10^-3"),
        ("H\u2082O, 5\u2460", "H_2O, 5 1"),
    ],
)
def test_signs_that_look_alike_have_one_spelling(text: str, plain: str) -> None:
    assert plain_text(text) == plain
    assert plain_text(plain) == plain


def test_every_space_dash_and_decimal_digit_of_unicode_is_ascii() -> None:
    for character in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(character) == "Zs":
            assert plain_text(f"a{character}b") == "a b"
        elif unicodedata.category(character) == "Pd":
            assert plain_text(f"a{character}b") == "a-b"
        elif unicodedata.category(character) == "Nd":
            assert plain_text(character) == str(unicodedata.decimal(character))
        elif unicodedata.category(character) == "Cf":
            assert plain_text(f"a{character}b") == "ab"


@given(st.text())
def test_plain_text_is_in_normal_form_and_lines_stay(text: str) -> None:
    plain = plain_text(text)
    assert unicodedata.is_normalized("NFKC", plain)
    assert plain.count("\n") == text.count("\n")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("How MANY  pens?", "how many pens"),
        (r"It costs \$5 & 10\% \#1", "it costs $5 & 10% #1"),
        ("It costs $5 and $6.", "it costs $5 and $6"),
        (r"Find $x + 1$, \(y\) and \[z\]!", "find x + 1, y and z"),
        ("Tom &amp; Ann&#39;s &quot;box&quot; ?", "tom & ann's \"box"),
        ("the end --- or not", "the end - or not"),
        ("A ``TeX'' is `it'", 'a "tex" is \'it'),
        ("3\u00d74\u00f72 = ?", "3x4/2 ="),
        ("\u00bfCu\u00e1ntos?!", "cu\u00e1ntos"),
        ("Stra\u00dfe", "strasse"),
        ("what is 5!?", "what is 5!"),
        ("is it 6\u2032?", "is it 6'"),
        ("?", ""),
    ],
)
def test_what_a_reader_does_not_see_goes(text: str, seen: str) -> None:
    assert reader_text(text) == seen
    assert reader_text(seen) == seen


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3 + 2", "3 - 2"),
        ("1.5", "15"),
        ("-5", "5"),
        ("5--3", "5-3"),
        ("2\u00bd", "21/2"),
        ("x\u00b2", "x2"),
        ("10\u2076", "106"),
        ("5!", "5"),
        ("n!", "n"),
        ("5'", '5"'),
        ("5\u2460", "51"),
        ("50%", "50"),
        ("$5", "\u20ac5"),
        ("3 : 4", "3 . 4"),
        ("a < b", "a > b"),
    ],
)
def test_signs_that_change_a_question_stay(one: str, other: str) -> None:
    assert reader_text(f"what is {one}?") != reader_text(f"what is {other}?")
    assert reader_text(f"{one} is what?") != reader_text(f"{other} is what?")
