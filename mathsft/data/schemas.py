"""The published schemas, each converted to the kit's one schema.

A faulty row has one of two causes: the row or its file. A row that is well formed but unusable
(an empty question) raises ``UnusableRowError`` and is counted. A row without a column, or with
another type than the schema says, shows that the file is not in that schema; this is an error.
"""

from collections import Counter
from collections.abc import Mapping
from string import ascii_lowercase
from typing import Any, TypedDict

from mathsft.data.answers import read_answer, split_final_line, strip_marks
from mathsft.data.cells import parsed
from mathsft.data.formulas import DISAGREES, formula_verdict
from mathsft.data.mathqa import (
    LETTERS,
    LONGEST_OPTIONS,
    Reading,
    choice_answer,
    clean_choices,
    official_choices,
    repaired,
)


class Problem(TypedDict):
    """One row of the kit's one schema; see ``mathsft.data.problems``."""

    question: str
    solution: str
    answer: str
    choices: list[str]
    label: int
    source: str


class UnusableRowError(Exception):
    """This row cannot be used; the message is the reason under which it is counted."""


def text_of(row: Mapping[str, Any], column: str, *, where: str, empty_ok: bool = False) -> str:
    """Return the text in ``column`` of ``row``, stripped; ``where`` names the row in errors.

    Raises:
        ValueError: the row has no such column, or the column does not hold text.
        UnusableRowError: the text is empty or null, unless ``empty_ok``.
    """
    if column not in row:
        raise ValueError(
            f"{where}: column {column!r} is missing; the row has {', '.join(map(repr, row))}"
        )
    value = "" if row[column] is None else row[column]
    if not isinstance(value, str):
        raise ValueError(
            f"{where}, column {column!r}: expected text, "
            f"found {type(value).__name__} ({value!r:.40})"
        )
    if not value.strip() and not empty_ok:
        raise UnusableRowError(f"empty {column}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of an emoji: "\\ud83d"
        raise ValueError(
            f"{where}, column {column!r}: half a character at position {error.start}, which "
            "is not valid text; was the text cut in the middle of an emoji?"
        ) from error
    return value.strip()


def source_of(row: Mapping[str, Any], source: str) -> str:
    """The row's own ``source`` if it has one, else that of the data set."""
    own = row.get("source")
    return own.strip() or source if isinstance(own, str) else source


def from_gsm8k(row: dict[str, Any], *, where: str, source: str) -> Problem:
    """GSM8K: ``answer`` is the worked solution with calculator marks, then ``#### N``."""
    question = text_of(row, "question", where=where)
    worked = strip_marks(text_of(row, "answer", where=where))
    return _worked(question, worked, source)


def from_instruction(row: dict[str, Any], *, where: str, source: str) -> Problem:
    """INSTRUCTION/RESPONSE; the chat is still around the question (``mathsft.data.questions``)."""
    question = text_of(row, "INSTRUCTION", where=where)
    return _worked(question, text_of(row, "RESPONSE", where=where), source)


def _worked(question: str, worked: str, source: str) -> Problem:
    solution, _ = split_final_line(worked)
    answer = read_answer(worked)
    if not solution:
        raise UnusableRowError("empty solution")
    if answer is None:
        raise UnusableRowError("no final answer in the solution")
    if not answer:
        raise UnusableRowError("a final answer that cannot be read as one number")
    return Problem(
        question=question, solution=solution, answer=answer, choices=[], label=-1, source=source
    )


def from_mathqa(
    row: dict[str, Any],
    *,
    where: str,
    source: str,
    reading: Reading = "official",
    drop_disputed: bool = False,
    notes: Counter[str] | None = None,
) -> Problem:
    """MathQA's published schema; ``reading`` says how its options are read.

    ``solution`` is the rationale as published (it may name another letter than ``correct``;
    MathQA is noisy). ``answer`` is the number in the right choice, or "" if it is not one plain
    number. The clean reading counts in ``notes`` what it repaired and whether the formula agrees
    with the label. With ``drop_disputed`` it leaves out rows in which the two disagree.
    """
    question = text_of(row, "Problem", where=where)
    solution = text_of(row, "Rationale", where=where, empty_ok=True)
    text_of(row, "options", where=where)
    options = row["options"]  # unstripped: the harness reads every character
    notes = Counter() if notes is None else notes
    if len(options) > LONGEST_OPTIONS:
        raise UnusableRowError(f"options longer than {LONGEST_OPTIONS:,} characters")
    choices = official_choices(options) if reading == "official" else _clean(options)
    letters = ascii_lowercase if reading == "clean" else LETTERS
    letter = text_of(row, "correct", where=where)
    if len(choices) < 2:
        raise UnusableRowError("options not in the form 'a ) … , b ) …'")
    if letter not in set(letters):
        raise UnusableRowError(f"label is not one of the letters a to {letters[-1]}")
    label = letters.index(letter)
    if label >= len(choices):
        raise UnusableRowError("label beyond the choices")
    if reading == "clean":
        _check(row, choices, label, drop_disputed=drop_disputed, notes=notes, where=where)
    return Problem(
        question=question,
        solution=solution,
        answer=choice_answer(choices[label]),
        choices=choices,
        label=label,
        source=source,
    )


def _clean(options: str) -> list[str]:
    try:
        choices = clean_choices(options)
    except ValueError as error:
        raise UnusableRowError("a choice holds another one's letter") from error
    if not all(choices):
        raise UnusableRowError("an empty choice")
    return choices


def _check(
    row: dict[str, Any],
    choices: list[str],
    label: int,
    *,
    drop_disputed: bool,
    notes: Counter[str],
    where: str,
) -> None:
    """Note what the clean reading finds in a row, or raise why the row cannot be used."""
    values = [choice_answer(choice) or choice for choice in choices]
    if values.count(values[label]) > 1:
        raise UnusableRowError("the right choice appears twice")
    formula = ""
    if "annotated_formula" in row:  # AQuA's rows, in the same schema, have none
        formula = text_of(row, "annotated_formula", where=where, empty_ok=True)
    said = formula_verdict(formula, choices[label])
    if drop_disputed and said == DISAGREES:
        raise UnusableRowError("formula and label disagree")
    if choices != official_choices(row["options"]):
        notes[f"repaired ({repaired(row['options'], choices)})"] += 1
    if len(set(values)) < len(values):
        notes["two wrong choices equal"] += 1
    if len(choices) != len(LETTERS):
        notes[f"{len(choices)} choices"] += 1
    notes[said] += 1


def from_own(row: dict[str, Any], *, where: str, source: str) -> Problem:
    """The kit's own six columns, as ``Dataset.to_json`` or ``to_parquet`` wrote them."""
    for column in ("choices", "label"):
        if column not in row:
            raise ValueError(
                f"{where}: column {column!r} is missing; the row has {', '.join(map(repr, row))} "
                "and is read in mathsft's own schema, since it has 'solution'. If the rows have "
                "only a question and a worked answer, name the columns question, answer"
            )
    row = {**row, "choices": parsed(row["choices"])}
    for column, kind in (("choices", list), ("label", int)):
        if not isinstance(row[column], kind) or isinstance(row[column], bool):
            raise ValueError(
                f"{where}, column {column!r}: expected {kind.__name__}, "
                f"found {type(row[column]).__name__} ({row[column]!r:.40})"
            )
    choices, label = row["choices"], row["label"]
    if not all(isinstance(choice, str) for choice in choices):
        raise ValueError(
            f"{where}, column 'choices': expected a list of texts, found {choices!r:.60}"
        )
    problem = Problem(
        question=text_of(row, "question", where=where),
        solution=text_of(row, "solution", where=where, empty_ok=True),
        answer=text_of(row, "answer", where=where, empty_ok=True),
        choices=choices,
        label=label,
        source=source_of(row, source),
    )
    if not -1 <= label < len(choices):
        raise UnusableRowError("label beyond the choices")
    return problem
