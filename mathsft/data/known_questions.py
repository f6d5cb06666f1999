"""Known questions, such as those of a test, found in other texts."""

import re
from collections.abc import Iterable

from mathsft.data.questions import QuestionFinder, question_key

_SIGN = "+-*/^=%:\u00b7"  # next to a number, these signs change it


class KnownQuestions:
    """Finds the known questions that a text asks.

    Args:
        questions: the known ones.
        inside: a text asks a question also if it contains it word for word (a question of at least
            five words). Otherwise only if the two are equal (`question_key`).
    """

    def __init__(self, questions: Iterable[str], *, inside: bool = True) -> None:
        known = list(questions)
        self._keys: dict[str, str] = {}
        for question in known:
            self._keys.setdefault(question_key(question), question)
        self._finder = QuestionFinder(known if inside else ())

    def find(self, text: str) -> list[str]:
        """The known questions that the text asks: the one that it equals, or all inside it."""
        key = question_key(text)
        if key in self._keys:
            return [self._keys[key]]
        return [held for held in self._finder.find_all(text) if _holds(key, question_key(held))]


def _holds(text: str, question: str) -> bool:
    """Whether ``question`` is a part of ``text``: 3 + 2 is not a part of 3 + 2 - 1."""
    spaced, looked = f" {text} ", f" {question} "
    before = tuple(f"{sign} " for sign in _SIGN) if question[:1].isdigit() else ()
    after = re.compile(rf"[{re.escape(_SIGN)}\d]" if question[-1:].isdigit() else "(?!)")
    at = spaced.find(looked)
    while at >= 0:
        end = at + len(looked)
        if not (before and spaced.endswith(before, 0, at + 1)) and not after.match(spaced, end):
            return True
        at = spaced.find(looked, at + 1)
    return False
