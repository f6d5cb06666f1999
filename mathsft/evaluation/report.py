"""Write all results on one page: an HTML file that opens offline and on a phone."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mathsft.evaluation.compare import compare_all
from mathsft.evaluation.intervals import wilson_share
from mathsft.evaluation.plots import plot_intervals
from mathsft.evaluation.results import Result, accuracy_by, load_results
from mathsft.evaluation.tables import PUBLIC_EXPERIMENT, QUESTIONS, SOURCE, results_table, write_csv


def write_report(
    results: str | Path | Sequence[Result],
    path: str | Path = "report.html",
    *,
    base: str = "base",
    reference: bool = True,
) -> Path:
    """Write one self-contained HTML page, and a CSV file of the same name beside it.

    The page has a section for each task and each set of its questions: the table of runs, a plot
    with intervals and the chance level, the pairs of runs with McNemar's p corrected for their
    number, and accuracy by category. The end of the page says how and where each run was made.

    Args:
        results: a folder of results (`load_results`), or a list of results.
        path: the page to write; it needs no other file and no network.
        base: the run that the others are compared with; if a task has no run of that name, the
            first one evaluated.
        reference: also show the public experiment's numbers, marked as not ours.

    Raises:
        ValueError: there is no result, or what `results_table` raises.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    if isinstance(results, str | Path):
        results = load_results(results)
    if not results:
        raise ValueError("there is no result to report: evaluate(..., folder=...) saves some")
    path = Path(path)
    environment = Environment(
        loader=PackageLoader("mathsft.evaluation"), autoescape=select_autoescape(["html", "j2"])
    )
    environment.filters |= {"short": _short, "percent": _percent, "points": _points, "p": _p}
    page = environment.get_template("report.html.j2").render(
        sections=[_section(some, base) for some in by_questions(results) if _judged(some[0])],
        public=_public() if reference else None,
        source=SOURCE,
        runs=sorted(results, key=lambda r: r.date),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    write_csv(results, path.with_suffix(".csv"))
    return path


def by_questions(results: Sequence[Result]) -> list[list[Result]]:
    """Group results that can be compared: same task, questions and number of examples."""

    def key(result: Result) -> tuple[str, int, int, list[str]]:
        return result.task, result.num_fewshot, -len(result.questions), result.ids

    return [list(some) for _, some in groupby(sorted(results, key=key), key=key)]


def _judged(result: Result) -> bool:
    """Whether each question is either right or wrong; a perplexity, for example, is neither."""
    return all(q["metrics"].get(result.metric) in (0, 1) for q in result.questions)


def _section(results: list[Result], base: str) -> dict[str, Any]:
    """What the page says about one task's runs: the base first, then the others by date."""
    results = sorted(results, key=lambda r: (r.name != base, r.date))
    categories = sorted({q["category"] for q in results[0].questions} - {""})
    metric = results[0].metric
    shares = {result.name: result.accuracy(metric) for result in results}
    chance = results[0].chance
    return {
        "task": results[0].task,
        "shots": results[0].num_fewshot,
        "metric": metric,
        "base": results[0].name,
        "rows": results_table(results, metric=metric).to_dict("records"),
        "plot": _svg(plot_intervals(shares, chance=None if math.isnan(chance) else chance)),
        "pairs": compare_all(results, metric=metric),
        "categories": categories,
        "by_category": [(result.name, accuracy_by(result, metric=metric)) for result in results],
    }


def _public() -> dict[str, Any]:
    shares = {other.name: wilson_share(other.accuracy, QUESTIONS) for other in PUBLIC_EXPERIMENT}
    notes = {other.name: other.note for other in PUBLIC_EXPERIMENT}
    return {
        "rows": [(name, share, notes[name]) for name, share in shares.items()],
        "plot": _svg(plot_intervals(shares, chance=0.2, colour="#777777")),
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
