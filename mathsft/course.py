"""Run the lessons from top to bottom, and build the site of what they showed."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mathsft.checks import at_least, check_number, unknown_name
from mathsft.device import device_defaults
from mathsft.execution import execute_notebooks
from mathsft.settings import runs_folder
from mathsft.site import check_site_can_be_built, write_site

_NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
# Lesson 04 scores the adapters of these. It would train short versions itself, and which ones
# would depend on what else runs.
_AFTER = {"04_evaluation": ("01_sft", "02_multiple_choice", "03_mathqa_mixing")}


def course(
    lessons: str | Sequence[str] = (),
    *,
    output_dir: str | Path = "runs/course",
    timeout: int = 3600,
    workers: int | None = None,
) -> list[Path]:
    """Execute the lessons' notebooks and build a site of them, with a report of all results.

    Args:
        lessons: a name such as ``01_sft``, or several; default: all, in order. Each can run on its
            own.
        output_dir: where the executed notebooks and ``report.html`` go, and the site in ``site``;
            made if absent.
        timeout: seconds that one cell may take.
        workers: how many lessons run at once. Default: 2, or 1 if there is one CPU core, or a GPU,
            whose memory they would share. Lessons that run at once use one thread each
            (``OMP_NUM_THREADS``, if it is not set).

    A line says which lesson starts, and another how many minutes it took. The notebooks themselves
    do not change. ``MATHSFT_PROFILE`` chooses the recipe, and ``MATHSFT_RUNS`` where runs go.
    Lessons that an earlier call executed into ``output_dir`` stay in the site. Returns the executed
    notebooks, the report if there are results, and the site's first page.

    Raises:
        FileNotFoundError: the package was installed without its notebooks.
        ValueError: there is no such lesson.
        ImportError: a package that runs notebooks or builds the site is missing.
        RuntimeError: a cell failed. Its traceback was printed, the page shows the cells so far, and
            lessons that had not started do not run.
    """
    check_number("timeout", timeout, at_least(1))
    if workers is None:
        workers = 1 if device_defaults().capability else min(2, os.cpu_count() or 1)
    check_number("workers", workers, at_least(1))
    there = {path.stem: path for path in sorted(_NOTEBOOKS.glob("[0-9]*.ipynb"))}
    if not there:
        raise FileNotFoundError(
            f"{_NOTEBOOKS}: the notebooks are not installed with the package; clone the repository"
        )
    lessons = [lessons] if isinstance(lessons, str) else list(lessons)
    for name in lessons:
        if name not in there:
            raise ValueError(unknown_name("lesson", name, there))
    check_site_can_be_built()
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    names = list(lessons or there)
    began = time.perf_counter()
    run = execute_notebooks(
        {name: there[name] for name in names},
        output_dir,
        timeout=timeout,
        workers=workers,
        after=_AFTER,
    )
    made = [path for name in there if (path := output_dir / f"{name}.ipynb").exists()]
    report = _report(output_dir)
    index = write_site(
        output_dir / "site",
        notebooks={f"notebooks/{path.stem}": path for path in made},
        run=_about(there, made, run.minutes, report=bool(report)),
        files=report,
        root=_NOTEBOOKS.parent,
    )
    minutes = (time.perf_counter() - began) / 60
    print(f"Done in {minutes:.1f} minutes. Open {index}: it has every page.", flush=True)
    for name, error in run.failed.items():
        print(f"\n{name}:\n{error}", file=sys.stderr)
    if run.failed:
        raise RuntimeError(
            f"{', '.join(run.failed)} stopped: the traceback is above, the cells in {index}"
        )
    return [*(output_dir / f"{name}.ipynb" for name in names), *report[:1], index]


def _report(folder: Path) -> list[Path]:
    """The report and its table, if there are results."""
    results = runs_folder() / "results"
    if not results.is_dir() or not any(results.glob("*.json")):
        return []
    from mathsft.evaluation.report import write_report

    page = write_report(results, folder / "report.html")
    return [page, page.with_suffix(".csv")]


def _about(
    there: Mapping[str, Path], made: Sequence[Path], minutes: Mapping[str, float], *, report: bool
) -> str:
    """The site's page about this run; lessons without minutes are of an earlier call."""
    lines = ["# The course as it ran here", "", "| lesson | minutes |", "|---|---|"]
    for path in made:
        took = f"{minutes[path.stem]:.1f}" if path.stem in minutes else "from an earlier run"
        lines.append(f"| [](notebooks/{path.name}) | {took} |")
    if report:
        lines += [
            "",
            '<a href="report.html">All results on one page</a>: accuracies with their intervals,',
            "and which differences are real.",
        ]
    return "\n".join(lines) + "\n"
