"""The course as a command: pages with outputs, a report, and a lesson that fails."""

from pathlib import Path

import nbformat
import pytest
from result_rows import result

import mathsft.course
from mathsft.course import course


@pytest.fixture
def lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two lessons of one cell each in place of the real ones, which nbval runs."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name, cell in {
        "01_good": "import os; print(6 * 7, os.environ['MATHSFT_RUNS'])",
        "02_bad": "1 / 0",
    }.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
        nbformat.write(notebook, folder / f"{name}.ipynb")
    monkeypatch.setattr(mathsft.course, "_NOTEBOOKS", folder)
    monkeypatch.delenv("MATHSFT_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_course_makes_a_page_a_lesson_and_a_report(lessons: Path, tmp_path: Path) -> None:
    result("base", [1, 0, 1, 0]).save(tmp_path / "runs" / "results")
    before = (lessons / "01_good.ipynb").read_text()
    pages = course(["01_good"], output_dir=tmp_path / "pages")
    assert [page.name for page in pages] == ["01_good.html", "report.html"]
    assert f"42 {tmp_path / 'runs'}" in pages[0].read_text()  # not beside the notebooks
    assert "base" in pages[1].read_text()
    assert (lessons / "01_good.ipynb").read_text() == before


def test_a_lesson_that_fails_stops_the_course_and_says_so(
    lessons: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="02_bad stopped"):
        course(output_dir=tmp_path / "pages")
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_package_without_its_notebooks_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mathsft.course, "_NOTEBOOKS", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="clone the repository"):
        course()
