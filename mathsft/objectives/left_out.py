"""Find what a chat template leaves out of a conversation: such a row is dropped and counted.

A template may not support tools or reasoning. It then writes the conversation without them, and
the model would be trained to answer without the information that the row gives it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from jinja2 import Environment

from mathsft.data.messages import REASONING
from mathsft.data.schemas import UnusableRowError
from mathsft.files import parse_json
from mathsft.models.chat_template import Conversation

Message = Mapping[str, Any]
_MOST_PARTS = 32


def refuse_unused_arguments(conversation: Conversation, tokenizer: Any) -> None:
    """Raise UnusableRowError for tools or ``chat_template_kwargs`` that the template does not use.

    A tool counts as used if the first prompt changes without it. An argument counts as used if
    the template reads a variable of its name: ``enable_thinking: true`` often gives the same text
    as no argument.
    """
    arguments = conversation.arguments
    if not arguments:
        return
    tools = arguments.get("tools") or []
    names = _names(tokenizer.get_chat_template(tools=tools or None))
    for name in sorted(arguments.keys() - {"tools"}):
        if name not in names:
            raise UnusableRowError(
                f"whose {name} (chat_template_kwargs) the chat template leaves out"
            )
    first = [message["role"] for message in conversation.messages].index("assistant")
    text = conversation.rendered(tokenizer, first) if tools else ""
    for part in _parts(tools):
        others = [*tools[: part.start], *tools[part.stop :]] or None
        other = replace(conversation, arguments={**arguments, "tools": others})
        if _try(lambda other=other: other.rendered(tokenizer, first)) == text:  # type: ignore[misc]
            raise UnusableRowError("whose tools the chat template leaves out")


@cache
def _names(template: str) -> frozenset[str]:
    """The names of a template's variables, filters and functions."""
    return frozenset(name for _, kind, name in Environment().lex(template) if kind == "name")


def refuse_partial_turn(
    conversation: Conversation, index: int, whole: str, turn: str, tokenizer: Any
) -> None:
    """Raise UnusableRowError if assistant turn ``index`` holds more than the template writes.

    ``whole`` is the text up to the end of the turn; ``turn`` is the turn's own part of it.
    """
    message = conversation.messages[index]
    for key in REASONING:
        if message.get(key, "").strip() not in turn:
            raise UnusableRowError(f"whose {key} the chat template leaves out")
    calls = message.get("tool_calls", ())
    for part in _parts(calls):
        others = [*calls[: part.start], *calls[part.stop :]]
        less = {**message, "tool_calls": others}
        if not others:
            del less["tool_calls"]
        bare = [_without_arguments(calls[place]) for place in part]
        blank = {**message, "tool_calls": [*calls[: part.start], *bare, *calls[part.stop :]]}
        told = [function_of(calls[place]).get("arguments") for place in part]
        changed = [less, blank] if any(one not in (None, "", "{}", {}) for one in told) else [less]
        if whole in [_rewritten(conversation, index, other, tokenizer) for other in changed]:
            raise UnusableRowError("whose tool_calls the chat template leaves out")
    if calls and (message.get("content") or "").strip() not in turn:
        raise UnusableRowError("whose content beside tool_calls the chat template leaves out")


def refuse_partial_prompt(
    conversation: Conversation, indices: Iterable[int], prompt: str, start: int, tokenizer: Any
) -> None:
    """Raise UnusableRowError if a turn among ``indices`` is not in ``prompt``, from ``start`` on.

    A template may write a text in another form (a tool's answer as JSON). So the text counts as
    used if changing it changes the prompt.
    """
    end = max(indices, default=-1) + 1
    for index in indices:
        message = conversation.messages[index]
        content = (message.get("content") or "").strip()
        if content in prompt[start:]:
            continue
        messages = list(conversation.messages)
        messages[index] = {**message, "content": content + " …"}
        other = replace(conversation, messages=messages)
        if _try(lambda other=other: other.rendered(tokenizer, end)) == prompt:  # type: ignore[misc]
            raise UnusableRowError(f"whose {message['role']} turn the chat template leaves out")


