"""The documents are true: each link leads to a file, and each guard that they name is a test."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from mathsft.cli import COMMANDS
from mathsft.command_line import split
from mathsft.recipes import shipped_recipes

DOCS = Path(__file__).resolve().parent.parent / "docs"


def rows(page: str, head: str) -> list[str]:
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("| ") and not line.startswith(f"| {head} |")]


ROWS, PROMISES = rows("footguns.md", "wrong"), rows("reliability.md", "promise")
FEATURES = rows("features.md", "feature")


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_links_in_the_documents_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\((?!http|#)([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize(
    ("row", "columns"),
    [*((row, 4) for row in ROWS), *((row, 2) for row in PROMISES), *((row, 3) for row in FEATURES)],
    ids=lambda row: row.split(" | ")[0].strip("| ") if isinstance(row, str) else "",
)
def test_what_is_guarded_or_promised_has_a_test_that_exists(row: str, columns: int) -> None:
    cells = row.strip("| ").split(" | ")
    assert len(cells) == columns
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


@pytest.mark.parametrize("row", FEATURES, ids=lambda row: row.split(" | ")[0].strip("| "))
def test_the_command_of_a_feature_parses_and_its_name_exists(row: str) -> None:
    commands = re.findall(r"`([^`]+)`", row.strip("| ").split(" | ")[1])
    assert commands
    for command in commands:
        program, *given = shlex.split(command)
        if program == "bash":
            assert (DOCS.parent / given[0]).exists()
        elif program == "mathsft":
            name, *options = given
            (how, about) = COMMANDS[name]
            asked = next(how(about, options))
            named, _ = split([one for one in options if one != "--print_config"])
            for key, text in named:
                # Files named `mine` are the reader's own; all other options are read.
                if not (key == "config" and text == "mine.yaml"):
                    assert key in ("config", "check") or asked._value(key, text)
            for key, text in named:
                assert key != "config" or text == "mine.yaml" or text in shipped_recipes()
        else:
            module, _, attribute = program.rpartition(".")
            assert hasattr(import_module(module), attribute)
