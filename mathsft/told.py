"""How errors are told: their advice, and on the command line their form and exit status.

A line without a traceback is for errors that a user's files, options and machine cause. Any other
one, such as a KeyError, is a fault of the program and keeps its traceback.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_USUAL = (ValueError, OSError, ImportError, FloatingPointError, RuntimeError, MemoryError, EOFError)
# Of libraries whose errors are none of these; one that was not imported cannot have raised.
_LIBRARIES = {
    "yaml": "YAMLError",
    "sqlite3": "Error",
    "pyarrow": "ArrowException",
    "safetensors": "SafetensorError",
    "pickle": "PickleError",
    "zipfile": "BadZipFile",
    "zlib": "error",
    "lzma": "LZMAError",
    "httpx": "HTTPError",
    "jinja2": "TemplateError",
}
INTERRUPTED = 130  # as shells report Ctrl-C
_PIPE_CLOSED = 141


_ON_THE_LINE = ContextVar("on the command line", default=False)


@contextmanager
def on_the_command_line() -> Iterator[None]:
    """Inside, errors advise options of the command line, and not arguments of functions."""
    token = _ON_THE_LINE.set(True)
    try:
        yield
    finally:
        _ON_THE_LINE.reset(token)


def advice(*, python: str, line: str) -> str:
    """What to do about an error, in the language of the one who asked.

    Args:
        python: for a notebook or a script.
        line: for the command line, where a key of a recipe is written like an option.
    """
    return line if _ON_THE_LINE.get() else python


def is_told(error: BaseException) -> bool:
    """Whether an error is told in a line, without a traceback."""
    if isinstance(error, (*_USUAL, KeyboardInterrupt)):
        return True
    kinds = [getattr(sys.modules.get(m), name, None) for m, name in _LIBRARIES.items()]
    # The tokenizers library raises Exception itself for a broken tokenizer.json.
    return type(error) is Exception or any(kind and isinstance(error, kind) for kind in kinds)


def exit_with(error: BaseException, command: str) -> None:
    """End the process with the error in a line on stderr.

    Status 1; 130 after Ctrl-C; 141, without a line, if the reader of a pipe has gone.
    """
    process = f" (process {os.environ['RANK']})" if "RANK" in os.environ else ""
    if isinstance(error, BrokenPipeError):
        # What is left in the buffer must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_PIPE_CLOSED)
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write(f"mathsft {command}{process}: interrupted\n")
        sys.exit(INTERRUPTED)
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        text = f"not enough memory ({text}): take a smaller batch, or a smaller model"
    elif not isinstance(error, _USUAL):
        text = f"{type(error).__name__}: {text}"
    sys.exit(f"mathsft {command}{process}: {text} (MATHSFT_DEBUG=1 shows where)")
