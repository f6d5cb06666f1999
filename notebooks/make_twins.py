"""Write each notebook's cells as a Python file, which a review can read.

    python notebooks/make_twins.py

The files in ``percent/`` have no outputs, and of the metadata only the tags
of cells. Lines such as "!pip install" stay as they are: the files are for
reading and do not run. The notebooks remain what is edited.
"""

from pathlib import Path

import jupytext
import nbformat

NOTEBOOKS = Path(__file__).resolve().parent
TWINS = NOTEBOOKS / "percent"
# No version of jupytext or of the kernel, so that only cells change a file.
ONLY = {
    "notebook_metadata_filter": "-all",
    "cell_metadata_filter": "tags,-all",
    "comment_magics": False,
}


def twins() -> dict[Path, str]:
    """The file of each lesson's and each solution's twin, and its text."""
    found = sorted(NOTEBOOKS.glob("[0-9]*.ipynb")) + sorted(
        NOTEBOOKS.glob("solutions/*.ipynb")
    )
    return {
        TWINS / path.relative_to(NOTEBOOKS).with_suffix(".py"): twin(path)
        for path in found
    }


def twin(path: Path) -> str:
    """A notebook in the percent format."""
    book = nbformat.read(path, as_version=4)
    book.metadata = {"jupytext": ONLY}
    return jupytext.writes(book, fmt="py:percent")


def main() -> None:
    """Write all twins, and remove those of notebooks that are gone."""
    made = twins()
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in set(TWINS.rglob("*.py")) - made.keys():
        path.unlink()


if __name__ == "__main__":
    main()
