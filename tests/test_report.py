"""Tables, the CSV and the page show what the results say, and need no other file."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from result_rows import result

from mathsft.evaluation import plots, report
from mathsft.evaluation.compare import compare
from mathsft.evaluation.intervals import wilson_interval
from mathsft.evaluation.report import write_report
from mathsft.evaluation.results import Result
from mathsft.evaluation.tables import PUBLIC_EXPERIMENT, pairs_table, results_table, write_csv


@pytest.fixture(scope="module")
def runs() -> list[Result]:
    draw = np.random.default_rng(0)
    shares = {"base": 0.2, "SFT": 0.22, "multiple <choice> & more": 0.5}
    return [result(name, [*(draw.random(200) < p)]) for name, p in shares.items()]


@pytest.mark.slow
def test_a_table_holds_each_run_s_accuracy_and_difference_to_the_base(runs: list[Result]) -> None:
    table = results_table(runs).set_index("run")
    assert [*table.index] == [run.name for run in runs]
    for run in runs[1:]:
        found, row = compare(runs[0], run), table.loc[run.name]
        assert row["accuracy"] == pytest.approx(run.accuracy().accuracy)
        assert row["difference"] == pytest.approx(found.difference)
        assert (row["low"], row["high"]) == pytest.approx(run.accuracy()[1:3])
        assert row["p"] == pytest.approx(found.p)
        assert (row["n"], row["chance"]) == (len(run.questions), pytest.approx(run.chance))
        assert row["p_holm"] >= row["p"]
    assert math.isnan(table.loc["base", "difference"])
    assert set(table["whose"]) == {"ours"}
    other = results_table(runs, base="SFT").set_index("run")
    assert other.loc["base", "difference"] == pytest.approx(-table.loc["SFT", "difference"])


def test_published_numbers_are_marked_as_not_ours_and_paired_with_nothing(
    runs: list[Result],
) -> None:
    table = results_table(runs, reference=True)
    theirs = table[table["whose"] != "ours"]
    assert len(theirs) == len(PUBLIC_EXPERIMENT)
    assert theirs["whose"].str.startswith("not ours").all()
    assert theirs[["difference", "p", "p_holm"]].isna().all(axis=None)
    assert "notebooks" in table.attrs["not ours"]
    # The correction of p counts our rows only.
    assert table["p_holm"].dropna().tolist() == results_table(runs)["p_holm"].dropna().tolist()
    base, tuned = (next(r for r in PUBLIC_EXPERIMENT if r.name == n)
                   for n in ("0.5B base", "0.5B multiple choice"))  # fmt: skip
    assert base.accuracy == tuned.accuracy


def test_a_table_of_pairs_has_each_pair_once(runs: list[Result]) -> None:
    pairs = pairs_table(runs)
    assert len(pairs) == 3
    assert {"a", "b", "difference", "low", "high", "p", "p_holm", "detectable"} <= {*pairs}


def test_two_tasks_of_one_model_are_two_rows_with_their_task(runs: list[Result]) -> None:
    others = [
        replace(runs[0], task="mathqa"),
        replace(runs[0], num_fewshot=3),
        replace(runs[0], questions=runs[0].questions[:50], limit=50),
        replace(runs[1], task="mathqa"),
    ]
    table = results_table([*runs, *others], base="base")
    assert [*table.columns[:3]] == ["task", "num_fewshot", "run"]
    assert table["run"].tolist() == [*(r.name for r in runs), "base", "SFT", "base", "base"]
    assert table["n"].tolist()[-1] == 50
    told = table["difference"].notna().tolist()
    assert told == [False, True, True, False, True, False, False]
    # The correction of p counts the rows of the same task.
    assert table["p_holm"].iloc[:3].equals(results_table(runs)["p_holm"])
    assert results_table(others, base="SFT")["difference"].notna().sum() == 1
    numbers = [replace(r, questions=[
        {**q, "metrics": {"acc": 0.5 * q["metrics"]["acc"]}} for q in r.questions
    ]) for r in runs]  # fmt: skip
    half = results_table(numbers)
    assert half["accuracy"].tolist() == pytest.approx(
        (results_table(runs)["accuracy"] / 2).tolist()
    )
    assert (half["low"] < half["accuracy"]).all()
    for question in numbers[0].questions:
        question["metrics"]["acc"] = -120.0
    with pytest.raises(ValueError, match="acc of mathqa_tiny is not 0 to 1 for each question"):
        results_table(numbers)


def test_what_has_no_table_of_shares_is_named_on_the_page(
    runs: list[Result], tmp_path: Path
) -> None:
    def spoiled(name: str, task: str, metrics: dict[str, float]) -> Result:
        questions = [{**q, "metrics": metrics} for q in runs[0].questions[:4]]
        return replace(runs[0], name=name, task=task, questions=questions)

    given = [
        runs[0], runs[1],
        replace(runs[0], name="copy"),  # the same weights under another name
        replace(runs[1], date="2026-02-02T00:00:00+00:00", prompts="other"),  # one name twice
        spoiled("<b>ppl</b>", "wikitext", {"word_perplexity": -31.5}),
        spoiled("none", "empty", {}),
        spoiled("mc2", "truthfulqa_mc2", {"acc": 0.3}),
    ]  # fmt: skip
    text = write_report(given, tmp_path / "r.html", reference=False).read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    shown = " ".join(page.text)
    assert page.open == []
    assert "<b>ppl" not in text
    assert "wikitext (<b>ppl</b>): word_perplexity is not 0 to 1 for each question" in shown
    assert "empty (none): empty has no metric that all results have" in shown
    assert "log-likelihoods of 'base' and 'copy' are equal" in shown
    assert "SFT (2026-02-02 00:00)" in shown
    assert "mean acc" in shown
    assert "sign-flip" in shown


def test_a_report_of_many_runs_grows_with_the_runs_and_not_with_their_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    real = report.compare_some
    monkeypatch.setattr(
        report, "compare_some", lambda r, **k: (compared.append(len(r)), real(r, **k))[1]
    )
    sizes = {}
    for count in (15, 60):
        made = [result(f"run {n}", [n % 2, 1, 0, 1], seed=n) for n in range(count)]
        path = write_report(made, tmp_path / f"{count}.html", reference=False)
        sizes[count] = path.stat().st_size
    assert compared == [15]
    assert sizes[60] < 4 * sizes[15]
    assert "60 runs have 1,770 pairs, too many" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("right", [[1], [0], [1] * 5, [0] * 5], ids=str)
def test_one_question_and_equal_scores_make_a_page(right: list[int], tmp_path: Path) -> None:
    runs = [result(name, right) for name in ("base", "tuned")]
    text = write_report(runs, tmp_path / "r.html", reference=False).read_text(encoding="utf-8")
    assert "+0.0 to" not in text
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.S).lower()
    assert len(results_table(runs)) == 2


@pytest.mark.parametrize("right", [[True], [False], [True] * 7, [True, False]], ids=str)
def test_every_plot_takes_one_question_equal_scores_and_odd_names(right: list[bool]) -> None:
    shares = {name: wilson_interval(right) for name in ("$x_{$", "a $b$ _^ <i>", "")}
    for figure in (
        plots.plot_accuracy(shares, chance={"": 0.2}),
        plots.plot_intervals(shares, chance=0.2),
        plots.plot_curves({name: {10: share, 20: 0.5} for name, share in shares.items()}),
    ):
        figure.canvas.draw()
        pyplot.close(figure)


def test_names_that_do_not_tell_runs_apart_are_refused(runs: list[Result]) -> None:
    with pytest.raises(ValueError, match="two results of mathqa_tiny are called base"):
        results_table([runs[0], runs[0]])
    with pytest.raises(ValueError, match="no result is called 'nobody'; there are base, SFT"):
        results_table(runs, base="nobody")
    with pytest.raises(ValueError, match="no result to show"):
        results_table([])


def test_the_csv_has_a_row_for_each_checkpoint_by_step(tmp_path: Path) -> None:
    steps = (1000, 200, 30)
    runs = [result(f"checkpoint-{step}", [1, 0, 1], seed=step) for step in steps]
    table = pd.read_csv(write_csv(runs, tmp_path / "new" / "runs.csv"))
    assert table["run"].tolist() == ["checkpoint-30", "checkpoint-200", "checkpoint-1000"]
    assert {"task", "n", "acc,none", "adapter_hash", "minutes", "version_torch"} <= {*table}


class Page(HTMLParser):
    """Check the tags of a page, and record what it fetches from elsewhere."""

    void = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)
        asked = [v for k, v in attributes if k in ("src", "href", "xlink:href") and v]
        self.fetched += [v for v in asked if not v.startswith(("#", "data:"))]
        assert tag not in ("script", "link", "iframe")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.slow
def test_the_page_is_whole_needs_no_other_file_and_shows_every_number(
    runs: list[Result], tmp_path: Path
) -> None:
    other = [result(name, [1, 0, 0, 1], task="mathqa") for name in ("base", "tuned")]
    path = write_report([*other, *runs], tmp_path / "sub" / "report.html")
    text = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.fetched == []
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert 'name="viewport"' in text
    shown = " ".join(page.text)
    for run in runs:
        assert run.name in shown
        assert f"{100 * run.accuracy().accuracy:.1f} %" in shown
    for reference in PUBLIC_EXPERIMENT:
        assert reference.name in shown
    assert "Not ours" in shown
    assert "multiple <choice>" not in text  # escaped
    assert text.count("<svg") == 3
    assert len(pd.read_csv(path.with_suffix(".csv"))) == 5


def test_results_of_other_questions_stand_in_sections_of_their_own(
    runs: list[Result], tmp_path: Path
) -> None:
    few = result("base", [1, 0, 1])
    text = write_report([*runs, few], tmp_path / "r.html", reference=False).read_text(
        encoding="utf-8"
    )
    assert "200 questions" in text
    assert "3 questions" in text
    assert "Not ours" not in text


def test_no_result_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no result to report"):
        write_report(tmp_path, tmp_path / "r.html")
