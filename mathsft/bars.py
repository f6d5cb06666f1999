"""Progress bars: tqdm's in a terminal, one line of plain text for each cell in a notebook.

tqdm's own bars end up in a kept notebook as pink boxes or as widgets that no page can show.
"""

import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

_AFTER = 2.0  # seconds: shorter work shows no bar in a notebook
_FORMAT = "{desc}: {n_fmt} of {total_fmt}, {elapsed}, {remaining} left{postfix}"
_hidden = False


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel, such as Colab's."""
    return getattr(_shell(), "kernel", None) is not None


def progress(
    steps: Iterable[Any] | None = None,
    *,
    desc: str,
    total: int | None = None,
    delay: float = 0,
    to: TextIO | None = None,
    disable: bool = False,
) -> "tqdm[Any]":
    """A bar that leaves nothing in a terminal, and one line of text in a notebook.

    In a notebook, bars that run at the same time are lines of the same output, and later bars of
    the cell use it again. At the end it says how many steps the last one took.

    Args:
        steps: what is iterated; None: the caller calls ``update``.
        desc: what is counted, such as "answers".
        total: the number of steps; default: the length of ``steps``.
        delay: seconds before the bar appears; in a notebook at least 2, except for -1: at once.
        to: where a terminal's bar is written; default: standard error.
        disable: show nothing.
    """
    if not in_notebook():
        shown: tqdm[Any] = tqdm(
            steps, desc=desc, total=total, delay=max(delay, 0), leave=False, file=to,
            disable=disable,
        )  # fmt: skip
        return shown
    return _Bar(
        steps, desc=desc, total=total, delay=0 if delay == -1 else max(delay, _AFTER), leave=False,
        file=io.StringIO(), bar_format=_FORMAT, mininterval=0.5, miniters=1,
        disable=disable or _hidden,
    )  # fmt: skip


@contextmanager
def hidden() -> Iterator[None]:
    """Show no bars in a notebook: the outputs of a check are the same on a slow machine."""
    global _hidden
    before, _hidden = _hidden, True
    try:
        yield
    finally:
        _hidden = before


class _Output:
    """The one output of the running cell that all its bars share."""

    def __init__(self) -> None:
        self.cell, self.handle = -1, None
        self.lines: dict[int, str] = {}  # of the bars that run, the outermost first

    def show(self, bar: "_Bar", line: str) -> None:
        """Show ``line`` for this bar; an empty one removes it, and the last one stays as text."""
        cell = _shell().execution_count
        if cell != self.cell:  # an earlier cell's bars may have ended by an error
            self.cell, self.handle, self.lines = cell, None, {}
        if line:
            self.lines[id(bar)] = line
        else:
            self.lines.pop(id(bar), None)
        text = "\n".join(self.lines.values()) or f"{bar.desc}: {bar.n:,} of {bar.total or bar.n:,}"
        data = {"text/plain": text}
        if self.handle is None:
            from IPython.display import display

            self.handle = display(data, raw=True, display_id=True)
        else:
            self.handle.update(data, raw=True)


_output = _Output()


class _Bar(tqdm):  # type: ignore[type-arg]
    """tqdm's counting and timing, shown as text in the cell's output."""

    monitor_interval = 0  # no thread: it would write into whichever cell runs

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        _output.show(self, str(self) if msg is None else msg)
        return True


def _shell() -> Any:
    """IPython's shell, or None. It is not imported for this: in a notebook it is there."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython  # type: ignore[attr-defined]

    return get_ipython()
