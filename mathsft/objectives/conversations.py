"""Conversations as token documents, split where a model that answers takes over.

Many templates mark what is generated with ``{% generation %}``, and some close the mark before
the stop token, which is then never trained. So no mark is read here: what the template renders
with one turn more, beyond the generation prompt, is the turn.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mathsft.data.schemas import UnusableRowError
from mathsft.models.chat_template import Closing, Conversation
from mathsft.objectives.left_out import (
    refuse_partial_prompt,
    refuse_partial_turn,
    refuse_unused_arguments,
    with_fitting_arguments,
)
from mathsft.processes import say


@dataclass(frozen=True)
class Piece:
    """Text that is tokenized by itself.

    A turn is its first ``length`` characters, which hold ``stops`` stop tokens and end with one.
    A piece without ``stops`` is a prompt, or a completion that the tokenizer's stop will close.
    """

    text: str
    length: int = 0
    stops: int = 0
    trained: bool = False


def pieces(conversation: Conversation, tokenizer: Any, *, closing: Closing) -> list[Piece]:
    """The conversation up to its last assistant turn, cut at each end of a generation prompt.

    Joined, the pieces are what the template renders. What follows the last assistant turn is
    not read: nothing in it is trained.

    Raises UnusableRowError, whose message is the reason, where the text holds a control token of
    the tokenizer (it would be read as one); where the template refuses the conversation, or leaves
    a part of it out (`mathsft.objectives.left_out`); or where it writes a turn otherwise once
    another one follows, up to its stop: then there is no one text in which each turn is as a model
    would write it. (Qwen3's own template does so, in conversations of several turns: give one that
    keeps every turn as it was.)
    """
    held = [{**message, "role": ""} for message in conversation.messages]
    refuse_control(texts_of([held, conversation.arguments]), closing.control)
    conversation = with_fitting_arguments(conversation, tokenizer)
    refuse_unused_arguments(conversation, tokenizer)
    found: list[Piece] = []
    done, since = "", 0  # what is rendered up to the last turn's stop, and the message after it
    for index, message in enumerate(conversation.messages):
        if message["role"] != "assistant":
            continue
        prompt = conversation.rendered(tokenizer, index)
        whole = conversation.rendered(tokenizer, index + 1, reply=False)
        turn = whole.removeprefix(prompt)
        refuse_partial_turn(conversation, index, whole, turn, tokenizer)
        kept = prompt.startswith(done) and whole.startswith(prompt)
        content = (message.get("content") or "").strip()
        if kept and "tool_calls" in message and not turn.endswith(closing.text):
            raise UnusableRowError(
                "whose tool_calls the chat template closes otherwise than an answer"
            )
        if not (kept and turn.endswith(closing.text) and content in turn):
            raise UnusableRowError("that the chat template rewrites")
        refuse_partial_prompt(conversation, range(since, index), prompt, len(done), tokenizer)
        if found:  # a piece is a turn up to its stop, and all that stands before the next one
            last = found.pop()
            text = last.text[: last.length] + prompt[len(done) :]
            found.append(replace(last, text=text))
        else:
            found.append(Piece(prompt))
        length = len(turn) - len(closing.text) + closing.text.index(closing.stop)
        length += len(closing.stop)
        stops = turn.count(closing.stop, 0, length)
        found.append(Piece(turn, length, stops, trained=conversation.trained[index]))
        done, since = prompt + turn[:length], index + 1
    return found


def stop_after_turns(model: Any, tokenizer: Any) -> None:
    """Let the model's generation end where its chat template ends a turn; says so where new.

    For generation by other means than ours, such as ``model.generate``: the functions of this
    package end there by themselves, and `save_adapter` and `save_model` record it. The token is
    added to ``generation_config.eos_token_id``.
    """
    stop = Closing.of(tokenizer).stop
    token = tokenizer.convert_tokens_to_ids(stop)
    config = getattr(model, "get_base_model", lambda: model)().generation_config
    known = config.eos_token_id
    stops = [] if known is None else [known] if isinstance(known, int) else list(known)
    if token not in stops:
        config.eos_token_id = [*stops, token]
        say(f"generation now ends at {stop!r} too, as turns do in the chat template")


def refuse_control(texts: Iterable[str], control: re.Pattern[str]) -> None:
    """Raise UnusableRowError where a text holds a control token: it would be read as one."""
    if any(map(control.search, texts)):
        raise UnusableRowError("that hold a control token of the tokenizer")


def texts_of(value: Any) -> Iterator[str]:
    """All texts in nested lists and objects, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts_of([*value, *value.values()])
    elif isinstance(value, Sequence):
        for item in value:
            yield from texts_of(item)
