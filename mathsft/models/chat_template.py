"""Chat templates: use your own, find how one closes a turn, and render a conversation."""

import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from mathsft.data.chat import trained_turns
from mathsft.data.schemas import UnusableRowError
from mathsft.files import parse_json, read_text
from mathsft.models.template_bounds import bounded, check_template, templates_of
from mathsft.models.template_sizes import TemplateBoundError
from mathsft.told import advice

_PROBE = "mathsft closes here"
Messages = Sequence[Mapping[str, Any]]
# Errors that a template may raise, besides jinja's own, if it does not support a conversation.
_REFUSALS = (
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError,
    RecursionError, MemoryError, SyntaxError,
)  # fmt: skip


def set_chat_template(tokenizer: PreTrainedTokenizerBase, path: str | Path) -> None:
    """Give the tokenizer the template in a Jinja file; no token is added for it.

    Raises FileNotFoundError if the file does not exist, and ValueError, with file and line, if
    it is empty, not valid Jinja, or does not end (`mathsft.models.template_bounds`).
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"no chat template {path} (looked from {Path.cwd()}): give a Jinja file"
        )
    template = read_text(path)
    if not template.strip():
        raise ValueError(f"{path}: the chat template is empty")
    before, tokenizer.chat_template = tokenizer.chat_template, template
    try:
        _render(tokenizer, [{"role": "user", "content": "Hello"}])
    except TemplateSyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: invalid Jinja: {error.message}") from error
    except SyntaxError as error:
        raise ValueError(f"{path}: invalid Jinja: {error.msg}") from error
    except TemplateBoundError as error:
        tokenizer.chat_template = before
        raise ValueError(f"{path}: this chat template cannot be used: {error}") from error
    except _REFUSALS:
        pass  # it may refuse this conversation and accept others


def _render(tokenizer: Any, messages: list[dict[str, Any]], **arguments: Any) -> str:
    """``apply_chat_template`` as text; TemplateBoundError for a template that does not end."""
    counted = [check_template(template) for template in templates_of(tokenizer)]
    with bounded() if any(counted) else nullcontext():
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
    return text


@dataclass(frozen=True)
class Closing:
    """What a chat template writes after an assistant turn; ``stop`` is its first special token.

    ``control`` matches the texts that the tokenizer turns into special tokens.
    """

    text: str
    stop: str
    control: re.Pattern[str]

    @classmethod
    def of(cls, tokenizer: Any) -> "Closing":
        """Find it by rendering a made-up conversation.

        Raises ValueError if the tokenizer has no chat template, if the template fails or leaves
        out the assistant's text, or if no special token of the tokenizer closes a turn.
        """
        if not getattr(tokenizer, "chat_template", None):
            give = advice(
                python="load_model(…, chat_template_path=…)", line="--model.chat_template_path"
            )
            raise ValueError(
                "the tokenizer has no chat template, so conversations cannot be written as text: "
                f"{give} takes a Jinja file"
            )
        turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": _PROBE}]
        try:
            whole = _render(tokenizer, turns)
        except _REFUSALS as error:
            raise ValueError(f"the chat template cannot be rendered: {error}") from error
        _, found, text = whole.rpartition(_PROBE)
        if not found:
            raise ValueError(f"the chat template leaves the assistant's text out: {whole!r:.200}")
        special = _specials(tokenizer)
        control = control_tokens(tokenizer)
        stop = control.search(text)
        if stop is None:
            raise ValueError(
                f"the chat template closes a turn with {text!r}, which contains no special token "
                f"of the tokenizer ({', '.join(special[:8]) or 'it has none'}): a model trained "
                "with it never stops. Use a template whose turns end with one of them, such as "
                f"{tokenizer.eos_token!r}"
            )
        return cls(text=text, stop=stop[0], control=control)


def control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Return a pattern for the tokenizer's control tokens; without any it never matches."""
    return re.compile("|".join(map(re.escape, _specials(tokenizer))) or "(?!)")


def _specials(tokenizer: Any) -> list[str]:
    """Return the texts that the tokenizer turns into control tokens, longest first."""
    added = tokenizer.added_tokens_decoder.values()
    known = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
    return sorted(known, key=lambda text: (-len(text), text))


@dataclass(frozen=True)
class Conversation:
    """A row of `mathsft.data.chat` in the form that a chat template reads.

    ``messages`` have only keys with a value, with ``tool_calls`` as a list. ``trained`` says for
    each message whether it is trained. ``arguments`` go to ``apply_chat_template``: ``tools``, and
    the arguments in the row's ``chat_template_kwargs``.
    """

    messages: Messages
    trained: Sequence[bool]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Mapping[str, Any], tokenizer: Any) -> "Conversation":
        """Build it from a row, in which nested values are JSON text.

        Raises UnusableRowError if no turn is trained, or if ``chat_template_kwargs`` set one of
        the tokenizer's own arguments, such as ``add_generation_prompt``.
        """
        messages = []
        for message in row["messages"]:
            turn = {key: value for key, value in message.items() if value is not None}
            turn.pop("train", None)
            if "tool_calls" in turn:
                turn["tool_calls"] = parse_json(turn["tool_calls"], "tool_calls")
            messages.append(turn)
        arguments = parse_json(row.get("chat_template_kwargs") or "{}", "chat_template_kwargs")
        kind: Any = type(tokenizer)
        if names := sorted(arguments.keys() & _taken(kind)):
            raise UnusableRowError(f"whose chat_template_kwargs set the tokenizer's {names[0]}")
        if row.get("tools"):
            arguments = {**arguments, "tools": parse_json(row["tools"], "tools")}
        return cls(messages, trained_turns(row), arguments)

    def rendered(self, tokenizer: Any, turns: int | None = None, *, reply: bool = True) -> str:
        """Return the first ``turns`` messages as text; ``reply`` adds the generation prompt.

        Raises UnusableRowError, with the template's message, if the template refuses them.
        """
        try:
            text = _render(
                tokenizer,
                [dict(message) for message in self.messages[:turns]],
                add_generation_prompt=reply,
                **self.arguments,
            )
        except _REFUSALS as error:
            said = " ".join(str(error).split())
            raise UnusableRowError(f"that the chat template refuses ({said:.80})") from error
        return text


@cache
def _taken(kind: Any) -> frozenset[str]:
    """Return the arguments of ``apply_chat_template`` that are the tokenizer's own."""
    names = inspect.signature(kind.apply_chat_template).parameters.keys() - {"self", "documents"}
    return frozenset({*names, "messages"})
