"""Which schema a row is in, told by its columns, and what becomes of the columns beside them."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from mathsft.data.chat import (
    CHAT_COLUMNS,
    CHAT_FEATURES,
    PROMPT_FEATURES,
    from_chat,
    from_prompt_messages,
    from_prompt_text,
)
from mathsft.data.columns import (
    PREFERENCES,
    PROBLEM_COLUMNS,
    holds,
    refuse_half,
    refuse_untrained,
    unread,
)
from mathsft.data.schemas import from_gsm8k, from_instruction, from_mathqa, from_own
from mathsft.data.word_problems import from_asdiv, from_svamp

Reader = Callable[..., Any]

# The columns that tell one schema from the others, in the order they are asked. Chat data often
# keeps the columns that it was made of, so ``messages`` comes first.
_TELLTALES: dict[tuple[str, ...], Reader] = {
    ("messages",): from_chat,
    ("completion",): from_prompt_text,
    ("INSTRUCTION",): from_instruction,
    ("RESPONSE",): from_instruction,
    ("Problem",): from_mathqa,
    ("options",): from_mathqa,
    ("Body", "Question"): from_svamp,
    ("body", "formula"): from_asdiv,
    ("solution",): from_own,
    ("choices",): from_own,
    ("question",): from_gsm8k,
    ("answer",): from_gsm8k,
}
# What each reader reads, or is known to leave to others: MathQA's formulas, SVAMP's joined text.
_CHAT = frozenset([*CHAT_FEATURES, *CHAT_COLUMNS])
_COLUMNS: dict[Reader, frozenset[str]] = {
    from_chat: _CHAT,
    from_prompt_messages: _CHAT - {"messages", "trained_from"} | {"prompt", "completion"},
    from_prompt_text: frozenset(PROMPT_FEATURES),
    from_instruction: frozenset({"INSTRUCTION", "RESPONSE", "SOURCE"}),
    from_mathqa: frozenset(
        {
            "Problem",
            "Rationale",
            "options",
            "correct",
            "annotated_formula",
            "linear_formula",
            "category",
        }
    ),
    from_svamp: frozenset(
        {"ID", "Body", "Question", "Equation", "Answer", "Type", "question_concat"}
    ),
    from_asdiv: frozenset({"body", "question", "solution_type", "answer", "formula"}),
    from_own: PROBLEM_COLUMNS,
    from_gsm8k: frozenset({"question", "answer"}),
}


def reader_for(row: dict[str, Any], *, where: str, mixed: bool = False) -> Reader:
    """The function that reads rows of this row's schema, told by its column names.

    ``mixed`` is for a mixture that was written to a file, which has the columns of several kinds:
    there one that holds nothing says nothing, unless all do.

    Raises:
        ValueError: the columns belong to none of the known schemas.
    """
    known = [columns for columns in _TELLTALES if _tells(row, columns)]
    if mixed:
        known = [c for c in known if all(row[column] is not None for column in c)] or known
    for columns in known:
        reader = _TELLTALES[columns]
        lists = reader is from_prompt_text and isinstance(row["completion"], list)
        return from_prompt_messages if lists else reader
    if {"chosen", "rejected"} & row.keys():
        raise ValueError(f"{where}: {PREFERENCES}")
    raise ValueError(
        f"{where}: columns {', '.join(map(repr, row)) or '(none)'} belong to no known schema; "
        "wanted question, answer (GSM8K), or INSTRUCTION, RESPONSE, or Problem, Rationale, "
        "options, correct (MathQA), or body, question, answer, formula (ASDiv), or Body, Question, "
        "Equation, Answer (SVAMP), or question, solution, answer, choices, label, source "
        "(mathsft), or messages (a chat), or prompt, completion"
    )


def _tells(row: dict[str, Any], columns: tuple[str, ...]) -> bool:
    """Whether the row has the columns; if they are several, one of them has to hold something."""
    there = all(column in row for column in columns)
    return there and (len(columns) == 1 or any(holds(row[column]) for column in columns))


def read_row(
    row: dict[str, Any], reader: Reader, *, where: str, source: str, counted: Counter[str]
) -> Any:
    """What ``reader`` makes of a row; ``counted`` gets what the row holds besides, by name.

    Raises:
        UnusableRowError: the row cannot be used, or says not to train it.
        ValueError: it is not in the reader's schema, or a column that is not read may change what
            the row means (`mathsft.data.columns`).
    """
    read = columns_of(reader)
    refuse_half(row, where=where, read=read)
    found = {f"column {name!r}" for name in unread(row, where=where, read=read)}
    refuse_untrained(row, where=where, read=read)
    if reader in (from_chat, from_prompt_messages):
        reader = partial(reader, counted=found)
    made = reader(row, where=where, source=source)
    counted.update(found)
    return made


def columns_of(reader: Reader) -> frozenset[str]:
    """The columns that a reader of `reader_for` reads, also with some arguments given."""
    return _COLUMNS[getattr(reader, "func", reader)]
