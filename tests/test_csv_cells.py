"""A spreadsheet that opens our CSV files computes nothing that a name or a model says."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from result_rows import result

from mathsft.evaluation.tables import write_csv
from mathsft.files import inert


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"), ("+a", "'+a"), ("-a", "'-a"), ("@SUM(1)", "'@SUM(1)"), ("\t=1", "'\t=1"),
        ("  =1", "'  =1"), ("\r=1", "'\r=1"), ("\uff1d1", "'\uff1d1"), ("-0.5", "-0.5"),
        ("+1e-3", "+1e-3"), ("-inf", "-inf"), ("a=1", "a=1"), ("", ""), (-0.5, -0.5), (True, True),
    ],
)  # fmt: skip
def test_no_cell_of_a_csv_file_is_a_formula(text: Any, cell: Any) -> None:
    assert inert(text) == cell


def test_names_in_a_csv_file_are_not_computed_and_numbers_stay_numbers(tmp_path: Path) -> None:
    name = '=HYPERLINK("http://x","y")'
    odd = replace(result(name, [1, 0]), harness={"=a,none": -0.5}, model="@m", adapter="-2+3")
    (row,) = csv.DictReader(write_csv([odd], tmp_path / "new" / "r.csv").open(newline=""))
    assert (row["run"], row["model"], row["adapter"]) == (f"'{name}", "'@m", "'-2+3")
    assert row["'=a,none"] == "-0.5"
    assert [*tmp_path.joinpath("new").iterdir()] == [tmp_path / "new" / "r.csv"]
