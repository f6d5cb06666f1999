"""Worked answers: let the model solve problems in writing, and compare the final answer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from mathsft.data.answers import extract_answer, same_answer
from mathsft.data.prompts import sft_prompt
from mathsft.models.modes import evaluating


@torch.no_grad()
def worked_answers(
    model: Any,
    tokenizer: Any,
    problems: Sequence[Mapping[str, Any]],
    *,
    max_new_tokens: int = 256,
    batch_size: int = 64,
    prompt: Callable[[str], str] = sft_prompt,
) -> list[dict[str, Any]]:
    """Greedy solutions of ``problems``, each with its final answer and whether that is right.

    Returns one ``{"text", "answer", "correct"}`` per problem, in order. The final answer is
    read by `extract_answer`, from the ``####`` line or, where there is none, from the
    worked text: a base model that does not know the line is not punished for that.

    Greedy decoding: no luck in the comparison. Prompts are padded on the left and
    batched by length; ``max_new_tokens`` bounds a solution that does not stop. ``prompt``
    makes the prompt from the question; the default is the format that training uses.

    Raises:
        ValueError: a problem without a known answer cannot be marked.
    """
    for row, problem in enumerate(problems):
        if not problem["answer"]:
            raise ValueError(f"problem {row} has no answer to compare with: {problem['question']}")
    prompts = [tokenizer(prompt(problem["question"])).input_ids for problem in problems]
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    results: list[dict[str, Any]] = [{} for _ in problems]
    with evaluating(model):
        for first in tqdm(range(0, len(prompts), batch_size), desc="worked answers", leave=False):
            rows = by_length[first : first + batch_size]
            batch = tokenizer.pad(
                {"input_ids": [prompts[i] for i in rows]}, padding_side="left", return_tensors="pt"
            ).to(model.device)
            written = model.generate(
                **batch,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id,
            )[:, batch["input_ids"].shape[1] :]
            for i, text in zip(rows, tokenizer.batch_decode(written, True), strict=True):
                answer = extract_answer(text)
                right = bool(answer) and same_answer(answer, problems[i]["answer"])
                results[i] = {"text": text, "answer": answer, "correct": right}
    return results
