"""MathQA's rows as the evaluation harness reads them.

MathQA (Amini et al. 2019, https://arxiv.org/abs/1905.13319) publishes its choices as one
string, ``a ) 24 , b ) 120 , c ) 625 , d ) 720 , e ) 1024``. The ``official`` reading goes
through lm-evaluation-harness' own parser, so that our questions are its questions.
"""

import re

from mathsft.data.answers import normal_answer

LETTERS = "abcde"


def official_choices(options: str) -> list[str]:
    """The choices of MathQA's ``options`` string, exactly as the harness's ``mathqa`` reads them.

    Importing the harness's parser takes about a second more than ``datasets`` does, and no
    torch; hence the import in the function.
    """
    from lm_eval.tasks.mathqa.utils import doc_to_choice

    return list(doc_to_choice({"options": options}))


def official_label(correct: str, choices: list[str]) -> int:
    """The index of the right choice, -1 where ``correct`` is no letter of one of ``choices``.

    The harness counts ``a`` to ``e`` in the order of the choices it read.
    """
    letter = correct.strip()
    label = LETTERS.find(letter) if len(letter) == 1 else -1
    return label if label < len(choices) else -1


def choice_answer(choice: str) -> str:
    """A choice as a final answer in normal form, ``""`` where it is not one plain number.

    MathQA sets its tokens apart: ``1 / 2`` is read as ``1/2``, ``$ 45`` as ``45``, ``- 25`` as
    ``-25``. Choices with a unit (``12 hours``) and ratios (``4 : 5``) have none.
    """
    return normal_answer(re.sub(r"(?<=[-$/]) | (?=[/%])", "", choice))
