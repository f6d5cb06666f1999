"""Conversations and chat templates for tests, with tokens that the tiny tokenizer has."""

from typing import Any

from mathsft.models.forest import IGNORE
from mathsft.models.loading import load_model
from mathsft.objectives.sft import tokenize_problems

# ChatML with one-character marks, which `with_template` makes special tokens.
TEMPLATE = (
    "{% for m in messages %}{{ '^' + m['role'] + '\n' + m['content'] + '~\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '^assistant\n' }}{% endif %}"
)


def with_template(tokenizer: Any, template: str = TEMPLATE) -> Any:
    """Give the tokenizer the template, and make ^ and ~ (in its vocabulary) special tokens."""
    tokenizer.add_special_tokens({"additional_special_tokens": ["^", "~"]})
    tokenizer.chat_template = template
    return tokenizer


def chat(*contents: str, system: str | None = None) -> dict[str, Any]:
    """A conversation in which user and assistant take turns."""
    turns = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    turns += [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    return {"messages": turns}


def sums(count: int) -> list[dict[str, Any]]:
    """Conversations with two questions each."""
    return [chat(f"What is {n} + 2?", f"It is {n + 2}.", "Sure?", "Yes.") for n in range(count)]


def new_tokenizer() -> Any:
    return load_model("tiny", device="cpu")[1]


def document(row: dict[str, Any], tokenizer: Any, **arguments: Any) -> dict[str, list[int]]:
    ((found,), dropped) = tokenize_problems([row], tokenizer, max_length=10**6, **arguments)
    assert not dropped
    return found


def trained_parts(found: dict[str, list[int]], tokenizer: Any) -> list[str]:
    """The runs of tokens that carry a loss, as text."""
    parts: list[list[int]] = []
    for before, label in zip([IGNORE, *found["labels"]], found["labels"], strict=False):
        if label != IGNORE:
            if before == IGNORE:
                parts.append([])
            parts[-1].append(label)
    return [tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in parts]


def joint(row: dict[str, Any], tokenizer: Any) -> list[int]:
    """The tokens that transformers makes from the whole conversation."""
    found = tokenizer.apply_chat_template(row["messages"], tokenize=True, return_dict=True)
    return list(found["input_ids"])
