"""From problems to token documents: what is read, and what is trained."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from mathsft.data.prompts import sft_completion, sft_prompt
from mathsft.models.forest import IGNORE


def tokenize_problems(
    problems: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    max_length: int = 512,
    train_on_prompt: bool = False,
) -> tuple[list[dict[str, list[int]]], Counter[str]]:
    """Prompt + worked solution + stop token of each problem as ``{"input_ids", "labels"}``.

    The prompt and the completion are tokenized separately and then joined: that is the
    boundary a model meets when it continues a tokenized prompt, and the labels then
    decode to exactly the completion and the stop token. (Our prompts end with a line
    break, so tokenizing the joined text gives the same tokens for completions that
    begin with a letter or a digit; a merge across the boundary is possible otherwise.)

    Prompt tokens carry no loss unless ``train_on_prompt``. The stop token always does:
    a model that never saw it trained never stops. Labels are set by position, not by
    comparing with the padding token, which in many tokenizers is the stop token.

    Returns the documents and the dropped problems counted by reason. A document of
    more than ``max_length`` tokens is dropped whole: cutting it would cut its answer.
    Raises ValueError where the tokenizer has no stop token.
    """
    stop = tokenizer.eos_token_id
    if stop is None:
        raise ValueError("the tokenizer has no eos_token: a model tuned without one never stops")
    dropped: Counter[str] = Counter()
    prompts: list[str] = []
    completions: list[str] = []
    for problem in problems:
        if not problem["solution"].strip():
            dropped["no worked solution"] += 1
            continue
        prompts.append(sft_prompt(problem["question"]))
        completions.append(sft_completion(problem["solution"], problem["answer"]))
    if not prompts:
        return [], dropped

    documents = []
    prompt_ids = tokenizer(prompts)["input_ids"]
    completion_ids = tokenizer(completions, add_special_tokens=False)["input_ids"]
    for prompt, completion in zip(prompt_ids, completion_ids, strict=True):
        input_ids = [*prompt, *completion, stop]
        if len(input_ids) > max_length:
            dropped[f"longer than {max_length} tokens"] += 1
            continue
        unseen = 1 if train_on_prompt else len(prompt)  # the first token is never predicted
        documents.append({"input_ids": input_ids, "labels": [IGNORE] * unseen + input_ids[unseen:]})
    return documents, dropped
