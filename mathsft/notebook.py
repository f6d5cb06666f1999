"""What lessons show: whether an exercise is solved, and figures with a text for those who hear it.

A notebook with unsolved exercises still runs to its end, for learners and for teachers.
"""

import html
import io
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mathsft.bars import hidden

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 110  # legible on a phone, and some 20 kB a figure
_BOX = (
    '<div role="status" style="border-left:5px solid {colour};border-radius:4px;max-width:44rem;'
    'padding:.5em .9em;margin:.4em 0;background:{colour}1f;overflow-wrap:anywhere">'
    '<span aria-hidden="true">{mark} </span><b>{title}</b>{rest}</div>'
)


class _Box:
    """Shown as a box in a notebook, as text in a terminal."""

    def __init__(self, title: str, told: str, trace: str, *, solved: bool) -> None:
        self._title, self._told, self._trace, self._solved = title, told, trace, solved

    def __repr__(self) -> str:
        return f"{self._title}: {self._told}" if self._told else self._title

    def _repr_html_(self) -> str:
        told = html.escape(self._told)
        rest = f'<div style="white-space:pre-line">{told}</div>' if told else ""
        if self._trace:
            text = html.escape(self._trace)
            rest += "<details><summary>where</summary>"
            rest += f'<pre style="white-space:pre-wrap">{text}</pre></details>'
        colour = "#3c9a42" if self._solved else "#c77a00"  # both show on white and on black
        mark = "✓" if self._solved else "○"
        return _BOX.format(colour=colour, mark=mark, title=html.escape(self._title), rest=rest)


@contextmanager
def exercise(number: int | str) -> Iterator[None]:
    """Run the checks inside; show "solved", or "not solved yet" with the message of what failed.

    Args:
        number: the exercise's number or name.

    An exception inside is shown and goes no further, so the cells below still run. If it is not an
    `assert` of the check, the box has the traceback folded away. Ctrl-C still interrupts.
    """
    name, told, trace, solved = f"Exercise {number}", "", "", False
    try:
        with hidden():
            yield
        solved = True
    except AssertionError as error:
        told = str(error)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        trace = traceback.format_exc()
    _show(_Box(f"{name}: {'solved' if solved else 'not solved yet'}", told, trace, solved=solved))


def show_figure(alt: str, figure: "Figure | None" = None) -> None:
    """Show a figure with an alternative text, which screen readers speak, and close it.

    Args:
        alt: what the figure shows, in a sentence or two. Notebook pages and the site keep it.
        figure: default: matplotlib's current figure.

    Raises ValueError if there is no text, or no figure.
    """
    from matplotlib import pyplot

    if not alt.strip():
        raise ValueError(f"alt={alt!r}: say in a sentence what the figure shows")
    if figure is None and not pyplot.get_fignums():
        raise ValueError("there is no figure to show: draw one first, in the same cell")
    figure = figure or pyplot.gcf()
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=_DPI, bbox_inches="tight", facecolor="white")
    pyplot.close(figure)
    try:
        from IPython.display import Image, display
    except ImportError:
        print(alt)
    else:
        display(Image(data.getvalue(), alt=alt))


def _show(box: _Box) -> None:
    try:
        from IPython.display import display
    except ImportError:
        print(box)
    else:
        display(box)
