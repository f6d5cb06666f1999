"""Run the lessons from top to bottom: a page for each, a report, and an index of them all."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mathsft.checks import at_least, check_number, unknown_name
from mathsft.device import default_profile
from mathsft.files import write_whole
from mathsft.settings import runs_folder

_NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def course(
    lessons: str | Sequence[str] = (),
    *,
    output_dir: str | Path = "runs/course",
    timeout: int = 3600,
) -> list[Path]:
    """Execute the lessons' notebooks; pages, ``report.html`` and ``index.html`` show the results.

    Args:
        lessons: a name such as ``01_sft``, or several; default: all, in order. Each can run on its
            own.
        output_dir: where the pages go; made if absent.
        timeout: seconds that one cell may take.

    One line says which lesson runs, and how many minutes it took. The notebooks themselves do not
    change. ``MATHSFT_PROFILE`` chooses the recipe, and ``MATHSFT_RUNS`` where runs go. Returns the
    pages, the index last.

    Raises:
        FileNotFoundError: the package was installed without its notebooks.
        ValueError: there is no such lesson.
        ImportError: a package that runs notebooks is missing.
        RuntimeError: a cell failed. Its traceback was printed, and the page shows the cells so far.
    """
    check_number("timeout", timeout, at_least(1))
    there = {path.stem: path for path in sorted(_NOTEBOOKS.glob("[0-9]*.ipynb"))}
    if not there:
        raise FileNotFoundError(
            f"{_NOTEBOOKS}: the notebooks are not installed with the package; clone the repository"
        )
    lessons = [lessons] if isinstance(lessons, str) else list(lessons)
    for name in lessons:
        if name not in there:
            raise ValueError(unknown_name("lesson", name, there))
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    minutes: dict[str, float] = {}
    names = list(lessons or there)
    try:
        for number, name in enumerate(names, start=1):
            print(f"lesson {number} of {len(names)}, {name} …", flush=True)
            began = time.perf_counter()
            _run(there[name], output_dir / f"{name}.html", timeout)
            minutes[name] = (time.perf_counter() - began) / 60
            print(f"    {minutes[name]:.1f} minutes, {output_dir / name}.html", flush=True)
        results = runs_folder() / "results"
        if results.is_dir() and any(results.glob("*.json")):
            from mathsft.evaluation.report import write_report

            write_report(results, output_dir / "report.html")
    finally:
        index = _index(there, minutes, output_dir)
    print(f"Done in {sum(minutes.values()):.1f} minutes. Open {index}: it links every page.")
    report = output_dir / "report.html"
    return [*(output_dir / f"{name}.html" for name in names), *[report] * report.exists(), index]


def _run(notebook: Path, page: Path, timeout: int) -> None:
    """Execute a notebook and write its page. Raises RuntimeError if a cell fails."""
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
    code = sum(cell.cell_type == "code" for cell in book.cells)
    bar = tqdm(total=code, unit="cell", leave=False, disable=None)
    client = NotebookClient(
        book,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(notebook.parent)}},
        extra_arguments=["--log-level=ERROR"],  # no warnings about the kernel's transport
        on_cell_executed=lambda **_: bar.update(),
    )
    # Kernels start beside the notebook; runs and recipe are the ones of this process.
    places = {"MATHSFT_RUNS": str(runs_folder().resolve())}
    profile = default_profile()
    if Path(profile).is_file():
        places["MATHSFT_PROFILE"] = str(Path(profile).resolve())
    failed: Exception | None = None
    try:
        client.execute(env=os.environ | places)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        failed = error
    finally:
        bar.close()
    name = {"metadata": {"name": notebook.stem}}  # the page's title
    write_whole(page, HTMLExporter().from_notebook_node(book, name)[0])
    if failed is not None:
        print(failed, file=sys.stderr)
        raise RuntimeError(f"{notebook.stem} stopped: the traceback is above, the cells in {page}")


def _index(notebooks: Mapping[str, Path], minutes: Mapping[str, float], folder: Path) -> Path:
    """Write ``index.html``, which links the pages that are in the folder.

    ``minutes`` are those of the lessons that this call ran; other pages are of earlier calls.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("mathsft.evaluation"), autoescape=select_autoescape(["html", "j2"])
    )
    lessons = [
        {"page": f"{name}.html", "title": _title(path), "minutes": minutes.get(name)}
        for name, path in notebooks.items()
        if (folder / f"{name}.html").exists()
    ]
    report = (folder / "report.html").exists()
    text = environment.get_template("course.html.j2").render(lessons=lessons, report=report)
    return write_whole(folder / "index.html", text)


def _title(notebook: Path) -> str:
    """The first heading of a notebook."""
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    lines = (line for cell in cells for line in cell.source.splitlines())
    return next((line[2:] for line in lines if line.startswith("# ")), notebook.stem)
