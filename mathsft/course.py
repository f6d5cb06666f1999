"""Run the lessons from top to bottom, each in a page of its own, and report what they measured."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mathsft.checks import at_least, check_number, unknown_name
from mathsft.settings import runs_folder

_NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def course(
    lessons: Sequence[str] = (), *, output_dir: str | Path = "runs/course", timeout: int = 3600
) -> list[Path]:
    """Execute the lessons' notebooks; their pages and ``report.html`` go to ``output_dir``.

    Args:
        lessons: names such as ``01_sft``; default: all, in order. None depends on another one.
        output_dir: made if absent.
        timeout: seconds that one cell may take.

    The notebooks themselves stay as they are. ``MATHSFT_PROFILE`` chooses the recipe, and
    ``MATHSFT_RUNS`` where runs go. Returns the pages.

    Raises:
        FileNotFoundError: the package was installed without its notebooks.
        ValueError: there is no such lesson.
        RuntimeError: a cell failed; its traceback was printed.
    """
    check_number("timeout", timeout, at_least(1))
    there = {path.stem: path for path in sorted(_NOTEBOOKS.glob("[0-9]*.ipynb"))}
    if not there:
        raise FileNotFoundError(
            f"{_NOTEBOOKS}: the notebooks are not installed with the package; clone the repository"
        )
    for name in lessons:
        if name not in there:
            raise ValueError(unknown_name("lesson", name, there))
    output_dir = Path(output_dir)
    pages = []
    for name in lessons or there:
        command = [sys.executable, "-m", "nbconvert", "--to", "html", "--execute"]
        command += ["--output-dir", str(output_dir), str(there[name])]
        command += [f"--ExecutePreprocessor.timeout={timeout}"]
        # Kernels start beside the notebook; runs go where they are looked for below.
        places = os.environ | {"MATHSFT_RUNS": str(runs_folder().resolve())}
        if subprocess.run(command, env=places, check=False).returncode:
            raise RuntimeError(f"{name} stopped; its traceback is above")
        pages.append(output_dir / f"{name}.html")
    results = runs_folder() / "results"
    if results.is_dir() and any(results.glob("*.json")):
        from mathsft.evaluation.report import write_report

        pages.append(write_report(results, output_dir / "report.html"))
    print("Done. Open these in a browser:", *pages, sep=os.linesep)
    return pages
