"""Chat templates: one of your own in place of the checkpoint's, and how one closes a turn."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

_PROBE = "mathsft closes here"


def set_chat_template(tokenizer: PreTrainedTokenizerBase, path: str | Path) -> None:
    """Give the tokenizer the template in a Jinja file; no token is added for it.

    Raises FileNotFoundError where there is no such file, and ValueError, with file and line,
    where it is empty or no Jinja.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no chat template {path} (from {Path.cwd()}): give a Jinja file")
    try:
        template = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}): save the file as UTF-8") from error
    if not template.strip():
        raise ValueError(f"{path}: the chat template is empty")
    tokenizer.chat_template = template
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    except TemplateSyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: not Jinja: {error.message}") from error
    except TemplateError:
        pass  # it may refuse this conversation, and take others


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


def control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Finds the texts that the tokenizer turns into control tokens; nothing where it has none."""
    return re.compile("|".join(map(re.escape, _specials(tokenizer))) or "(?!)")


def _specials(tokenizer: Any) -> list[str]:
    """The texts that the tokenizer turns into control tokens, the longest first."""
    added = tokenizer.added_tokens_decoder.values()
    known = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
    return sorted(known, key=lambda text: (-len(text), text))
