"""Conversations as token documents, split where the model starts to answer.

Many templates mark generated text with ``{% generation %}``. Some end the mark before the stop
token, which is then never trained. So this module does not use the marks. It renders the
conversation with one more turn; the text after the generation prompt is that turn.
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
    """A part of a document whose tokens are kept apart (`mathsft.models.encoding`).

    Its first ``length`` characters are a turn: they hold ``stops`` stop tokens and end with one.
    A piece without ``stops`` is a prompt, or a completion that still gets the tokenizer's stop.
    """

    text: str
    length: int = 0
    stops: int = 0
    trained: bool = False


def pieces(conversation: Conversation, tokenizer: Any, *, closing: Closing) -> list[Piece]:
    """Cut the conversation, up to its last assistant turn, at the end of each generation prompt.

    Joined, the pieces are the text that the template renders. Text after the last assistant turn
    is not read: nothing in it is trained.

    Raises UnusableRowError, with the reason as its message: if the text holds a control token of
    the tokenizer (it would be read as one); if the template refuses the conversation, or leaves
    a part of it out (`mathsft.objectives.left_out`); or if the template changes a turn, up to its
    stop, when another one follows. Then no single text has every turn as a model would write it.
    (Qwen3's own template does this in conversations of several turns: give a template that keeps
    every turn as it was.)
    """
    held = [{**message, "role": ""} for message in conversation.messages]
    refuse_control(texts_of([held, conversation.arguments]), closing.control)
    conversation = with_fitting_arguments(conversation, tokenizer)
    refuse_unused_arguments(conversation, tokenizer)
    found: list[Piece] = []
    done, since = "", 0  # the text up to the last turn's stop, and the index of the next message
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
                "whose tool_calls the chat template ends differently from an answer"
            )
        if not (kept and turn.endswith(closing.text) and content in turn):
            raise UnusableRowError("that the chat template rewrites")
        refuse_partial_prompt(conversation, range(since, index), prompt, len(done), tokenizer)
        if found:  # a piece is a turn up to its stop, and all text before the next turn
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
    """Make the model's generation end where its chat template ends a turn.

    Call it before you generate by other means than this package, such as ``model.generate``. The
    package's functions stop there on their own, and `save_adapter` and `save_model` record it.
    The token is added to ``generation_config.eos_token_id``; a line says so if it is new there.
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
    """Raise UnusableRowError if a text holds a control token: it would be read as one."""
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
