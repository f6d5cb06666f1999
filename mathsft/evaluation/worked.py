"""Worked answers: let the model solve problems in writing, and compare the final answer."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from peft import PeftModel

from mathsft.checks import at_least, check_number, check_numbers
from mathsft.data.answers import extract_answer, reference_answer, same_answer
from mathsft.data.columns import PROBLEM_COLUMNS, refuse_half
from mathsft.data.given import check_column, check_rows, check_texts
from mathsft.data.prompts import sft_prompt
from mathsft.device import hardware, installed_version
from mathsft.evaluation.guards import fingerprints
from mathsft.evaluation.result import Result
from mathsft.generation.generate import generate
from mathsft.generation.server import Server

_VERSIONS = ("mathsft", "torch", "transformers", "peft")


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


def worked_result(
    answers: Sequence[Mapping[str, Any]],
    problems: Sequence[Mapping[str, Any]],
    *,
    name: str,
    model: Any,
    task: str = "worked_answers",
) -> Result:
    """The answers of `worked_answers` as a `Result`: for `compare`, tables and a model card.

    Args:
        answers: what `worked_answers` returned.
        problems: the problems that were solved, in the same order.
        name: what tables call this run.
        model: the model that answered; its weights and its adapter are hashed.
        task: what tables call the questions.

    Two results can be compared if they are of the same problems: a question's id is a hash of its
    text and its answer. There are no log-likelihoods, so `compare` cannot find out that one model
    answered twice.

    Raises ValueError if there are not as many answers as problems.
    """
    problems = list(problems)
    if len(answers) != len(problems):
        raise ValueError(f"{len(answers):,} answers to {len(problems):,} problems: give all")
    questions = [
        {
            "id": sha256(f"{problem['question']}\0{problem['answer']}".encode()).hexdigest(),
            "question": problem["question"], "choices": [], "label": -1, "category": "",
            "loglikelihoods": [], "metrics": {"acc": float(answer["correct"])},
        }
        for answer, problem in zip(answers, problems, strict=True)
    ]  # fmt: skip
    weights, adapter_hash = fingerprints(model)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return Result(
        name=name, task=task, model=str(base.name_or_path),
        adapter="adapter" if adapter_hash else "", weights=weights, adapter_hash=adapter_hash,
        dtype=str(model.dtype).removeprefix("torch."),
        quantized=bool(getattr(model, "is_quantized", False)), num_fewshot=0, seed=0,
        date=datetime.now(UTC).isoformat(timespec="seconds"), minutes=math.nan,
        peak_memory_gb=math.nan, hardware=hardware(), harness={},
        versions={package: installed_version(package) for package in _VERSIONS},
        questions=questions,
    )  # fmt: skip
