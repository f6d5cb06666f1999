"""What a phone shows of results: the difference and p without a sideways scroll."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from result_rows import result

from mathsft import compare, exercise, pairs_table, plot_intervals, results_table, write_report
from mathsft.evaluation.results import Result

NAMES = {"base": 0.2, "SFT": 0.22, "multiple <choice>, MathQA + GSM8K": 0.5}


@pytest.fixture(scope="module")
def runs() -> list[Result]:
    draw = np.random.default_rng(0)
    return [result(name, [*(draw.random(200) < share)]) for name, share in NAMES.items()]


def test_a_printed_comparison_is_narrow_and_has_p_next_to_the_difference(
    runs: list[Result],
) -> None:
    found = compare(*runs[:2])
    first, told, *rest = str(found).splitlines()
    assert first == "SFT against base:"
    assert f"{100 * found.difference:+.1f} points" in told
    assert told.endswith(f"p = {found.p:.2g}")
    assert max(map(len, str(found).splitlines())) <= 45
    assert rest[0] == f"{found.gained} gained, {found.lost} lost of 200"
    assert found.line().count("\n") == 0
    alike = replace(found, detectable=1.0)
    assert str(alike).endswith("too few differ for any difference to show")


@pytest.mark.parametrize("table", [results_table, pairs_table])
def test_rows_of_a_table_keep_the_narrow_form_and_picked_columns_are_pandas_own(
    table: Any, runs: list[Result]
) -> None:
    whole = table(runs)
    page = whole._repr_html_()
    assert page.count("<th>") == 3
    assert "multiple &lt;choice&gt;" in page
    assert "&lt; 0.0001" in page
    some = whole[whole["p_holm"] > 0.05]
    assert some._repr_html_().count("<tr>") == len(some) + 1
    assert whole[["difference", "p"]]._repr_html_().count("<td>") == 2 * len(whole)
    texts = whole.map(str)  # numbers that were made into texts
    assert "<th>difference</th>" in texts._repr_html_()


def test_long_names_leave_room_for_the_intervals(runs: list[Result]) -> None:
    figure = plot_intervals({run.name: run.accuracy() for run in runs})
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_position().width > 0.6
    assert all(text.get_fontsize() >= 9 for text in [*axes.texts, *axes.get_yticklabels()])
    assert figure.get_figwidth() <= 5.5
    pyplot.close(figure)


@pytest.mark.slow
def test_a_phone_shows_every_cell_of_the_report_and_of_the_tables(
    runs: list[Result], chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = write_report(runs, tmp_path / "report.html")
    tables = tmp_path / "tables.html"
    pieces = [results_table(runs, reference=True), pairs_table(runs), compare(*runs[1:])]
    monkeypatch.setattr("IPython.display.display", pieces.append)
    with exercise(1):
        raise ValueError("a long message, " * 20 + "long_name" * 20)
    tables.write_text(
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        + "".join(piece._repr_html_() for piece in pieces).replace("<details>", "<details open>"),
        encoding="utf-8",
    )
    shown = {report: "td, figure, p", tables: "td, th, p, div, pre"}
    for path, scheme in ((report, "light"), (report, "dark"), (tables, "light")):
        page = chromium.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
        page.goto(path.as_uri())
        right = "(all) => Math.max(...all.map((one) => one.getBoundingClientRect().right))"
        assert page.locator(shown[path]).evaluate_all(right) <= 390
        ink, back = page.evaluate(
            "['color', 'backgroundColor'].map("
            "(name) => +getComputedStyle(document.body)[name].match(/[0-9]+/)[0])"
        )
        assert path == tables or (ink > 200 > 50 > back if scheme == "dark" else back > 200 > ink)
        page.close()
