"""A chat template of one's own in place of the checkpoint's."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase


def set_chat_template(tokenizer: PreTrainedTokenizerBase, path: str | Path) -> None:
    """Give the tokenizer the template in a Jinja file; no token is added for it.

    Raises FileNotFoundError where there is no such file, and ValueError, with file and line,
    where it is empty or no Jinja.
    """
    from jinja2 import TemplateError, TemplateSyntaxError

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
