"""Questions with choices, in the formats of the field's benchmarks.

| written as | choices | which one is right |
|---|---|---|
| ARC | ``choices``: ``{text: […], label: ["A", …]}`` | ``answerKey``, one of those labels |
| MMLU | ``choices``: list of text | ``answer``, an index |
| plain | ``choices``: list of text | ``label``, an index; a text ``answer`` may stand beside it |
| AQuA-RAT | ``options``: ``["A)21", "B)21.5", …]`` | ``correct``, a letter |

ARC: Clark et al. 2018, https://arxiv.org/abs/1803.05457; MMLU: Hendrycks et al. 2021,
https://arxiv.org/abs/2009.03300; AQuA-RAT: Ling et al. 2017, https://arxiv.org/abs/1705.04146.
"""

import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from mathsft.data.cells import parsed
from mathsft.data.mathqa import choice_answer
from mathsft.data.schemas import Problem, UnusableRowError, source_of, text_of

# The columns that may say which choice is right, in the order in which they are checked.
_KEYS = ("label", "answerKey", "answer")
_LETTERS = list(ascii_uppercase)


def from_choices(row: Mapping[str, Any], *, where: str, source: str) -> Problem:
    """ARC, MMLU, and plain ``question, choices, label``.

    An index counts from 0; -1 or an empty cell means that the right choice is not known. Instead
    of an index, a cell may hold text: a letter, the digits of an index, or the right choice itself.

    Raises ValueError if a text is the index or letter of one choice and the text of another.
    """
    question = text_of(row, "question", where=where)
    given = parsed(row["choices"])
    letters = _LETTERS
    if isinstance(given, Mapping) and {"text", "label"} <= given.keys():
        letters = _texts(given["label"], "choices.label", where=where)
        given = given["text"]
    choices = _texts(given, "choices", where=where)
    key = next((name for name in _KEYS if row.get(name) is not None), None)
    if key is None and not set(_KEYS) & row.keys():
        raise ValueError(
            f"{where}: no column says which choice is right. Add one of: {', '.join(_KEYS)}"
        )
    told = f"{where}, column {key!r}"
    label = -1 if key is None else _right(row[key], choices, letters, where=told)
    answer = ""
    if key != "answer" and row.get("answer") is not None:
        answer = text_of(row, "answer", where=where, empty_ok=True)
    return _problem(question, "", choices, label, answer=answer, source=source_of(row, source))


def from_lettered_options(row: Mapping[str, Any], *, where: str, source: str) -> Problem:
    """AQuA-RAT: the options with their letters, and the rationale as the solution."""
    question = text_of(row, "question", where=where)
    options = _texts(parsed(row["options"]), "options", where=where)
    solution = ""
    if "rationale" in row:
        solution = text_of(row, "rationale", where=where, empty_ok=True)
    choices = []
    for letter, option in zip(ascii_uppercase, options, strict=False):
        found = re.match(rf"\s*\(?{letter}\s*\)\s*", option, re.IGNORECASE)
        if not found:
            raise UnusableRowError("options not in the form 'A)…', 'B)…'")
        choices.append(option[found.end() :].strip())
    text_of(row, "correct", where=where)
    label = _index(row["correct"], _LETTERS, where=f"{where}, column 'correct'")
    return _problem(question, solution, choices, label, answer="", source=source_of(row, source))


def _texts(given: Any, name: str, *, where: str) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise ValueError(
            f"{where}, column {name!r}: expected a list of texts, found {given!r:.60}"
            + " (NumPy's form has no commas: write JSON)" * str(given).startswith("['")
        )
    return given


def _right(value: Any, choices: list[str], letters: list[str], *, where: str) -> int:
    """Return the index of the right choice; `from_choices` says how a cell can name it."""
    if letters is not _LETTERS and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # ARC's choices may be labelled 1, 2, 3, 4
    same = [place for place, text in enumerate(choices) if text.strip() == str(value).strip()]
    if not isinstance(value, str) or letters is not _LETTERS or len(same) != 1:
        return _index(value, letters, where=where)
    try:
        named = _index(value, letters, where=where)
    except UnusableRowError:
        return same[0]
    if named != same[0] and named in range(len(choices)):
        raise ValueError(
            f"{where}: {value!r} may be choice {named}, counted from 0, which is "
            f"{choices[named]!r:.40}, or the text of choice {same[0]}. Give the index as a number "
            "in the column 'label'"
        )
    return same[0]


def _index(value: Any, letters: list[str], *, where: str) -> int:
    """Return the index that a cell gives as a number or a letter; -1 if the cell is empty."""
    if isinstance(value, str):
        text = value.strip()
        if text in letters or text.upper() in letters:
            return letters.index(text if text in letters else text.upper())
        if re.fullmatch(r"-?\d{1,9}", text) and letters is _LETTERS:
            return int(text)
        if not text:
            return -1
        raise UnusableRowError("label is none of the choices' letters")
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(
            f"{where}: expected an index or a letter, found {type(value).__name__} ({value!r:.40})"
        )
    return value


def _problem(
    question: str,
    solution: str,
    choices: list[str],
    label: int,
    *,
    answer: str,
    source: str,
) -> Problem:
    if not -1 <= label < len(choices):
        raise UnusableRowError("label beyond the choices")
    if not answer and label >= 0:
        answer = choice_answer(choices[label])
    return Problem(
        question=question,
        solution=solution,
        answer=answer,
        choices=choices,
        label=label,
        source=source,
    )
