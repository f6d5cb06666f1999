"""Groups of judged answers for policy gradients, from real problems, in turns of three kinds.

- `question`: one group; an instruction and a question, about 150 tokens;
- `few_shot`: one group; worked examples before the question, 600 tokens in all;
- `silent`: four groups as in `question`; in two of them all answers have the same reward.

Answers are solutions of other problems, of 50 to 150 tokens, as GSM8K's mostly are: several short
ones are joined, and what is too long is cut. Each ends with the stop token. Of a group with signal
every second answer is rewarded.
"""

import random
from collections.abc import Iterator
from typing import Any

import torch
from preference_pairs import worked

from mathsft.data.prompts import sft_prompt
from mathsft.generation.rollouts import Completion
from mathsft.models.logprobs import sequence_logprobs
from mathsft.training.attempts import Attempts
from mathsft.training.batches import Collator

KINDS = ("question", "few_shot", "silent")
MAX_LENGTH = dict.fromkeys(KINDS, 2048)  # so that a group, which is a batch, is one row
FEW_SHOT_TOKENS = 600
INSTRUCTION = (
    "Solve the following problem. Write down every step of the calculation on a line of its own, "
    "and give the unit of each number. Do not skip a step, even if it is easy. Check the result "
    "before you finish. The last line must be #### and the final answer, a number without a unit "
    "and without any other text.\n\n"
)


def prompt_of(kind: str, problems: Iterator[Any], tokenizer: Any) -> list[int]:
    question = sft_prompt(next(problems)["question"])
    if kind != "few_shot":
        return list(tokenizer(INSTRUCTION + question)["input_ids"])
    prompt = before = question
    while len(tokenizer(before)["input_ids"]) <= FEW_SHOT_TOKENS:
        prompt, example = before, next(problems)
        before = f"{sft_prompt(example['question'])}{worked(example)}\n\n{prompt}"
    return list(tokenizer(prompt)["input_ids"])


def answer_of(problems: Iterator[Any], tokenizer: Any, tokens: int) -> Completion:
    """An answer of so many tokens, without log-probabilities."""
    text = worked(next(problems))
    while len(ids := tokenizer(text)["input_ids"]) < tokens:
        text += f"\n{worked(next(problems))}"
    ids = [*ids[: tokens - 1], tokenizer.eos_token_id]
    return Completion(ids, text=tokenizer.decode(ids[:-1]), ended=True, logprobs=[])


def turns_of(
    kind: str, problems: Any, tokenizer: Any, *, count: int, size: int
) -> list[list[Attempts]]:
    """``count`` turns of groups of ``size`` answers."""
    waiting, draw = iter(problems), random.Random(0)
    turns: list[list[Attempts]] = []
    for _ in range(count):
        turns.append([])
        for number in range(4 if kind == "silent" else 1):
            prompt = prompt_of(kind, waiting, tokenizer)
            lengths = [draw.randint(50, 150) for _ in range(size)]
            answers = [answer_of(waiting, tokenizer, length) for length in lengths]
            signal = [float(place % 2) for place in range(size)]
            rewards = [signal, [0.0] * size, signal, [1.0] * size][number]
            turns[-1].append(Attempts(number, prompt, answers, rewards))
    return turns


def with_old(rows: list[dict[str, Any]], model: Any, collate: Collator) -> list[dict[str, Any]]:
    """The rows with log-probabilities of a model that is a little different from this one.

    The noise of 0.1 nats a token makes ratios differ from 1, and clips a few.
    """
    generator = torch.Generator().manual_seed(0)
    made = []
    for row in rows:
        with torch.no_grad():
            logprobs = sequence_logprobs(model, collate.tensors([row]))
        near = [one + 0.1 * torch.randn(len(one), generator=generator)
                for one in logprobs.by_sequence()]  # fmt: skip
        made.append({**row, "old": [one.tolist() for one in near]})
    return made