def with_fitting_arguments(conversation: Conversation, tokenizer: Any) -> Conversation:
    """Give the arguments of tool calls as objects or as JSON text, whichever the template needs.

    OpenAI writes them as text, transformers as objects. A template is made for one of the two: it
    refuses the other, or writes it as quoted text (``"{\\\\"a\\\\": 1}"``) or as Python
    (``{'a': 1}``). The form as given is tried first, then objects, then text.

    Raises UnusableRowError if the template can write neither.
    """
    if not any("tool_calls" in message for message in conversation.messages):
        return conversation
    turns = 1 + max(i for i, m in enumerate(conversation.messages) if m["role"] == "assistant")
    reason: UnusableRowError | None = None
    for form in (lambda arguments: arguments, _as_object, _as_text):
        fitting = replace(conversation, messages=_with_form(conversation.messages, form))
        try:
            text = fitting.rendered(tokenizer, turns, reply=False)
        except UnusableRowError as error:
            reason = reason or error
            continue
        if not any(mangled in text for mangled in _mangled(fitting.messages[:turns])):
            return fitting
    raise reason or UnusableRowError("whose tool_calls' arguments the chat template mangles")


def function_of(call: Message) -> Message:
    """The part of a tool or a call with name and arguments: its ``function``, or itself."""
    function = call.get("function")
    return function if isinstance(function, Mapping) else call


def _with_form(messages: Sequence[Message], form: Callable[[Any], Any]) -> list[Message]:
    found = []
    for message in messages:
        if "tool_calls" in message:
            calls = []
            for call in message["tool_calls"]:
                function = function_of(call)
                if "arguments" in function:
                    made = {**function, "arguments": form(function["arguments"])}
                    call = made if function is call else {**call, "function": made}
                calls.append(call)
            message = {**message, "tool_calls": calls}
        found.append(message)
    return found


def _as_object(arguments: Any) -> Any:
    try:
        return parse_json(arguments, "arguments") if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _as_text(arguments: Any) -> Any:
    whole = isinstance(arguments, Mapping)
    return json.dumps(arguments, ensure_ascii=False) if whole else arguments


def _mangled(messages: Iterable[Message]) -> Iterator[str]:
    """How arguments look if the template writes them as quoted text or as Python."""
    for message in messages:
        for call in message.get("tool_calls", ()):
            arguments = function_of(call).get("arguments")
            if isinstance(arguments, str) and isinstance(_as_object(arguments), Mapping):
                yield json.dumps(arguments, ensure_ascii=False)
                yield json.dumps(arguments)
            elif isinstance(arguments, Mapping) and arguments:
                yield str(arguments)


def _parts(given: Sequence[Any]) -> Iterator[range]:
    """The places of the tools or calls that are left out together to see whether they are used.

    Each alone, or hundreds of them in 32 parts: the time would grow with the square of their
    number.
    """
    size = -(-len(given) // _MOST_PARTS)
    for place in range(0, len(given), max(1, size)):
        yield range(place, min(place + size, len(given)))


def _without_arguments(call: Message) -> Message:
    function = function_of(call)
    bare = {**function, "arguments": _nothing(function)}
    return bare if function is call else {**call, "function": bare}


def _nothing(function: Message) -> Any:
    return "{}" if isinstance(function.get("arguments"), str) else {}


def _rewritten(conversation: Conversation, index: int, message: Message, tokenizer: Any) -> str:
    messages = [*conversation.messages[:index], message]
    other = replace(conversation, messages=messages)
    return _try(lambda: other.rendered(tokenizer, reply=False))


def _try(render: Callable[[], str]) -> str:
    """The rendered text, or "" if the template refuses: then the change has an effect."""
    try:
        return render()
    except UnusableRowError:
        return ""
