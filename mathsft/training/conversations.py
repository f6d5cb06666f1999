"""Conversations as token documents, split where a model that answers takes over.

Many templates mark what is generated with ``{% generation %}``, and some close the mark before
the stop token, which is then never trained. So no mark is read here: what the template renders
with one turn more, beyond the generation prompt, is the turn.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset
from jinja2 import TemplateError

from mathsft.data.schemas import UnusableRowError
from mathsft.processes import say

_PROBE = "mathsft closes here"
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Closing:
    """What a chat template writes after an assistant turn; ``stop`` is its first special token.

    ``control`` finds the texts that the tokenizer turns into special tokens.
    """

    text: str
    stop: str
    control: re.Pattern[str]

    @classmethod
    def of(cls, tokenizer: Any) -> "Closing":
        """Found by rendering a conversation made up for it.

        Raises ValueError where the tokenizer has no chat template, where that fails or leaves the
        assistant's text out, or where no special token of the tokenizer closes a turn.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "the tokenizer has no chat template, so conversations cannot be written as text: "
                "load_model(…, chat_template_path=…) takes a Jinja file"
            )
        turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": _PROBE}]
        try:
            whole = tokenizer.apply_chat_template(turns, tokenize=False)
        except TemplateError as error:
            raise ValueError(f"the chat template cannot be rendered: {error}") from error
        _, found, text = whole.rpartition(_PROBE)
        if not found:
            raise ValueError(f"the chat template leaves the assistant's text out: {whole!r:.200}")
        special = _specials(tokenizer)
        control = control_tokens(tokenizer)
        stop = control.search(text)
        if stop is None:
            raise ValueError(
                f"the chat template closes a turn with {text!r}, in which the tokenizer knows no "
                f"special token (it knows {', '.join(special[:8]) or 'none'}): a model tuned with "
                "it never stops. Take a template whose turns end with one of them, such as "
                f"{tokenizer.eos_token!r}"
            )
        return cls(text=text, stop=stop[0], control=control)


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


def pieces(
    messages: Messages, tokenizer: Any, *, closing: Closing, trained_from: int = 0
) -> list[Piece]:
    """The conversation up to its last assistant turn, cut at each end of a generation prompt.

    Joined, the pieces are what the template renders. What follows the last assistant turn is
    not read: nothing in it is trained.

    Raises UnusableRowError, whose message is the reason, where no turn is trained; where the text
    holds a control token of the tokenizer (it would be read as one); where the template refuses
    the conversation; or where it writes a turn otherwise once another one follows, up to its
    stop: then there is no one text in which each turn is as a model would write it. (Qwen3's own
    template does so, in conversations of several turns: give one that keeps every turn as it was.)
    """
    refuse_control((message["content"] for message in messages), closing.control)
    found: list[Piece] = []
    done = ""  # what is rendered up to the last turn's stop
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(messages[:index], tokenizer)
        whole = render(messages[: index + 1], tokenizer, reply=False)
        turn = whole.removeprefix(prompt)
        kept = prompt.startswith(done) and whole.startswith(prompt)
        if not (kept and turn.endswith(closing.text) and message["content"].strip() in turn):
            raise UnusableRowError("that the chat template rewrites")
        if found:  # a piece is a turn up to its stop, and all that stands before the next one
            last = found.pop()
            text = last.text[: last.length] + prompt[len(done) :]
            found.append(replace(last, text=text))
        else:
            found.append(Piece(prompt))
        length = len(turn) - len(closing.text) + closing.text.index(closing.stop)
        length += len(closing.stop)
        stops = turn.count(closing.stop, 0, length)
        found.append(Piece(turn, length, stops, trained=index >= trained_from))
        done = prompt + turn[:length]
    if not any(piece.trained for piece in found):
        raise UnusableRowError("without an assistant turn")
    return found


def render(messages: Messages, tokenizer: Any, *, reply: bool = True) -> str:
    """The conversation as text, with ``reply`` up to where the assistant begins to write.

    Raises UnusableRowError where the template refuses it, with what it says.
    """
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=reply
        )
    except TemplateError as error:
        said = " ".join(str(error).split())
        raise UnusableRowError(f"that the chat template refuses ({said:.80})") from error
    return text


def holds_conversations(problems: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a row is a conversation."""
    if isinstance(problems, Dataset):
        if "messages" not in problems.column_names:
            return False
        problems = problems.select_columns("messages")  # None in a problem of a mixture
    return any(row.get("messages") is not None for row in problems)


def stop_after_turns(model: Any, tokenizer: Any) -> None:
    """Let the model's generation end where its chat template ends a turn; says so where new.

    The token is added to ``generation_config.eos_token_id``, which `save_model` keeps. (An
    adapter's folder holds no generation config: load its tokenizer's template and call this.)
    """
    stop = Closing.of(tokenizer).stop
    token = tokenizer.convert_tokens_to_ids(stop)
    config = getattr(model, "get_base_model", lambda: model)().generation_config
    known = config.eos_token_id
    stops = [] if known is None else [known] if isinstance(known, int) else list(known)
    if token not in stops:
        config.eos_token_id = [*stops, token]
        say(f"generation now ends at {stop!r} too, as turns do in the chat template")


def control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Finds the texts that the tokenizer turns into control tokens; nothing where it has none."""
    return re.compile("|".join(map(re.escape, _specials(tokenizer))) or "(?!)")


def refuse_control(texts: Iterable[str], control: re.Pattern[str]) -> None:
    """Raise UnusableRowError where a text holds a control token: it would be read as one."""
    if any(map(control.search, texts)):
        raise UnusableRowError("that hold a control token of the tokenizer")


def _specials(tokenizer: Any) -> list[str]:
    """The texts that the tokenizer turns into control tokens, the longest first."""
    added = tokenizer.added_tokens_decoder.values()
    known = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
    return sorted(known, key=lambda text: (-len(text), text))
