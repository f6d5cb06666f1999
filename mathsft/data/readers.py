"""The published formats of rows: how each is recognised, and what kind it becomes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mathsft.checks import nearest, unknown_name
from mathsft.data.cells import scalar, turns_of
from mathsft.data.chat import from_alpaca, from_prompt_messages, from_sharegpt
from mathsft.data.choice_schemas import from_choices, from_lettered_options
from mathsft.data.columns import PREFERENCES, holds
from mathsft.data.rows import (
    CHAT,
    GROUP,
    KINDS,
    PREFERENCE,
    PROBLEM,
    PROMPT,
    UNPAIRED,
    RowKind,
)
from mathsft.data.schemas import from_gsm8k, from_instruction, from_mathqa
from mathsft.data.word_problems import from_asdiv, from_svamp


@dataclass(frozen=True)
class Format:
    """One way to write rows of a kind.

    ``columns`` are those that ``reader`` reads, and those that it may ignore (MathQA's linear
    formula, SVAMP's joined text).
    """

    name: str
    kind: RowKind
    reader: Callable[..., Any]
    columns: frozenset[str]

    def read(self, row: Mapping[str, Any], **how: Any) -> dict[str, Any]:
        """Read a row with ``reader``. The arguments are those of `RowKind.read`."""
        return self.kind.read_by(self.reader, row, columns=self.columns, **how)


def _format(name: str, kind: RowKind, reader: Callable[..., Any], columns: str) -> Format:
    return Format(name, kind, reader, frozenset(columns.split()))


def _own(kind: RowKind) -> Format:
    return Format(f"mathsft's {kind.name}", kind, kind.reader, kind.columns)


_TEMPLATE = "source tools chat_template_kwargs"
_problem = partial(_format, kind=PROBLEM)
_chat = partial(_format, kind=CHAT)
_TEXT = _own(PROMPT)
_SPLIT = _chat("TRL", reader=from_prompt_messages, columns=f"{_TEMPLATE} prompt completion")
_INSTRUCTION = _problem(
    "instructions", reader=from_instruction, columns="INSTRUCTION RESPONSE SOURCE"
)
_MATHQA = _problem(
    "MathQA",
    reader=from_mathqa,
    columns="Problem Rationale options correct annotated_formula linear_formula category",
)
_GSM8K = _problem("GSM8K", reader=from_gsm8k, columns="question answer")

# The columns that distinguish the formats, in the order of the checks. Pairs of answers may still
# have the chat that they were made from, and chats may have such columns too: so they come first.
_TELLTALES: tuple[tuple[str, Format], ...] = (
    ("chosen rejected", _own(PREFERENCE)),
    ("completions rewards", _own(GROUP)),
    ("prompt completion label", _own(UNPAIRED)),
    ("messages", _own(CHAT)),
    (
        "conversations",
        _chat("ShareGPT", reader=from_sharegpt, columns=f"{_TEMPLATE} conversations system"),
    ),
    ("completion", _TEXT),
    (
        "instruction output",
        _chat(
            "Alpaca",
            reader=from_alpaca,
            columns=f"{_TEMPLATE} instruction input output system history",
        ),
    ),
    ("INSTRUCTION", _INSTRUCTION),
    ("RESPONSE", _INSTRUCTION),
    ("Problem", _MATHQA),
    (
        "question options",
        _problem(
            "AQuA-RAT",
            reader=from_lettered_options,
            columns="question options rationale correct source",
        ),
    ),
    ("options", _MATHQA),
    (
        "Body Question",
        _problem(
            "SVAMP",
            reader=from_svamp,
            columns="ID Body Question Equation Answer Type question_concat",
        ),
    ),
    (
        "body formula",
        _problem(
            "ASDiv",
            reader=from_asdiv,
            columns="body question solution_type answer formula",
        ),
    ),
    ("solution", _own(PROBLEM)),
    (
        "choices",
        _problem(
            "ARC, MMLU",
            reader=from_choices,
            columns="question choices label answer answerKey source",
        ),
    ),
    ("question", _GSM8K),
    ("answer", _GSM8K),
)
_FORMATS = {fmt.name: fmt for _, fmt in _TELLTALES} | {_SPLIT.name: _SPLIT}
_OWN = sorted({column for kind in KINDS.values() for column in kind.features})
_COLUMNS = sorted({column for fmt in _FORMATS.values() for column in fmt.columns})


def format_of(row: Mapping[str, Any], *, where: str, mixed: bool = False) -> Format:
    """Return the format of a row, recognised by its column names.

    ``mixed`` is for a mixture that was written to a file. Its rows have the columns of several
    kinds, so an empty column does not count, unless all of them are empty.

    Raises:
        ValueError: the columns belong to none of the known formats.
    """
    known = [(names.split(), fmt) for names, fmt in _TELLTALES if _tells(row, names.split())]
    if mixed:
        known = [k for k in known if all(row[column] is not None for column in k[0])] or known
    for _, fmt in known:
        return _SPLIT if fmt is _TEXT and turns_of(row["completion"]) is not None else fmt
    if {"chosen", "rejected"} & row.keys():
        raise ValueError(f"{where}: {PREFERENCES}")
    wanted = ", or ".join(f"{names.replace(' ', ', ')} ({f.name})" for names, f in _TELLTALES)
    names = {near: own for own in row if (near := nearest(own, _OWN)) and own != near}
    hint = f"; did you mean columns={names}?" if names else ""
    raise ValueError(
        f"{where}: columns {', '.join(map(repr, row)) or '(none)'} belong to no known schema; "
        f"expected {wanted}. For columns with other names, pass columns={{…}}{hint}"
    )


def published_by(row: Mapping[str, Any]) -> str:
    """The format in which a row is published; "" if it has none, or has our own columns."""
    try:
        found = format_of(row, where="row")
    except ValueError:
        return ""
    return "" if found.reader is found.kind.reader else found.name


def _tells(row: Mapping[str, Any], columns: list[str]) -> bool:
    """Whether the row has the columns; if there are several, one of them must hold something."""
    there = all(column in row for column in columns)
    return there and (len(columns) == 1 or any(holds(row[column]) for column in columns))


def columns_of(reader: Callable[..., Any]) -> frozenset[str]:
    """The columns that a reader reads."""
    return next(fmt.columns for fmt in _FORMATS.values() if fmt.reader is reader)


def renamed(row: Mapping[str, Any], columns: Mapping[str, str], *, where: str) -> dict[str, Any]:
    """Return the row with the column names of the formats; ``columns`` maps them to its own names.

    Raises ValueError for a name that no format has, for an own name that the row does not have,
    and if the row has a format's name as well.
    """
    for name, own in columns.items():
        if name not in _COLUMNS:
            raise ValueError(f"columns: {unknown_name('name', name, _COLUMNS)}")
        if own not in row:
            raise ValueError(f"{where}: cannot read {name}: {unknown_name('column', own, row)}")
        if name != own and name in row and name not in columns.values():
            raise ValueError(
                f"{where}: the row has both columns {name!r} and {own!r}, but {name} is read "
                f"from {own!r}: remove {name!r}, or say in columns what it is"
            )
    names = {own: name for name, own in columns.items() if own != name}
    made = {column: value for column, value in row.items() if column not in names}
    return made | {name: scalar(name, row[own]) for own, name in names.items()}
