"""MathQA's rows, read in two ways.

MathQA (Amini et al. 2019, https://arxiv.org/abs/1905.13319) publishes its choices as one
string, ``a ) 24 , b ) 120 , c ) 625 , d ) 720 , e ) 1024``. The *official* reading goes
through lm-evaluation-harness' own parser, so that our questions are its questions. That
parser garbles about one row in twenty-five; the *clean* reading reads those as well.
"""

import ast
import re
from string import ascii_lowercase
from typing import Literal

from mathsft.data.answers import normal_answer

LETTERS = "abcde"

_SUM = re.compile(r"[!^*+\u00d7\u00f7\u221a]| x ")

Reading = Literal["official", "clean"]


def official_choices(options: str) -> list[str]:
    """The choices of MathQA's ``options`` string, exactly as the harness's ``mathqa`` reads them.

    Importing the harness's parser takes about a second more than ``datasets`` does, and no
    torch; hence the import in the function.
    """
    from lm_eval.tasks.mathqa.utils import doc_to_choice

    return list(doc_to_choice({"options": options}))


def clean_choices(options: str) -> list[str]:
    """The choices of MathQA's ``options`` string, as a person reads them.

    A choice begins behind its letter, ``a ) ``, and ends before the next letter of the
    alphabet: commas inside a choice (``1 , 000``) stay, and any number of choices is read. Two
    quirks of the published files are undone: a list written as text
    (``"['a ) 4', 'b ) 5']"``) and a letter written twice (``a ) a ) 4``).

    Returns:
        The choices; [] where ``options`` does not begin with ``a ) ``, or is a broken list.

    Raises:
        ValueError: a choice holds another one's letter, because it bears two (``e ) d ) 36``)
            or because letters are missing or out of order: nobody can tell which choice
            the label means.
    """
    text = options.strip()
    if text.startswith("["):
        try:
            text = " , ".join(ast.literal_eval(text))
        except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
            return []
    begin = re.match(r"a \)", text)
    choices: list[str] = []
    for letter, following in zip(ascii_lowercase, [*ascii_lowercase[1:], ""], strict=True):
        if begin is None:
            break
        end = re.compile(rf"\s*, {following} \)").search(text, begin.end()) if following else None
        choice = text[begin.end() : end.start() if end else None].lstrip().rstrip(" ,")
        choices.append(re.sub(rf"^{letter} \) ?", "", choice))
        begin = end
    letters = ascii_lowercase[: max(len(choices), len(LETTERS))]
    for letter, choice in zip(ascii_lowercase, choices, strict=False):
        if other := re.search(rf"(?:^|[ ,])([{letters}]) \)", choice):
            raise ValueError(f"choice {letter} holds the letter {other[1]}: {choice!r}")
    return choices


def repaired(options: str, choices: list[str]) -> str:
    """Why ``choices``, the clean reading of ``options``, differ from the official reading."""
    if options.lstrip().startswith("["):
        return "list written as text"
    if re.search(r"\b([a-z]) \) \1 \)", options):
        return "letter written twice"
    return "comma inside a choice" if any("," in c for c in choices) else "not five choices"


def choice_answer(choice: str) -> str:
    """A choice as a final answer in normal form, ``""`` where it is not one plain number.

    MathQA sets its tokens apart: ``1 / 2`` is read as ``1/2``, ``$ 45`` as ``45``, ``- 25`` as
    ``-25`` (also with the longer dashes). Choices with a unit (``12 hours``), ratios (``4 : 5``),
    factorials, sums, and what may be a thousand or a pair (``1 , 000``) have none: the choices
    are compared as they are written, not worked out.
    """
    if _SUM.search(choice):
        return ""
    choice = re.sub("^[\u2212\u2013]", "-", choice)
    return normal_answer(re.sub(r"(?<=[-$/]) | (?=[/%])", "", choice))
