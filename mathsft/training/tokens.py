"""From rows to token documents: what is read, and what is trained."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mathsft.data.prompts import sft_completion, sft_prompt
from mathsft.data.schemas import UnusableRowError
from mathsft.models.forest import IGNORE
from mathsft.training.conversations import (
    Closing,
    Piece,
    control_tokens,
    pieces,
    refuse_control,
)


def tokenize_problems(
    problems: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    max_length: int = 512,
    train_on_prompt: bool = False,
) -> tuple[list[dict[str, list[int]]], Counter[str]]:
    """The documents of problems, conversations or prompts, as ``{"input_ids", "labels"}``.

    A problem becomes prompt + worked solution + stop token; a prompt with its completion
    likewise, word for word (a stop token that it ends with is not doubled). A conversation is
    written by the tokenizer's chat template (`mathsft.training.conversations`); its assistant
    turns are trained, from ``trained_from`` on, each to the stop token that closes it and no
    further.

    The prompt and the completion are tokenized separately and then joined: that is the
    boundary a model meets when it continues a tokenized prompt, and the labels then
    decode to exactly the completion and the stop token. (Our prompts end with a line
    break, so tokenizing the joined text gives the same tokens for completions that
    begin with a letter or a digit; a merge across the boundary is possible otherwise.)
    So it is at the end of every generation prompt in a conversation.

    Prompt tokens carry no loss unless ``train_on_prompt``. The stop token always does:
    a model that never saw it trained never stops. Labels are set by position, not by
    comparing with the padding token, which in many tokenizers is the stop token.

    Returns the documents and the dropped rows counted by reason. A document of
    more than ``max_length`` tokens is dropped whole: cutting it would cut its answer. So is a
    row whose text holds a control token of the tokenizer: it would be read as one.
    Raises ValueError where the tokenizer has no stop token; for conversations where it has no
    chat template, or one that closes a turn without a special token.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no eos_token: a model tuned without one never stops")
    dropped: Counter[str] = Counter()
    control = control_tokens(tokenizer)
    closing: Closing | None = None
    cut: list[list[Piece]] = []  # a conversation's, or a prompt and its completion
    for row in problems:
        try:
            if row.get("messages") is None:
                parts = _completed(row, stop=tokenizer.eos_token)
                refuse_control((part.text for part in parts), control)
                cut.append(parts)
                continue
            closing = closing or Closing.of(tokenizer)
            first = row.get("trained_from") or 0
            messages = row["messages"]
            cut.append(pieces(messages, tokenizer, closing=closing, trained_from=first))
        except UnusableRowError as reason:
            dropped[str(reason)] += 1
    tokens = _tokens(tokenizer, cut)
    stop = tokenizer.convert_tokens_to_ids(closing.stop) if closing else tokenizer.eos_token_id

    documents = []
    for parts in cut:
        input_ids: list[int] = []
        labels: list[int] = []
        for piece in parts:
            ids = next(tokens)
            if not piece.stops and piece.trained:
                ids = [*ids, tokenizer.eos_token_id]
            read = _turn_length(ids, stop, piece.stops) if piece.trained else 0
            input_ids += ids
            labels += [*ids[:read], *[IGNORE] * (len(ids) - read)]
        if len(input_ids) > max_length:
            dropped[f"longer than {max_length} tokens"] += 1
            continue
        if train_on_prompt:  # the first token is never predicted
            labels = [IGNORE, *input_ids[1:]]
        documents.append({"input_ids": input_ids, "labels": labels})
    return documents, dropped


def _completed(row: Mapping[str, Any], *, stop: str) -> list[Piece]:
    """A problem, or a prompt, with what is to be written after it, up to the stop token."""
    if row.get("prompt") is not None:
        completion = row["completion"].removesuffix(stop)
        return [Piece(row["prompt"]), Piece(completion, trained=True)]
    if not row["solution"].strip():
        raise UnusableRowError("no worked solution")
    completion = sft_completion(row["solution"], row["answer"])
    return [Piece(sft_prompt(row["question"])), Piece(completion, trained=True)]


def _tokens(tokenizer: Any, cut: list[list[Piece]]) -> Iterator[list[int]]:
    """The pieces' tokens in order, from two calls; a prompt's begin as the tokenizer begins a text.

    A chat template writes by itself what a text begins with.
    """
    begun = [parts[0].text for parts in cut if not parts[-1].stops]
    others = [part.text for parts in cut for part in (parts if parts[-1].stops else parts[1:])]
    first = iter(tokenizer(begun)["input_ids"] if begun else [])
    further = iter(tokenizer(others, add_special_tokens=False)["input_ids"] if others else [])
    for parts in cut:
        for place in range(len(parts)):
            yield next(further if place or parts[-1].stops else first)


def _turn_length(ids: list[int], stop: int, stops: int) -> int:
    """How many of the tokens are the turn's: all to the ``stops``-th stop, or all (0)."""
    if not stops:
        return len(ids)
    return [place for place, token in enumerate(ids) if token == stop][stops - 1] + 1
