"""From rows to token documents: what is read, and what is trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from mathsft.data.given import given_row
from mathsft.data.prompts import sft_completion, sft_prompt
from mathsft.data.schemas import UnusableRowError
from mathsft.models.chat_template import Closing, Conversation, control_tokens
from mathsft.models.encoding import encode_pieces
from mathsft.models.forest import IGNORE
from mathsft.objectives.base import Group
from mathsft.objectives.conversations import Piece, pieces, refuse_control


def documents(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    *,
    first: int = 0,
    arrow: bool = False,
    train_on_prompt: bool = False,
) -> list[Group]:
    """Turn each row into a document: a `Group` of one sequence, or the reason why it has none.

    A problem becomes prompt + worked solution + stop token. A prompt with its completion is used
    word for word, plus a stop token if it has none at its end. A conversation is written by the
    tokenizer's chat template (`mathsft.objectives.conversations`). Its assistant turns are
    trained, from ``trained_from`` on, each up to the stop token that ends it and no further. A
    turn with ``weight: 0`` or ``train: false`` is context and carries no loss. Rows may be given
    as they are published: their instructions for training are read here in the same way as by
    `load_problems` (`mathsft.data.problems`).

    The completion's tokens are those that a model sees when it continues the tokenized prompt
    (`mathsft.models.encoding.encode_pieces`), and the labels decode to exactly the completion and
    the stop token. The same holds after every generation prompt in a conversation.

    Prompt tokens carry no loss unless ``train_on_prompt`` is set. The stop token always carries
    one: a model that was never trained on it never stops. Labels are set by position, not by
    comparing with the padding token, which in many tokenizers is the stop token.

    A row is dropped if its text holds a control token of the tokenizer: it would be read as one.
    Raises ValueError if the tokenizer has no stop token; for conversations, also if it has no
    chat template, or one that ends a turn without a special token.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no eos_token: a model tuned without one never stops")
    control = control_tokens(tokenizer)
    closing: Closing | None = None
    groups = [Group() for _ in rows]
    cut: dict[int, list[Piece]] = {}  # of a conversation, or a prompt and its completion
    for index, given in enumerate(rows):
        try:
            where = f"row {first + index}"
            row = given_row(given, where=where, counted=groups[index].unread, arrow=arrow)
            if row.get("messages") is None:
                parts = _completed(row, stop=tokenizer.eos_token)
                refuse_control((part.text for part in parts), control)
            else:
                closing = closing or Closing.of(tokenizer)
                parts = pieces(Conversation.of(row, tokenizer), tokenizer, closing=closing)
            cut[index] = parts
        except UnusableRowError as reason:
            groups[index] = Group(dropped=str(reason))
    rendered = [bool(parts[-1].stops) for parts in cut.values()]
    texts = [[piece.text for piece in parts] for parts in cut.values()]
    encoded = encode_pieces(tokenizer, texts, rendered=rendered)
    stop = tokenizer.convert_tokens_to_ids(closing.stop) if closing else tokenizer.eos_token_id
    for (index, parts), tokens in zip(cut.items(), encoded, strict=True):
        if tokens is None:
            groups[index].dropped = "whose completion cannot be separated from its prompt in tokens"
            continue
        input_ids: list[int] = []
        labels: list[int] = []
        for piece, ids in zip(parts, tokens, strict=True):
            if not piece.stops and piece.trained:
                ids = [*ids, tokenizer.eos_token_id]
            read = _turn_length(ids, stop, piece.stops) if piece.trained else 0
            input_ids += ids
            labels += [*ids[:read], *[IGNORE] * (len(ids) - read)]
        if train_on_prompt:  # the first token is never predicted
            labels = [IGNORE, *input_ids[1:]]
        groups[index].sequences = [{"input_ids": input_ids, "labels": labels}]
    return groups


def _completed(row: Mapping[str, Any], *, stop: str) -> list[Piece]:
    """The prompt of a row and the completion to train after it, without the stop token."""
    if row.get("prompt") is not None:
        completion = row["completion"].removesuffix(stop)
        return [Piece(row["prompt"]), Piece(completion, trained=True)]
    if not row["solution"].strip():
        raise UnusableRowError("no worked solution")
    completion = sft_completion(row["solution"], row["answer"])
    return [Piece(sft_prompt(row["question"])), Piece(completion, trained=True)]


def _turn_length(ids: list[int], stop: int, stops: int) -> int:
    """How many tokens belong to the turn: all up to the ``stops``-th stop, or all if it is 0."""
    if not stops:
        return len(ids)
    return [place for place, token in enumerate(ids) if token == stop][stops - 1] + 1
