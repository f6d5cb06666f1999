"""Pairs for DPO from real problems, of three kinds.

- `plain`: a question and worked answers;
- `long_prompt`: worked examples before the question, about 400 tokens in all; short answers;
- `group`: one prompt, four better answers and two worse ones, so eight pairs.

A rejected answer is that of another problem, so that the two share no beginning but the prompt.
"""

from collections.abc import Iterator
from typing import Any

from mathsft.data.pairs import pairs_from
from mathsft.data.prompts import sft_completion, sft_prompt

Pairs = list[dict[str, str]]
MAX_LENGTH = {"plain": 512, "long_prompt": 512, "group": 2048}  # 512: our trainer's default
PROMPT_TOKENS = 400


def worked(problem: Any) -> str:
    return sft_completion(problem["solution"], problem["answer"])


def plain(problems: Iterator[Any], tokenizer: Any) -> Pairs:
    own, other = next(problems), next(problems)
    return [
        {"prompt": sft_prompt(own["question"]), "chosen": worked(own), "rejected": worked(other)}
    ]


def long_prompt(problems: Iterator[Any], tokenizer: Any) -> Pairs:
    """The answers are the last step of a solution and the final line."""
    own, other = next(problems), next(problems)
    prompt = before = sft_prompt(own["question"])
    while len(tokenizer(before)["input_ids"]) <= PROMPT_TOKENS:
        prompt, example = before, next(problems)
        before = f"{sft_prompt(example['question'])}{worked(example)}\n\n{prompt}"
    chosen, rejected = ("\n".join(worked(p).split("\n")[-2:]) for p in (own, other))
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected}]


def group(problems: Iterator[Any], tokenizer: Any) -> Pairs:
    drawn = [next(problems) for _ in range(6)]
    pairs = pairs_from([worked(problem) for problem in drawn], [1, 1, 1, 1, 0, 0])
    return [{"prompt": sft_prompt(drawn[0]["question"]), **pair} for pair in pairs]


KINDS = {kind.__name__: kind for kind in (plain, long_prompt, group)}


def turns_of(kind: str, problems: Any, tokenizer: Any, *, count: int, size: int) -> list[Pairs]:
    """``count`` turns of ``size`` pairs, or of one group; what a row cannot hold is left out."""
    waiting, turns = iter(problems), [[] for _ in range(count)]
    for turn in turns:
        while len(turn) < (8 if kind == "group" else size):
            made = KINDS[kind](waiting, tokenizer)
            texts = {text for pair in made for text in pair.values()}
            tokens = sum(len(ids) + 1 for ids in tokenizer([*texts])["input_ids"])
            turn += made if tokens <= MAX_LENGTH[kind] else []
    return turns
