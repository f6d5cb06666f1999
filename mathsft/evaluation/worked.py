"""Worked answers: let the model solve problems in writing, and compare the final answer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mathsft.checks import at_least, check_number, check_numbers
from mathsft.data.answers import extract_answer, reference_answer, same_answer
from mathsft.data.columns import PROBLEM_COLUMNS, refuse_half
from mathsft.data.given import check_column, check_rows, check_texts
from mathsft.data.prompts import sft_prompt
from mathsft.generation.generate import generate
from mathsft.generation.server import Server


def worked_answers(
    model: Any,
    tokenizer: Any,
    problems: Sequence[Mapping[str, Any]],
    *,
    max_new_tokens: int = 256,
    batch_size: int = 256,
    prompt: Callable[[str], str | Sequence[int]] = sft_prompt,
    server: Server | None = None,
) -> list[dict[str, Any]]:
    """Solve ``problems`` greedily; give each text, its final answer and whether that is right.

    Returns one ``{"text", "answer", "correct"}`` per problem, in order. `extract_answer` reads
    the final answer from the ``####`` line or, if there is none, from the worked text, so a base
    model that does not know the line is not punished for that.

    Greedy decoding keeps luck out of the comparison. A checkpoint's own generation config, which
    may hold a repetition penalty, is not used; a line says what is ignored. Prompts are padded on
    the left and batched by length. An answer ends at the stop tokens of training
    (`mathsft.models.encoding.stop_tokens`).

    Args:
        max_new_tokens: a solution that has not stopped after this many tokens is cut.
        batch_size: number of prompts that are answered at once (`generate`).
        prompt: makes the prompt from the question, as text or as token ids; the default is the
            format that training uses.
        server: answers instead of the model, which may then be None.

    In several processes (torchrun), call it in each: each solves its share of the problems, and
    all return the whole list.

    Raises:
        ValueError: a problem whose answer is missing, or cannot be read as one number
            (`reference_answer`); a story beside the question in a column that is not read; a
            prompt that leaves the model no room for ``max_new_tokens``; logits that are not
            finite; a model that is sharded over several processes.
    """
    check_number("batch_size", batch_size, at_least(1))
    check_numbers({"max_new_tokens": max_new_tokens})
    check_rows(problems, name="worked_answers")
    problems = list(problems)
    references = _references(problems)
    prompts: list[Any] = [prompt(problem["question"]) for problem in problems]
    groups = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        server=server,
        name="problem",
    )
    results = []
    for (completion,), reference in zip(groups, references, strict=True):
        answer = extract_answer(completion.text)
        right = bool(answer) and same_answer(answer, reference)
        results.append({"text": completion.text, "answer": answer, "correct": right})
    return results


def _references(problems: Sequence[Mapping[str, Any]]) -> list[str]:
    """The problems' answers in normal form, read before anything is generated."""
    references = []
    for row, problem in enumerate(problems):
        check_texts(problem, ["question"], where=f"problem {row}")
        check_column(problem, "answer", where=f"problem {row}")
        refuse_half(problem, where=f"problem {row}", read=PROBLEM_COLUMNS)
        try:
            references.append(reference_answer(problem["answer"]))
        except ValueError as error:
            question = problem["question"]
            raise ValueError(f"problem {row} has {error}; its question: {question}") from None
    return references
