"""When two questions are the same, and when they are but for their numbers."""

import re

from mathsft.data.plain_text import reader_text
from mathsft.data.wrapping import comparable

_NUMBER = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(rf"{_NUMBER}|[^\W\d_]+|[^\w\s]|_")


def question_key(question: str) -> str:
    """``question`` without what does not change it for a reader: spelling of signs, case, spacing.

    See ``mathsft.data.plain_text``. ``Rs. 1,200`` and ``rs . 1 , 200`` are one; ``3 + 2`` and
    ``3 - 2``, or ``1.5`` and ``15``, are not.
    """
    return " ".join(_TOKEN.findall(comparable(question)))


def template(question: str) -> str:
    """``question`` in words with every number masked: ``3 pens at Rs. 40`` → ``# pens at rs . #``.

    A comma set apart stays: ``1 , 200 and 300`` is taken for a list, as most are.
    """
    tokens = _TOKEN.findall(reader_text(question))
    return " ".join("#" if token[-1].isdecimal() else token for token in tokens)
