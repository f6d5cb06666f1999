"""MathQA's options in two readings: the harness's own, and one that garbles nothing."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problem_rows import MATHQA, jsonl

from mathsft.data.mathqa import choice_answer, clean_choices, official_choices
from mathsft.data.problems import load_problems, read_problems

# --- any choices, written as MathQA writes them -------------------------------------------

MARK = re.compile(r"(^|[ ,])[a-z] \)")
text = st.text(
    alphabet=st.sampled_from("0123456789 .,:/%$()-'\"√π°abcdexyz"), min_size=1, max_size=14
).map(lambda t: " ".join(t.split()).rstrip(" ,"))
# A choice that contains "b )" cannot be distinguished from two choices.
choice = text.filter(lambda t: t and not MARK.search(t))


def written(choices: list[str]) -> str:
    return " , ".join(f"{letter} ) {c}" for letter, c in zip("abcdefghij", choices, strict=False))


@settings(max_examples=300, deadline=None)
@given(st.lists(choice, min_size=5, max_size=5))
def test_any_five_choices_in_mathqas_style_are_read_back(choices: list[str]) -> None:
    assert clean_choices(written(choices)) == choices


@settings(max_examples=150, deadline=None)
@given(st.lists(choice, min_size=2, max_size=8))
def test_two_to_eight_choices_in_a_list_or_with_the_letter_twice_are_read_back(
    choices: list[str],
) -> None:
    pairs = list(zip("abcdefghij", choices, strict=False))
    assert clean_choices(str([f"{letter} ) {c}" for letter, c in pairs])) == choices
    assert clean_choices(" , ".join(f"{x} ) {x} ) {c}" for x, c in pairs)) == choices


@settings(max_examples=150, deadline=None)
@given(st.lists(choice.filter(lambda t: ", " not in t), min_size=5, max_size=5))
def test_where_no_choice_has_a_comma_both_readings_agree(choices: list[str]) -> None:
    assert official_choices(written(choices)) == clean_choices(written(choices))


pieces = ["a )", "b )", "c )", "d )", "e )", "f )", " ", " , ", ",", "'", "[", "]", "-", "7", "x"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["a ) ", "['a ) ", ""]), st.lists(st.sampled_from(pieces), max_size=20))
def test_any_text_is_read_or_gives_the_documented_error(begin: str, rest: list[str]) -> None:
    with suppress_contradiction():
        for choice in clean_choices(begin + "".join(rest)):
            assert not re.search(r"(^|[ ,])[a-e] \)", choice)


@contextmanager
def suppress_contradiction() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if not re.match(r"choice [a-z] holds the letter [a-z]: ", str(error)):
            raise


@pytest.mark.parametrize("options", ["[" + "-" * 5_000 + "1]", "[" + "-" * 200_000 + "1]"])
def test_a_monstrous_list_is_no_list_of_choices(options: str) -> None:
    assert clean_choices(options) == []


# --- garbled rows, both readings side by side ---------------------------------------------


@pytest.mark.parametrize(
    ("options", "official", "clean"),
    [
        ("a ) 1 , 000 , b ) 2 , c ) 3 , d ) 4 , e ) 5", "1", "1 , 000"),
        ("['a ) 4', 'b ) 4 π', 'c ) 16', 'd ) 8 π', 'e ) 16']", "4'", "4"),
        ("a ) a ) 3 , b ) 2 , c ) c ) 5 , d ) d ) 21 , e ) e ) 28", "a ) 3", "3"),
        ("a ) 9 : 30 , 9 : 50 , b ) 2 , c ) 3 , d ) 4 , e ) 5", "9 : 30", "9 : 30 , 9 : 50"),
    ],
)
def test_the_clean_reading_mends_what_the_official_one_garbles(
    options: str, official: str, clean: str
) -> None:
    assert official_choices(options)[0] == official
    assert clean_choices(options)[0] == clean
    assert len(clean_choices(options)) == 5


@pytest.mark.parametrize("options", ["", "4, 5, 6", "[", "['a ) 4', 5]", "b ) 4 , c ) 5", "[1, 2]"])
def test_what_is_no_list_of_choices_is_none(options: str) -> None:
    assert clean_choices(options) == []


# --- all real rows ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dev(data_dir: Path) -> Path:
    return data_dir / "mathqa" / "dev.json"


@pytest.mark.slow
def test_on_all_real_rows_the_clean_reading_has_no_stray_quote_and_no_cut_number(
    dev: Path,
) -> None:
    rows = json.loads(dev.read_text(encoding="utf-8"))
    problems, dropped = read_problems(dev, reading="clean")
    assert dropped == {
        "the right choice appears twice": 16,
        "a choice holds another one's letter": 1,
    }
    assert len(problems) == len(rows) - 17 == 4458
    by_question = {row["Problem"].strip(): row["options"] for row in rows}
    for problem in problems:
        options = by_question[problem["question"]]
        assert len(problem["choices"]) == 5
        for choice in problem["choices"]:
            assert "'" not in choice.replace("ca n ' t be", "")
            assert '"' not in choice
            assert not re.match(r"[a-z] \)", choice)
        # Only letters, quotes and brackets of the published string are left out.
        said = re.sub(r"[\[\]'\"]|(?<![\w(] )\b[a-e] \)", "", options)
        kept = re.sub(r"[\[\]'\"]", "", " ".join(problem["choices"]))
        assert re.sub(r"[ ,]", "", kept) == re.sub(r"[ ,]", "", said)


@pytest.mark.slow
def test_the_report_says_what_was_repaired_and_what_cannot_be_used_and_why(
    dev: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_problems(dev, reading="clean")
    said = capsys.readouterr().out
    for part in (
        "4,475 rows read, 4,458 kept; dropped 17: ",
        "16 the right choice appears twice (rows 157, ",
        "1 a choice holds another one's letter (row 724)",
        "repaired (list written as text): 115",
        "repaired (letter written twice): 64",
        "repaired (comma inside a choice): 11",
        "two wrong choices equal: 49",
        "formula agrees with the label: 2,818",
        "formula disagrees with the label: 1,358",
        "formula cannot be executed: 3",
        "label is not one number: 279",
        "32.5% of the labels that can be compared are disputed",
    ):
        assert part in said


@pytest.mark.slow
def test_disputed_rows_can_be_left_out_of_training_and_are_counted(dev: Path) -> None:
    problems, dropped = read_problems(dev, reading="clean", drop_disputed=True)
    assert dropped["formula and label disagree"] == 1358
    assert len(problems) == 4458 - 1358


@pytest.mark.parametrize(
    "arguments",
    [
        {"source": "tiny-mathqa", "split": "test", "reading": "clean"},
        {"source": "tiny-mathqa", "split": "validation", "reading": "clean"},
        {"source": "tiny-mathqa"},
        {"source": "folder/test.json", "reading": "clean"},
    ],
)
def test_disputed_rows_are_never_left_out_of_a_test_or_of_the_official_reading(
    arguments: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match="A test with rows left out is another test"):
        load_problems(**arguments, drop_disputed=True)


# --- generated rows, and bad ones ---------------------------------------------------------


@pytest.mark.slow
def test_generated_rows_read_the_same_both_ways_and_their_formulas_hold(
    capsys: pytest.CaptureFixture[str],
) -> None:
    official = load_problems("tiny-mathqa").to_list()
    assert load_problems("tiny-mathqa", reading="clean").to_list() == official
    assert "formula agrees with the label: 4,000; 0.0% of" in capsys.readouterr().out


FOUR = {"options": "a ) 4 , b ) 5 , c ) 6 , d ) 7"}
SIX = {"options": "a ) 4 , b ) 5 , c ) 6 , d ) 7 , e ) 8 , f ) 9"}


@pytest.mark.parametrize(
    ("change", "choices", "label"),
    [
        (FOUR, ["4", "5", "6", "7"], 1),
        (FOUR | {"correct": "d"}, ["4", "5", "6", "7"], 3),
        (SIX, ["4", "5", "6", "7", "8", "9"], 1),
        (SIX | {"correct": "f"}, ["4", "5", "6", "7", "8", "9"], 5),
    ],
)
def test_four_and_six_choices_are_read_whole_and_noted(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    choices: list[str],
    label: int,
) -> None:
    path = jsonl(tmp_path / "a.jsonl", MATHQA | change)
    (row,) = load_problems(path, reading="clean")
    assert (row["choices"], row["label"]) == (choices, label)
    said = capsys.readouterr().out
    assert f"{len(choices)} choices: 1" in said
    assert "repaired (not five choices): 1" in said


def test_the_official_reading_of_four_and_six_is_the_harnesss(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", MATHQA | FOUR, MATHQA | SIX)
    four, six = read_problems(path)[0]["choices"]
    assert four == ["4", "5", "6"]  # its expression expects text after the fourth choice
    assert six == ["4", "5", "6", "7", "8 , f ) 9"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"correct": "f"}, "label beyond the choices"),
        (FOUR | {"correct": "e"}, "label beyond the choices"),
        ({"correct": "B"}, "label is not one of the letters a to z"),
        ({"correct": "ab"}, "label is not one of the letters a to z"),
        ({"options": "a ) 4 , b )  , c ) 6", "correct": "a"}, "an empty choice"),
        ({"options": "a ) 4 , b ) 5 , c ) 5.0"}, "the right choice appears twice"),
        ({"options": "a ) 4 , b ) 5 , d ) 7 , e ) 8"}, "a choice holds another one's letter"),
        ({"options": "a ) 4 , c ) 5 , b ) 6 , d ) 7"}, "a choice holds another one's letter"),
        ({"options": "a ) 4 b ) 5 c ) 6"}, "a choice holds another one's letter"),
        ({"options": "a ) 4 , b ) d ) 5 , c ) 6"}, "a choice holds another one's letter"),
        ({"options": "4, 5, 6"}, "options not in the form 'a ) … , b ) …'"),
    ],
)
def test_what_the_clean_reading_cannot_use_is_dropped_and_counted(
    tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    path = jsonl(tmp_path / "a.jsonl", MATHQA, MATHQA | change)
    assert read_problems(path, reading="clean")[1] == {reason: 1}


def test_another_reading_and_another_schema_are_refused() -> None:
    with pytest.raises(ValueError, match="reading='cleaned': give 'official' or 'clean'"):
        load_problems("tiny-mathqa", reading="cleaned")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reading='clean' is for MathQA's options"):
        load_problems("tiny-gsm", reading="clean")


def test_a_file_without_formulas_reads_cleanly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {key: value for key, value in MATHQA.items() if key != "annotated_formula"}
    assert len(load_problems(jsonl(tmp_path / "a.jsonl", row), reading="clean")) == 1
    assert "formula cannot be executed: 1" in capsys.readouterr().out


def test_a_formula_of_another_type_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", MATHQA, MATHQA | {"annotated_formula": ["add(2,3)"]})
    with pytest.raises(ValueError, match="row 2, column 'annotated_formula': expected text"):
        load_problems(path, reading="clean")


@pytest.mark.parametrize(
    ("choice", "answer"),
    [("1 / 2", "1/2"), ("5 ⁄ 7", "5/7"), ("− 7", "-7"), ("$ 5", "5"), ("rs . 40", "40"),
     ("10 000", "10000"), ("16 2 / 3 %", "50/3"), *dict.fromkeys(
     ("7 !", "1 , 000", "12 hours", "2 x 3", "10 ^ 20", "4 : 5", "5 - 7", "2 + 3"), "").items()],
)  # fmt: skip
def test_a_choice_is_an_answer_only_where_it_is_one_plain_number(choice: str, answer: str) -> None:
    assert choice_answer(choice) == answer
