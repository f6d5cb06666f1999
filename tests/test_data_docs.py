"""docs/data.md is true: each row that it shows is read as the kind that it names."""

import json
import re
from pathlib import Path

import pytest
from problem_rows import jsonl

from mathsft.data.problems import read_problems
from mathsft.data.rows import KINDS, kind_of

TEXT = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| `(\{.*\})` \| (\w+) \|$", TEXT, re.MULTILINE)


@pytest.mark.parametrize(("name", "row", "kind"), ROWS, ids=[name for name, *_ in ROWS])
def test_a_row_of_the_document_is_read_as_it_says(
    tmp_path: Path, name: str, row: str, kind: str
) -> None:
    found, dropped = read_problems(jsonl(tmp_path / "a.jsonl", json.loads(row)))
    assert not dropped
    assert kind_of(found).name == kind


def test_the_document_has_all_kinds() -> None:
    assert {kind for *_, kind in ROWS} == set(KINDS)
    assert len(ROWS) == TEXT.count("\n| ") - 1
