"""Which schema a row is in, told by its columns."""

from collections.abc import Callable
from typing import Any

from mathsft.data.chat import from_chat, from_prompt_messages, from_prompt_text
from mathsft.data.schemas import from_gsm8k, from_instruction, from_mathqa, from_own

Reader = Callable[..., Any]

# The first column that tells one schema from the others, in the order they are asked. Chat data
# often keeps the columns that it was made of, so ``messages`` comes first.
_TELLTALES: dict[str, Reader] = {
    "messages": from_chat,
    "completion": from_prompt_text,
    "INSTRUCTION": from_instruction,
    "RESPONSE": from_instruction,
    "Problem": from_mathqa,
    "options": from_mathqa,
    "solution": from_own,
    "choices": from_own,
    "question": from_gsm8k,
    "answer": from_gsm8k,
}


def reader_for(row: dict[str, Any], *, where: str, mixed: bool = False) -> Reader:
    """The function that reads rows of this row's schema, told by its column names.

    ``mixed`` is for a mixture that was written to a file, which has the columns of several kinds:
    there one that holds nothing says nothing, unless all do.

    Raises:
        ValueError: the columns belong to none of the known schemas.
    """
    known = [column for column in _TELLTALES if column in row]
    if mixed:
        known = [column for column in known if row[column] is not None] or known
    for column in known:
        reader = _TELLTALES[column]
        lists = reader is from_prompt_text and isinstance(row["completion"], list)
        return from_prompt_messages if lists else reader
    raise ValueError(
        f"{where}: columns {', '.join(map(repr, row)) or '(none)'} belong to no known schema; "
        "wanted question, answer (GSM8K), or INSTRUCTION, RESPONSE, or Problem, Rationale, "
        "options, correct (MathQA), or question, solution, answer, choices, label, source "
        "(mathsft), or messages (a chat), or prompt, completion"
    )
