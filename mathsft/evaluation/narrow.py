"""Tables that a phone can show: three columns, with the difference and p in view at 390 px."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import pandas as pd

_NOTE = (
    "Points: percentage points, with the 95 % interval. Bold: p, corrected for the other "
    "comparisons (Holm), is below 0.05."
)
_CELL = "padding:.2em .4em;vertical-align:top;"
_LEFT = f"{_CELL}text-align:left;white-space:normal"
_RIGHT = f"{_CELL}text-align:right;white-space:nowrap"
# What a cell says: a line, and smaller ones below it.
Cell = Sequence[str]


def narrow_html(head: Sequence[str], rows: Iterable[tuple[Sequence[Cell], bool]]) -> str:
    """The table as HTML; the page's own colours are used.

    Args:
        head: the names of the columns; the first is for texts, the others for numbers.
        rows: for each row its cells, and whether it is bold.
    """
    lines = [f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"]
    for cells, strong in rows:
        shown = []
        for place, (first, *more) in enumerate(cells):
            text = f"<b>{escape(first)}</b>" if strong else escape(first)
            small = "".join(f"<br><small>{escape(line)}</small>" for line in more if line)
            shown.append(f'<td style="{_RIGHT if place else _LEFT}">{text}{small}</td>')
        lines.append(f"<tr>{''.join(shown)}</tr>")
    top, rest = lines[0], "\n".join(lines[1:])
    return (
        f'<table class="dataframe"><thead>{top}</thead>\n<tbody>{rest}</tbody></table>\n'
        f'<p style="max-width:30rem"><small>{_NOTE}</small></p>'
    )


def pair_cells(pair: Any) -> tuple[list[Cell], bool]:
    """The row of a comparison: an object or a table's row with the fields of a `Comparison`."""
    counts = f"{pair.gained:,} gained, {pair.lost:,} lost"
    difference, low, high = pair.difference, pair.low, pair.high
    if pair.right_or_wrong:
        points = [_points(difference), _interval(_points(low), _points(high), low), counts]
    else:
        points = [f"{difference:+.3g}", _interval(f"{low:+.3g}", f"{high:+.3g}", low), counts]
    return [[str(pair.b), f"against {pair.a}"], points, [_p(pair.p_holm)]], pair.p_holm < 0.05


class ResultsTable(pd.DataFrame):
    """A pandas table of runs; a notebook shows the run, the difference and p in three columns.

    If columns are picked, or numbers made into texts, it is shown as any other pandas table.
    """

    @property
    def _constructor(self) -> Any:
        return type(self)

    def _narrow(self) -> str:
        several = "task" in self.columns
        rows = []
        for row in self.itertuples():
            whole = [str(row.run), f"{_percent(row.accuracy)} [{_between(row.low, row.high)}]"]
            if several and isinstance(row.task, str):
                shots = f", {row.num_fewshot:.0f}-shot" if row.num_fewshot else ""
                whole.append(f"{row.task}{shots}")
            points = [_points(row.difference)]
            points += [_interval(_points(row.diff_low), _points(row.diff_high), row.diff_low)]
            if row.whose != "ours":
                whole.append(str(row.whose))
            rows.append(([whole, points, [_p(row.p_holm)]], row.p_holm < 0.05))
        return narrow_html(["run, accuracy", "points", "p"], rows)

    def _repr_html_(self) -> str | None:
        try:
            return self._narrow()
        except (AttributeError, TypeError, ValueError):  # without its columns, or of texts
            usual: str | None = super()._repr_html_()  # type: ignore[operator]
            return usual


class PairsTable(ResultsTable):
    """As `ResultsTable`, with a row for each comparison."""

    def _narrow(self) -> str:
        return narrow_html(["run", "points", "p"], map(pair_cells, self.itertuples()))


def _points(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:+.1f}".replace("-", "−")


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.1f} %"


def _between(low: float, high: float) -> str:
    return f"{100 * low:.1f}, {100 * high:.1f}"


def _interval(low: str, high: str, number: float) -> str:
    return "" if math.isnan(number) else f"[{low}, {high}]"


def _p(value: float) -> str:
    if math.isnan(value):
        return ""
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"
