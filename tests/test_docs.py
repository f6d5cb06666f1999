"""The documents are true: each link leads to a file, and each guard that they name is a test."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
ROWS = [
    line
    for line in (DOCS / "footguns.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| wrong |")
]


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_links_in_the_documents_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\((?!http|#)([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split(" | ")[0].strip("| "))
def test_every_footgun_is_guarded_by_a_test_that_exists(row: str) -> None:
    cells = row.strip("| ").split(" | ")
    assert len(cells) == 4
    files = re.findall(r"\]\((\.\./tests/[^)]+)\)", cells[-1])
    tests = re.findall(r"`(test_\w+)`", cells[-1])
    assert files
    assert tests
    written = "".join((DOCS / file).read_text(encoding="utf-8") for file in files)
    for test in tests:
        assert re.search(rf"^ *def {test}\(", written, re.MULTILINE), test


def test_the_footguns_are_as_many_as_the_document_says() -> None:
    text = (DOCS / "footguns.md").read_text(encoding="utf-8")
    assert f"Each of the {len(ROWS)} rows" in text
