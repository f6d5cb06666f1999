"""MathQA's rows, read in two ways.

MathQA (Amini et al. 2019, https://arxiv.org/abs/1905.13319) publishes its choices as one
string, ``a ) 24 , b ) 120 , c ) 625 , d ) 720 , e ) 1024``. The *official* reading goes
through lm-evaluation-harness' own parser, so that our questions are the same as its questions.
That parser garbles about one row in twenty-five; the *clean* reading reads those correctly too.
"""

import ast
import re
from string import ascii_lowercase
from typing import Literal

from mathsft.data.answers import normal_answer

LETTERS = "abcde"
LONGEST_OPTIONS = 4000  # characters; the published options have up to about 200

_SUM = re.compile(r"[!^*+\u00d7\u00f7\u221a]| x ")

Reading = Literal["official", "clean"]


def official_choices(options: str) -> list[str]:
    """The choices of MathQA's ``options`` string, exactly as the harness's ``mathqa`` reads them.

    The harness's parser is imported in the function, because that takes about a second more than
    importing ``datasets``. It does not import torch. It searches the rest of the text from each
    letter, so that the time grows with the square of the length.

    Raises ValueError for options of more than 4,000 characters.
    """
    _check_length(options)
    from lm_eval.tasks.mathqa.utils import doc_to_choice

    return list(doc_to_choice({"options": options}))


def clean_choices(options: str) -> list[str]:
    """The choices of MathQA's ``options`` string, as a person reads them.

    A choice begins after its letter, ``a ) ``, and ends before the next letter of the
    alphabet: commas inside a choice (``1 , 000``) stay, and any number of choices is read. Two
    errors of the published files are corrected: a list written as text
    (``"['a ) 4', 'b ) 5']"``) and a letter written twice (``a ) a ) 4``).

    Returns:
        The choices; [] if ``options`` does not begin with ``a ) ``, or is a broken list.

    Raises:
        ValueError: a choice holds another one's letter, because it has two letters
            (``e ) d ) 36``) or because letters are missing or out of order. Then it is not clear
            which choice the label means. Also for options of more than 4,000 characters.
    """
    text = options.strip()
    if text.startswith("["):
        try:
            text = " , ".join(ast.literal_eval(text))
        except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
            return []
    _check_length(text)
    begin = re.match(r"a \)", text)
    choices: list[str] = []
    for letter, following in zip(ascii_lowercase, [*ascii_lowercase[1:], ""], strict=True):
        if begin is None:
            break
        end = (
            re.compile(rf"(?<!\s)\s*, {following} \)").search(text, begin.end())
            if following
            else None
        )
        choice = text[begin.end() : end.start() if end else None].lstrip().rstrip(" ,")
        choices.append(re.sub(rf"^{letter} \) ?", "", choice))
        begin = end
    letters = ascii_lowercase[: max(len(choices), len(LETTERS))]
    for letter, choice in zip(ascii_lowercase, choices, strict=False):
        if other := re.search(rf"(?:^|[ ,])([{letters}]) \)", choice):
            raise ValueError(f"choice {letter} holds the letter {other[1]}: {choice!r}")
    return choices


def _check_length(options: str) -> None:
    if len(options) > LONGEST_OPTIONS:
        raise ValueError(
            f"options of {len(options):,} characters are not MathQA's, and at most "
            f"{LONGEST_OPTIONS:,} are read: {options!r:.40}"
        )


def repaired(options: str, choices: list[str]) -> str:
    """Say why ``choices``, the clean reading of ``options``, differ from the official one."""
    if options.lstrip().startswith("["):
        return "list written as text"
    if re.search(r"\b([a-z]) \) \1 \)", options):
        return "letter written twice"
    return "comma inside a choice" if any("," in c for c in choices) else "not five choices"


def choice_answer(choice: str) -> str:
    """A choice as a final answer in normal form, ``""`` if it is not one plain number.

    MathQA puts spaces between its tokens: ``1 / 2`` is read as ``1/2``, ``$ 45`` as ``45``,
    ``- 25`` as ``-25`` (also with the longer dashes). The answer is ``""`` for a unit
    (``12 hours``), a ratio (``4 : 5``), a factorial, a sum, and for ``1 , 000``, which may be a
    thousand or a pair: choices are compared as they are written, not calculated.
    """
    if _SUM.search(choice):
        return ""
    choice = re.sub("^[\u2212\u2013]", "-", choice)
    return normal_answer(re.sub(r"(?<=[-$/]) | (?=[/%])", "", choice))
