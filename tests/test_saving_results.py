"""What would stop a result from being saved is found first, and a computed result is saved."""

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_rows import result

from mathsft.cli import main
from mathsft.evaluation import saving
from mathsft.evaluation.result import check_place
from mathsft.evaluation.results import Result, load_results, result_file
from mathsft.evaluation.run import evaluate
from mathsft.files import check_writable
from mathsft.models.loading import load_model


@pytest.fixture(scope="module")
def lent(small_model_dir: Path) -> tuple[Any, Any]:
    model, tokenizer = load_model(small_model_dir, device="cpu")
    return model, tokenizer


@pytest.fixture(scope="module")
def base(lent: Any, tmp_path_factory: pytest.TempPathFactory) -> Result:
    model, tokenizer = lent
    folder = tmp_path_factory.mktemp("results")
    found = evaluate(model, "mathqa_tiny", tokenizer=tokenizer, limit=3, name="base", folder=folder)
    assert load_results(folder) == [found]
    return found


class Unused:
    """A model that must not be looked at: whatever is wrong is found before."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the model was used: {name}")


def refused(message: str, **arguments: Any) -> None:
    wanted = {"tasks": "mathqa_tiny", "limit": 3, **arguments}
    with pytest.raises((ValueError, OSError), match=message):
        evaluate(Unused(), **wanted)


def test_a_base_with_other_questions_is_found_before_the_model_is_used(base: Result) -> None:
    refused("base has 3 questions, this run 2", base=base, limit=2)
    other = [{**question, "id": question["id"][::-1]} for question in base.questions]
    refused("question 0 of the base and of this run differ", base=replace(base, questions=other))
    refused("base has 1 examples per question, this run 0", base=replace(base, num_fewshot=1))
    refused("question 1 of the base", base=base, limit=None, samples={"mathqa_tiny": [0, 2, 3]})


def test_a_place_that_cannot_take_the_result_is_found_before_the_model_is_used(
    base: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    refused("is a file, and .*file must be a folder", folder=tmp_path / "file")
    refused("is a file, and .*below must be a folder", folder=tmp_path / "file" / "below")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    refused("link to something that does not exist", folder=tmp_path / "link" / "a")
    refused("cannot be written to", folder="/proc/self/results")
    base.save(tmp_path)
    refused("holds the result of 'base': give 'BASE' another name", name="BASE", folder=tmp_path)


def path_of(one: Result) -> str:
    return result_file(one.name, one.task, one.num_fewshot, one.limit)


@pytest.mark.parametrize("damage", [0, 1, 50, 300], ids="{} bytes are left".format)
def test_a_damaged_result_is_replaced_with_a_line(
    base: Result, lent: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: int
) -> None:
    path = base.save(tmp_path)
    path.write_bytes(path.read_bytes()[:damage])
    model, tokenizer = lent
    found = evaluate(
        model, "mathqa_tiny", tokenizer=tokenizer, limit=3, name="base", folder=tmp_path
    )
    assert path_of(base) in (said := capsys.readouterr().out)
    assert "It is replaced" in said
    assert load_results(tmp_path) == [found]


def test_a_file_that_is_no_result_is_not_replaced_and_half_a_result_is(
    base: Result, tmp_path: Path
) -> None:
    path = tmp_path / path_of(base)
    for text in ("[1]", '{"my": "notes"}'):
        path.write_text(text)
        refused("is there and is no result", name="base", folder=tmp_path)
        assert path.read_text() == text
    for text in ('{"mathsft_result": 1}', '{"mathsft_result": 1, "name": "x", "questions": [1]}'):
        path.write_text(text)
        assert base.save(tmp_path) == path
        assert load_results(path) == [base]


def test_other_limits_are_other_files_and_equal_runs_replace_each_other(tmp_path: Path) -> None:
    paths = [
        result("r", [1, 0], limit=limit, num_fewshot=shots).save(tmp_path)
        for limit in (None, 10, 30)
        for shots in (0, 2)
    ]
    assert len({*paths}) == len([*tmp_path.iterdir()]) == 6
    again = result("r", [0, 0], limit=10)
    assert again.save(tmp_path) in paths
    assert again in load_results(tmp_path)


def test_a_result_equal_to_its_base_s_is_saved_before_the_error(
    base: Result, lent: Any, tmp_path: Path
) -> None:
    model, tokenizer = lent
    with pytest.raises(ValueError, match="'base' and 'sft' are equal"):
        evaluate(
            model, "mathqa_tiny", tokenizer=tokenizer, limit=3, name="sft", base=base,
            folder=tmp_path,
        )  # fmt: skip
    assert [one.name for one in load_results(tmp_path)] == ["sft"]


def test_a_result_that_does_not_fit_on_the_disk_is_saved_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mathsft.files

    one, real = result("r", [1, 0]), mathsft.files.os.replace

    def full(source: Any, target: Any) -> None:
        if str(tmp_path / "results") in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(mathsft.files.os, "replace", full)
    monkeypatch.setattr(saving.tempfile, "mkdtemp", lambda prefix: str(tmp_path / prefix))
    places = saving.Places(tmp_path / "results", {})
    with pytest.raises(OSError, match=r"No space left.* saved as .*mathsft-results-.*move that"):
        places.save(one, device="cpu")
    assert load_results(tmp_path / "mathsft-results-") == [one]
    assert [*(tmp_path / "results").iterdir()] == []


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=400), st.text(max_size=400), st.integers(0, 99), st.integers(0, 9999))
def test_any_name_and_task_make_one_file_name_that_every_disk_takes(
    name: str, task: str, shots: int, limit: int
) -> None:
    file = result_file(name, task, shots, limit)
    assert Path(file).name == file
    assert len(file.encode()) < 230
    assert file[0] not in ".-"
    assert not {*file} & {*'/\\:*?"<>|\0\n'}


def test_long_names_that_begin_alike_have_files_of_their_own() -> None:
    names = ["a" * 300, "a" * 299 + "b", "\u00e9" * 300, "a" * 120]
    assert len({result_file(name, "t") for name in names}) == 4
    assert result_file("a/b", "t") == result_file("a b", "t")  # so saving the second is refused


@pytest.mark.parametrize(
    "name", ["..", "/", "../../up", "a\0b", "a\nb", "x" * 300, "...", "\u0e01"]
)
def test_odd_names_are_saved_inside_the_folder(tmp_path: Path, name: str) -> None:
    one = result(name, [1])
    path = one.save(tmp_path / "in")
    assert path.parent == tmp_path / "in"
    assert load_results(tmp_path) == []
    assert load_results(path) == [one]
    assert check_place(tmp_path / "in", name, one.task) == path


@pytest.mark.parametrize("limit", [0, -1, 0.5, 2.5, float("nan"), True])
def test_a_limit_is_a_number_of_questions(limit: Any) -> None:
    refused("limit=.*give 1 or more, a whole number", limit=limit)


def test_a_folder_is_checked_and_not_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert [*tmp_path.iterdir()] == []


def test_mix_looks_at_its_file_before_the_mixture_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mathsft.training.recipe_rows.mixture", lambda *_: pytest.fail("mixed"))
    there = tmp_path / "there.jsonl"
    there.write_text("")
    for file, message in [
        (there, "exists already"),
        (tmp_path / "a.csv", "ends with .jsonl or .parquet"),
        (there / "a.jsonl", "is a file, and"),
    ]:
        with pytest.raises(SystemExit, match=message):
            main(["mix", "--mix.parts", "{tiny-gsm: 1}", "--mix.total", "2", "--file", str(file)])
