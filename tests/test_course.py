"""The `course` command: executed notebooks, a site of them, a report, and a lesson that fails."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from result_rows import result

import mathsft.course
from mathsft.course import course
from mathsft.execution import execute_notebooks

# Only the newest stack has the packages that build the site.
pytestmark = pytest.mark.same_everywhere

ROOT = Path(__file__).resolve().parent.parent


def write(folder: Path, name: str, code: str) -> Path:
    cells = [nbformat.v4.new_markdown_cell("# A & B"), nbformat.v4.new_code_cell(code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture
def lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two lessons of one cell each instead of the real ones, which nbval runs."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write(folder, "01_good", "import os; print(6 * 7, os.environ['MATHSFT_RUNS'])")
    write(folder, "02_bad", "print('before')\n1 / 0")
    monkeypatch.setattr(mathsft.course, "_NOTEBOOKS", folder)
    monkeypatch.delenv("MATHSFT_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.slow
def test_a_course_makes_a_site_of_what_it_ran_and_a_report(
    lessons: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result("base", [1, 0, 1, 0]).save(tmp_path / "runs" / "results")
    before = (lessons / "01_good.ipynb").read_text()
    made = course(["01_good"], output_dir=tmp_path / "pages", workers=1)
    site = tmp_path / "pages" / "site"
    assert made == [
        tmp_path / "pages" / "01_good.ipynb",
        tmp_path / "pages" / "report.html",
        site / "index.html",
    ]
    page = (site / "notebooks" / "01_good.html").read_text()
    assert f"42 {tmp_path / 'runs'}" in page  # not beside the notebooks
    assert "<h1>A &amp; B" in page
    assert "base" in (site / "report.html").read_text()
    assert (lessons / "01_good.ipynb").read_text() == before
    about = (site / "run.html").read_text()
    assert 'href="report.html"' in about
    assert 'href="notebooks/01_good.html"' in about
    said = capfd.readouterr()
    assert re.search(r"01_good took \d\.\d minutes \(1 of 1\)", said.out)
    assert f"Open {site / 'index.html'}" in said.out
    assert said.err == ""  # no warning of Jupyter's


@pytest.mark.slow
def test_a_lesson_that_fails_stops_the_course_and_says_so(
    lessons: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(lessons, "03_late", "1")
    with pytest.raises(RuntimeError, match="02_bad stopped"):
        course(output_dir=tmp_path / "pages", workers=1)
    assert "ZeroDivisionError" in capfd.readouterr().err
    page = (tmp_path / "pages" / "site" / "notebooks" / "02_bad.html").read_text()
    assert "before" in page
    assert "ZeroDivisionError" in page
    assert not (tmp_path / "pages" / "03_late.ipynb").exists()
    about = (tmp_path / "pages" / "site" / "run.html").read_text()  # also of what ran before
    assert about.index("notebooks/01_good.html") < about.index("notebooks/02_bad.html")


@pytest.mark.slow
def test_lessons_run_two_at_a_time_and_one_that_needs_others_comes_after_them(
    tmp_path: Path,
) -> None:
    """1 and 2 only end if they run together: each waits for the other's file."""
    meet = """
import os, pathlib, time
pathlib.Path("at{}").touch()
while not pathlib.Path("at{}").exists():
    time.sleep(0.05)
print(os.environ["OMP_NUM_THREADS"])
"""
    cells = {
        "1": meet.format(1, 2),
        "2": meet.format(2, 1) + "time.sleep(1); pathlib.Path('end2').touch()",
        "3": "import pathlib; assert pathlib.Path('end2').exists()",
        "4": "1",
    }
    made = execute_notebooks(
        {name: write(tmp_path, name, code) for name, code in cells.items()},
        tmp_path,
        timeout=60,
        workers=2,
        after={"3": ["2", "0"]},
    )
    assert not made.failed
    assert made.minutes.keys() == cells.keys()
    text = json.loads((tmp_path / "1.ipynb").read_text())["cells"][1]["outputs"][0]["text"]
    assert text == [f"{os.environ.get('OMP_NUM_THREADS', '1')}\n"]


@pytest.mark.slow
def test_ctrl_c_stops_the_kernels_of_all_lessons(tmp_path: Path) -> None:
    for name in "12":
        write(tmp_path, name, f"open('at{name}', 'w').close(); import time; time.sleep(600)")
    code = (
        "from pathlib import Path; from mathsft.execution import execute_notebooks as run;"
        "run({n: Path(n + '.ipynb') for n in '12'}, Path(), timeout=900, workers=2, after={})"
    )
    script = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not ((tmp_path / "at1").exists() and (tmp_path / "at2").exists()):
        assert script.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    kernels = psutil.Process(script.pid).children(recursive=True)
    assert len(kernels) == 2
    script.send_signal(signal.SIGINT)
    _, told = script.communicate(timeout=60)
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert not any(kernel.is_running() for kernel in kernels)


def test_a_package_without_its_notebooks_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mathsft.course, "_NOTEBOOKS", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="clone the repository"):
        course()


def test_without_the_site_s_packages_no_lesson_starts(
    lessons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "myst_nb", None)
    with pytest.raises(ImportError, match=r"mathsft\[site\]"):
        course(output_dir=tmp_path / "pages")
    assert not (tmp_path / "pages").exists()
