"""Write all results on one page: an HTML file that opens offline and on a phone."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mathsft.evaluation.compare import compare_some
from mathsft.evaluation.intervals import wilson_share
from mathsft.evaluation.plots import plot_intervals
from mathsft.evaluation.result import shares
from mathsft.evaluation.results import (
    Result,
    accuracy_by,
    apart,
    by_questions,
    read_results,
    shared_metric,
)
from mathsft.evaluation.tables import (
    PUBLIC_EXPERIMENT,
    QUESTIONS,
    SOURCE,
    table_and_refused,
    write_csv,
)
from mathsft.files import write_whole
from mathsft.processes import say

MOST_IN_PAIRS = 20  # runs of which each pair is shown: 190 pairs


def write_report(
    results: str | Path | Sequence[Result],
    path: str | Path = "report.html",
    *,
    base: str = "base",
    reference: bool = True,
) -> Path:
    """Write one self-contained HTML page, and a CSV file of the same name beside it.

    The page has a section for each task and each set of its questions: the table of runs, a plot
    with intervals and the chance level, the pairs of runs with p corrected for their number (for
    up to 20 runs), and accuracy by category. The end of the page says how and where each run was
    made. What cannot be shown or compared is named on the page: damaged files, metrics that are
    not 0 to 1, runs with exactly the scores of another.

    Args:
        results: a folder of results (`load_results`), or a list of results.
        path: the page to write; it needs no other file and no network.
        base: the run that the others are compared with; if a task has no run of that name, the
            first one evaluated.
        reference: also show the public experiment's numbers, marked as not ours.

    Raises:
        ValueError: there is no result.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    damaged: list[str] = []
    if isinstance(results, str | Path):
        results, damaged = read_results(results)
    for told in damaged:
        say(f"left out of the report: {told}")
    if not results:
        what = damaged[0] if damaged else "evaluate(..., folder=...) saves some"
        raise ValueError(f"there is no result to report: {what}")
    environment = Environment(
        loader=PackageLoader("mathsft.evaluation"), autoescape=select_autoescape(["html", "j2"])
    )
    environment.filters |= {"short": _short, "percent": _percent, "points": _points, "p": _p}
    groups = by_questions(results)
    page = environment.get_template("report.html.j2").render(
        sections=[_section(some, base) for some in groups if not _untold(some)],
        damaged=damaged,
        untold=[why for some in groups if (why := _untold(some))],
        public=_public() if reference else None,
        source=SOURCE,
        runs=sorted(results, key=lambda r: r.date),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    path = write_whole(path, page)
    write_csv(results, path.with_suffix(".csv"))
    return path


def _untold(results: Sequence[Result]) -> str:
    """Why these runs have no section; "" if they have one."""
    task, names = results[0].task, ", ".join(result.name for result in results)
    try:
        metric = shared_metric(results)
        if all(shares(result.values(metric)) for result in results):
            return ""
    except ValueError as error:
        return f"{task} ({names}): {error}"
    return f"{task} ({names}): {metric} is not 0 to 1 for each question"


def _section(results: list[Result], base: str) -> dict[str, Any]:
    """What the page says about one task's runs: the base first, then the others by date."""
    results = apart(sorted(results, key=lambda r: (r.name != base, r.date)))
    categories = sorted({q["category"] for result in results for q in result.questions} - {""})
    metric = shared_metric(results)
    means = {result.name: result.mean(metric) for result in results}
    judged = all({*result.values(metric)} <= {0, 1} for result in results)
    chance = results[0].chance
    table, refused = table_and_refused(results, metric=metric)
    few = len(results) <= MOST_IN_PAIRS
    return {
        "task": results[0].task,
        "shots": results[0].num_fewshot,
        "metric": metric,
        "judged": judged,
        "base": results[0].name,
        "rows": table.to_dict("records"),
        "refused": refused,
        "plot": _svg(plot_intervals(means, chance=None if math.isnan(chance) else chance)),
        "pairs": compare_some(results, metric=metric)[0] if few else [],
        "count": len(results) * (len(results) - 1) // 2,
        "few": few,
        "categories": categories if judged else [],
        "by_category": [(r.name, accuracy_by(r, metric=metric)) for r in results if judged],
    }


def _public() -> dict[str, Any]:
    found = {other.name: wilson_share(other.accuracy, QUESTIONS) for other in PUBLIC_EXPERIMENT}
    notes = {other.name: other.note for other in PUBLIC_EXPERIMENT}
    return {
        "rows": [(name, share, notes[name]) for name, share in found.items()],
        "plot": _svg(plot_intervals(found, chance=0.2, colour="#777777")),
    }


def _svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` tag; the page's style limits its width."""
    from matplotlib import pyplot

    drawn = StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]


def _short(name: str) -> str:
    """The last part of a path or of a hub name."""
    return Path(name).name


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:+.1f}".replace("-", "−")


def _p(value: float) -> str:
    if math.isnan(value):
        return ""
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"
