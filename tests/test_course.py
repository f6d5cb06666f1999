"""The `course` command: pages with outputs, a report, and a lesson that fails."""

import re
from pathlib import Path

import nbformat
import pytest
from result_rows import result

import mathsft.course
from mathsft.course import course


@pytest.fixture
def lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two lessons of one cell each instead of the real ones, which nbval runs."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name, cell in {
        "01_good": "import os; print(6 * 7, os.environ['MATHSFT_RUNS'])",
        "02_bad": "1 / 0",
    }.items():
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_markdown_cell("# A & B"), nbformat.v4.new_code_cell(cell)]
        )
        nbformat.write(notebook, folder / f"{name}.ipynb")
    monkeypatch.setattr(mathsft.course, "_NOTEBOOKS", folder)
    monkeypatch.delenv("MATHSFT_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_course_makes_a_page_a_lesson_a_report_and_an_index(
    lessons: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result("base", [1, 0, 1, 0]).save(tmp_path / "runs" / "results")
    before = (lessons / "01_good.ipynb").read_text()
    pages = course(["01_good"], output_dir=tmp_path / "pages")
    assert [page.name for page in pages] == ["01_good.html", "report.html", "index.html"]
    assert f"42 {tmp_path / 'runs'}" in pages[0].read_text()  # not beside the notebooks
    assert "base" in pages[1].read_text()
    assert (lessons / "01_good.ipynb").read_text() == before
    index = pages[2].read_text()
    assert '<a href="01_good.html">A &amp; B</a>' in index  # the title, escaped
    assert 'href="report.html"' in index
    said = capfd.readouterr()
    assert "lesson 1 of 1, 01_good" in said.out
    assert re.search(r"\d\.\d minutes", said.out)
    assert said.err == ""  # no warning of Jupyter's


@pytest.mark.slow
def test_a_lesson_that_fails_stops_the_course_and_says_so(
    lessons: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="02_bad stopped"):
        course(output_dir=tmp_path / "pages")
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert "ZeroDivisionError" in (tmp_path / "pages" / "02_bad.html").read_text()
    index = (tmp_path / "pages" / "index.html").read_text()  # also of what ran before
    assert index.index("01_good.html") < index.index("02_bad.html")


def test_a_package_without_its_notebooks_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mathsft.course, "_NOTEBOOKS", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="clone the repository"):
        course()
