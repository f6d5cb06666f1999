"""Files of results: none overwrites another's, and a damaged one does not count as absent."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from result_rows import result

from mathsft import cli
from mathsft.evaluation.report import write_report
from mathsft.evaluation.results import (
    Result,
    load_results,
    read_results,
    result_file,
    told_apart,
)
from mathsft.evaluation.run import evaluate
from mathsft.models.loading import load_model

RUN = result("base", [1, 0, 1])


def test_a_smaller_limit_does_not_replace_the_first_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = load_model("tiny")
    for limit in (6, 4):
        last = evaluate(
            model, "mathqa_tiny", tokenizer=tokenizer, name="tiny", limit=limit, folder=tmp_path
        )
    last.save(tmp_path)  # as after a second evaluation
    print(*load_results(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "tiny.mathqa_tiny.limit-4.json",
        "tiny.mathqa_tiny.limit-6.json",
    ]
    assert sorted((r.limit, len(r.questions)) for r in load_results(tmp_path)) == [(4, 4), (6, 6)]
    assert "mathqa_tiny: acc" in capsys.readouterr().out


def test_other_questions_examples_or_prompts_are_kept_beside_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RUN.save(tmp_path)
    RUN.save(tmp_path)  # the same run again
    assert len(load_results(tmp_path)) == 1
    others = [
        replace(RUN, num_fewshot=2),
        replace(RUN, num_fewshot=2, seed=7),  # other examples
        result("base", [1, 0, 1], ids=["x", "y", "z"]),  # other rows in the file of questions
        replace(RUN, prompts="aaaa"),
        replace(RUN, prompts="bbbb"),  # another chat template
    ]
    paths = [run.save(tmp_path).name for run in others]
    assert paths == [
        "base.mathqa_tiny.2-shot.json", "base.mathqa_tiny.2-shot.2.json",
        "base.mathqa_tiny.2.json", "base.mathqa_tiny.json", "base.mathqa_tiny.3.json",
    ]  # fmt: skip
    told = capsys.readouterr().out
    assert "holds the result of other questions or prompts. It is kept; the new one is" in told
    assert [run.save(tmp_path).name for run in others] == paths


def test_a_result_from_before_limits_were_stored_is_loaded(tmp_path: Path) -> None:
    path = RUN.save(tmp_path)
    content = json.loads(path.read_text())
    for key in ("limit", "prompts"):
        del content[key]
    path.write_text(json.dumps(content))
    assert load_results(tmp_path) == [RUN]


def test_a_file_name_is_one_name_and_short_enough() -> None:
    assert result_file("a/b: c", "mathqa", 3, 10) == "a-b-c.mathqa.3-shot.limit-10.json"
    assert "/" not in result_file("a", "tasks/of_mine")
    assert len(result_file("ä" * 150, "mathqa").encode()) < 200


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(ValueError, match="is a file: give a folder"):
        RUN.save(tmp_path / "results")


WHOLE = json.dumps({"mathsft_result": 1, **vars(RUN)}).encode()
DAMAGED = {
    "empty": b"",
    "spaces": b"\n  \n",
    "zeros, as after a power cut": bytes(4096),
    "one character": b"{",
    "cut in the key": WHOLE[:9],
    "cut after the key": WHOLE[:30],
    "cut in the middle": WHOLE[: len(WHOLE) // 2],
    "last character missing": WHOLE[:-1],
    "not UTF-8": WHOLE.replace(b"what is 1", b"what is \xff"),
    "not UTF-8 from the start": b"\xff\xfe\xff\xfe" * 9,
    "5,000 digits": WHOLE.replace(b'"seed": 0', b'"seed": ' + b"9" * 5000),
    "nested": b'{"mathsft_result": 1, "questions": ' + b"[" * 100_000,
    "a field missing": WHOLE.replace(b'"harness"', b'"harnes"'),
    "no questions": WHOLE[: WHOLE.index(b'"questions"')] + b'"questions": []}',
    "a text for a number": WHOLE.replace(b'"minutes": 0.1', b'"minutes": "soon"'),
    "a metric that is no number": WHOLE.replace(b'"acc": 1.0', b'"acc": [1]', 1),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_result_is_named_and_the_rest_goes_on(
    tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    RUN.save(tmp_path)
    bad = tmp_path / "tuned.mathqa_tiny.json"
    bad.write_bytes(damage)
    found, damaged = read_results(tmp_path)
    assert found == [RUN]
    assert [bad.name in told for told in damaged] == [True]
    with pytest.raises(ValueError, match=r"tuned\.mathqa_tiny\.json"):
        load_results(tmp_path)
    with pytest.raises(ValueError, match=r"tuned\.mathqa_tiny\.json"):
        load_results(bad)
    with pytest.raises(SystemExit, match="left out"):
        cli.main(["compare", str(tmp_path)])
    assert "left out: " + str(bad) in capsys.readouterr().out
    # It is evaluated again: the new result takes its place.
    result("tuned", [1, 1, 1]).save(tmp_path)
    assert "It is replaced" in capsys.readouterr().out
    assert len(load_results(tmp_path)) == 2


@pytest.mark.parametrize("text", ["[1]", "{}", '{"adapter": "x"', "12", '"a text"', "null"])
def test_another_program_s_json_is_no_damaged_result(tmp_path: Path, text: str) -> None:
    RUN.save(tmp_path)
    (tmp_path / "other.json").write_text(text)
    (tmp_path / "folder.json").mkdir()
    assert load_results(tmp_path) == [RUN]


def test_a_pipe_and_a_link_to_nowhere_are_named_and_do_not_hang(tmp_path: Path) -> None:
    RUN.save(tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere")
    found, damaged = read_results(tmp_path)
    assert found == [RUN]
    assert [Path(told.split(":")[0].split(" is ")[0]).name for told in damaged] == [
        "gone.json", "pipe.json",
    ]  # fmt: skip


@given(st.integers(0, len(WHOLE) - 1))
def test_a_result_cut_anywhere_is_damaged(length: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "base.mathqa_tiny.json").write_bytes(WHOLE[:length])
        assert [len(part) for part in read_results(folder)] == [0, 1]


def test_the_report_names_damaged_files_and_escapes_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RUN.save(tmp_path)
    (tmp_path / "<img src=x onerror=alert(1)>.json").write_bytes(b"")
    page = write_report(tmp_path, tmp_path / "r.html", reference=False).read_text(encoding="utf-8")
    assert "1 of the files cannot be read and is not on this page" in page
    assert "&lt;img src=x onerror=alert(1)&gt;.json: empty, 0 bytes" in page
    assert "<img" not in page
    assert "left out of the report" in capsys.readouterr().out
    for file in tmp_path.glob("*.json"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no result to report: .*empty, 0 bytes"):
        write_report(tmp_path, tmp_path / "r.html")


def test_equal_names_get_what_tells_them_apart() -> None:
    more = [("A", "x"), ("B", "x"), ("A", "x")]
    assert told_apart(["tiny", "base", "other"], more) == ["tiny", "base", "other"]
    assert told_apart(["tiny"] * 3, more) == ["tiny (A)", "tiny (B)", "tiny (A) (2)"]
    assert told_apart(["tiny", "tiny"], [("", "1"), ("", "2")]) == ["tiny (1)", "tiny (2)"]


def test_results_are_plain_dataclasses_with_new_fields_last() -> None:
    names = [*Result.__dataclass_fields__]
    assert names[-2:] == ["limit", "prompts"]
