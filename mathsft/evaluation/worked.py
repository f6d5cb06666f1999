"""Worked answers: let the model solve problems in writing, and compare the final answer."""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from mathsft.data.answers import extract_answer, same_answer
from mathsft.data.prompts import sft_prompt
from mathsft.models.modes import evaluating
from mathsft.models.sharding import check_not_sharded
from mathsft.processes import processes


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
    batched by length.

    Args:
        max_new_tokens: tokens after which a solution that does not stop is cut.
        batch_size: prompts that are answered at a time.
        prompt: makes the prompt from the question; the default is the format that training uses.

    In several processes (torchrun) call it in each: each solves its share of the problems, and
    all return the whole list.

    Raises:
        ValueError: a problem without a known answer cannot be marked; a model that is sharded
            over several processes.
    """
    for row, problem in enumerate(problems):
        if not problem["answer"]:
            raise ValueError(f"problem {row} has no answer to compare with: {problem['question']}")
    check_not_sharded(model)
    state = processes(model.device.type)
    prompts = [tokenizer(prompt(problem["question"])).input_ids for problem in problems]
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    by_length = by_length[state.process_index :: state.num_processes]
    found: list[tuple[int, dict[str, Any]]] = []
    with evaluating(model):
        for first in tqdm(
            range(0, len(by_length), batch_size),
            desc="worked answers",
            leave=False,
            disable=not state.is_main_process,
        ):
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
                found.append((i, {"text": text, "answer": answer, "correct": right}))
    # Of every process; of one process its own.
    return [result for _, result in sorted(gather_object(found), key=itemgetter(0))]
