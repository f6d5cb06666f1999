"""Run the lessons from top to bottom: a page for each, a report, and an index of them all."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mathsft.checks import at_least, check_number, unknown_name
from mathsft.settings import runs_folder

_NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def course(
    lessons: Sequence[str] = (), *, output_dir: str | Path = "runs/course", timeout: int = 3600
) -> list[Path]:
    """Execute the lessons' notebooks; pages, ``report.html`` and ``index.html`` show the results.

    Args:
        lessons: names such as ``01_sft``; default: all, in order. None depends on another one.
        output_dir: where the pages go; made if absent.
        timeout: seconds that one cell may take.

    One line says which lesson runs, and how many minutes it took. The notebooks themselves do not
    change. ``MATHSFT_PROFILE`` chooses the recipe, and ``MATHSFT_RUNS`` where runs go. Returns the
    pages, the index last.

    Raises:
        FileNotFoundError: the package was installed without its notebooks.
        ValueError: there is no such lesson.
        ImportError: what runs notebooks is not installed.
        RuntimeError: a cell failed. Its traceback was printed, and the page shows the cells so far.
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
    output_dir.mkdir(parents=True, exist_ok=True)
    done: list[dict[str, Any]] = []
    names = list(lessons or there)
    for number, name in enumerate(names, start=1):
        print(f"lesson {number} of {len(names)}, {name} …", flush=True)
        began = time.perf_counter()
        title = _run(there[name], output_dir / f"{name}.html", timeout)
        minutes = (time.perf_counter() - began) / 60
        print(f"    {minutes:.1f} minutes, {output_dir / name}.html", flush=True)
        done.append({"page": f"{name}.html", "title": title, "minutes": minutes})
    pages = [output_dir / lesson["page"] for lesson in done]
    results = runs_folder() / "results"
    if results.is_dir() and any(results.glob("*.json")):
        from mathsft.evaluation.report import write_report

        pages.append(write_report(results, output_dir / "report.html"))
    pages.append(_index(done, output_dir, report="report.html" if len(pages) > len(done) else None))
    total = sum(lesson["minutes"] for lesson in done)
    print(f"Done in {total:.1f} minutes. Open {pages[-1]} in a browser: it links every page.")
    return pages


def _run(notebook: Path, page: Path, timeout: int) -> str:
    """Execute a notebook and write its page; returns its title. Raises RuntimeError if it fails."""
    # Importing the kernel, here and in its own process, would print a warning on frozen modules.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
        from nbconvert import HTMLExporter
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'mathsft[notebooks]' brings it") from error
    from tqdm.auto import tqdm

    book = nbformat.read(notebook, as_version=4)
    # disable=None: a bar of cells in a terminal, and none in a log file.
    bar = tqdm(total=len(book.cells), unit="cell", leave=False, disable=None)
    client = NotebookClient(
        book,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(notebook.parent)}},
        extra_arguments=["--log-level=ERROR"],  # no warnings about the kernel's transport
        on_cell_complete=lambda **_: bar.update(),
    )
    # Kernels start beside the notebook; runs go to the folder that this process looks into.
    places = {"MATHSFT_RUNS": str(runs_folder().resolve())}
    failed: Exception | None = None
    try:
        client.execute(env=os.environ | places)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        failed = error
    finally:
        bar.close()
    page.write_text(HTMLExporter().from_notebook_node(book)[0], encoding="utf-8")
    if failed is not None:
        print(failed, file=sys.stderr)
        raise RuntimeError(f"{notebook.stem} stopped: the traceback is above, the cells in {page}")
    first = next((cell.source for cell in book.cells if cell.cell_type == "markdown"), "")
    return next((line[2:] for line in first.splitlines() if line[:2] == "# "), notebook.stem)


def _index(lessons: Sequence[dict[str, Any]], folder: Path, *, report: str | None) -> Path:
    """Write ``index.html``, which links the pages of the lessons and the report."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("mathsft.evaluation"), autoescape=select_autoescape(["html", "j2"])
    )
    text = environment.get_template("course.html.j2").render(lessons=lessons, report=report)
    (folder / "index.html").write_text(text, encoding="utf-8")
    return folder / "index.html"
