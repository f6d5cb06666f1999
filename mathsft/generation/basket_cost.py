"""What a prompt basket will cost at most, before a server is asked."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mathsft.generation.baskets import BasketPrompt, Message

_BYTES = 3  # of UTF-8 for a token; English text has about 4, numbers and other languages have fewer
_AROUND = 5  # tokens that a chat template puts around a message, about


@dataclass(frozen=True)
class Estimate:
    """What is still to be generated, and what it costs at most.

    Every answer is counted with all of its ``max_new_tokens``, and again in the prompts of the
    messages that follow it. Requests that are sent again after an error are not counted.

    Args:
        conversations: how many are still to be generated.
        requests: one for each answer.
        prompt_tokens: at most; exact only if ``counted_by`` is the tokenizer of the served model.
        completion_tokens: at most.
        counted_by: how the prompt tokens were counted.
        cost: at most, in the currency of the prices; None without prices.
    """

    conversations: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    counted_by: str
    cost: float | None

    def __str__(self) -> str:
        told = (
            f"to generate: {self.conversations:,} conversations with {self.requests:,} answers; at "
            f"most {self.prompt_tokens:,} prompt tokens ({self.counted_by}) and "
            f"{self.completion_tokens:,} tokens of answers"
        )
        return told if self.cost is None else f"{told}; cost at most {self.cost:.4f}"


def estimated(
    todo: Iterable[BasketPrompt],
    *,
    max_new_tokens: int,
    tokenizer: Any = None,
    prices: tuple[float, float] | None = None,
) -> Estimate:
    """Return the estimate for these prompts, one conversation each.

    Args:
        todo: a prompt is there once for each conversation.
        max_new_tokens: of one answer.
        tokenizer: counts the prompts' tokens, with its chat template if it has one; default: one
            token for each 3 bytes of text.
        prices: for a million prompt tokens, and for a million tokens of answers.
    """
    count, told = _counter(tokenizer)
    known: dict[str | int, tuple[int, int]] = {}
    conversations = requests = prompt_tokens = 0
    for prompt in todo:
        if prompt.id not in known:
            known[prompt.id] = (len(prompt.prompts), _prompt_tokens(prompt, count, max_new_tokens))
        turns, tokens = known[prompt.id]
        conversations += 1
        requests += turns
        prompt_tokens += tokens
    answers = requests * max_new_tokens
    cost = prices and cost_of(prompt_tokens, answers, prices)
    return Estimate(conversations, requests, prompt_tokens, answers, told, cost)


def cost_of(prompt_tokens: int, completion_tokens: int, prices: tuple[float, float]) -> float:
    """What these tokens cost, at prices for a million."""
    return (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6


def _prompt_tokens(
    prompt: BasketPrompt, count: Callable[[Sequence[Message]], int], max_new_tokens: int
) -> int:
    """The prompt tokens of all requests of one conversation."""
    messages, found = prompt.system, 0
    for turn, text in enumerate(prompt.prompts):
        messages = [*messages, {"role": "user", "content": text}]
        found += count(messages) + turn * max_new_tokens
        messages = [*messages, {"role": "assistant", "content": ""}]
    return found


def _counter(tokenizer: Any) -> tuple[Callable[[Sequence[Message]], int], str]:
    if tokenizer is None:
        return lambda messages: sum(
            _AROUND + -(-len(message["content"].encode()) // _BYTES) for message in messages
        ), f"counted as one for {_BYTES} bytes of text"
    if tokenizer.chat_template:
        how: dict[str, Any] = {"add_generation_prompt": True, "tokenize": True}
        return lambda messages: len(
            tokenizer.apply_chat_template(messages, return_dict=False, **how)
        ), "counted by the tokenizer and its chat template"
    return lambda messages: sum(
        _AROUND + len(tokenizer(message["content"]).input_ids) for message in messages
    ), "counted by the tokenizer"
