"""A submission's claims follow from its scores; entries are compared on the same questions."""

import importlib.util
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from mathsft import cli
from mathsft.data.synthetic import split_of
from mathsft.data.synthetic.multiple_choice import tiny_mathqa_rows
from mathsft.evaluation.capstone import capstone_questions, capstone_recipe
from mathsft.recipes.sections import recipe_sections
from mathsft.sharing.leaderboard import leaderboard_page
from mathsft.sharing.submission import read_submission

DOCS = Path(__file__).resolve().parent.parent / "docs"
BASE = "lesson 03's mixture"
FILES = sorted((DOCS / "leaderboard").glob("*.json"))
MIXTURE = DOCS / "leaderboard" / "lesson-03-mixture.json"


def changed(tmp_path: Path, change: Any, name: str = "mine") -> Path:
    content = json.loads(MIXTURE.read_text(encoding="utf-8"))
    content["name"] = name
    change(content)
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def answered(content: dict[str, Any], row: int, right: bool) -> None:
    """Let an entry answer a question rightly or wrongly, in scores, verdict and accuracy."""
    one = content["questions"][row]
    scores = [-9.0 - choice for choice in range(5)]
    scores[one["label"] if right else (one["label"] + 1) % 5] = -1.0
    one |= {"right": int(right), "loglikelihoods": scores}
    content["accuracy"] = sum(one["right"] for one in content["questions"]) / 1000


def test_the_page_is_made_from_the_files_beside_it() -> None:
    spec: Any = importlib.util.spec_from_file_location("made", DOCS / "make_leaderboard.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.page() == (DOCS / "leaderboard.md").read_text(encoding="utf-8")


def test_the_capstone_asks_what_no_lesson_asks_and_no_training_split_has() -> None:
    asked = {row["Problem"] for row in capstone_questions()}
    assert len(asked) == 1000
    assert {split_of(question) for question in asked} == {"test"}
    assert not asked & {row["Problem"] for row in tiny_mathqa_rows("test")}


def test_the_baseline_was_trained_by_the_recipe_that_learners_get() -> None:
    found, recipe = read_submission(MIXTURE), capstone_recipe()
    assert recipe.keys() == found.settings.keys()
    for section, keys in recipe.items():
        assert keys.keys() <= recipe_sections()[section].keys()
        for key, value in keys.items():
            assert found.settings[section][key] == value
    assert (found.steps, found.rows_per_step, found.training_rows) == (400, 8, 1280)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["questions"].pop(), "1 missing"),
        (lambda c: c["questions"].__setitem__(3, c["questions"][4]), "1 missing, 0 o.*1 twice"),
        (lambda c: c["questions"][7].update(id="0" * 16), "1 missing, 1 others"),
        (lambda c: c["questions"].reverse(), "not those of mathqa_capstone: 0 missing"),
        (lambda c: c.update(questions_sha256="0" * 64), "questions_sha256"),
        (lambda c: c["questions"][5]["loglikelihoods"].__setitem__(2, math.nan), "not a finite"),
        (lambda c: c["questions"][5]["loglikelihoods"].pop(), "question 5: 5 log-likelihoods"),
        (lambda c: c["questions"][0].update(right=2), "question 0: right is 2"),
        (lambda c: c.update(accuracy=0.9), "accuracy is 0.9, but 0.479"),
        (lambda c: c.update(steps=401), "401 optimiser steps of 8 rows.*equal steps"),
        (lambda c: c.update(rows_per_step=64), "400 optimiser steps of 64 rows"),
        (lambda c: c.update(steps=0), "0 optimiser steps"),
        (lambda c: c.pop("versions"), "versions is None"),
        (lambda c: c.update(steps="400"), "steps is '400'"),
        (lambda c: c.update(mathsft_submission=9), "not a submission"),
    ],
)  # fmt: skip
def test_a_claim_that_does_not_follow_is_refused_with_its_file(
    change: Any, words: str, tmp_path: Path
) -> None:
    path = changed(tmp_path, change)
    with pytest.raises(ValueError, match=words) as told:
        leaderboard_page([*FILES, path], base=BASE)
    assert str(told.value).startswith(str(path))


def test_an_entry_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another entry is called"):
        leaderboard_page([*FILES, changed(tmp_path, lambda c: None, BASE)], base=BASE)
    with pytest.raises(ValueError, match=r"there twice.*log-likelihoods.*are equal"):
        leaderboard_page([*FILES, changed(tmp_path, lambda c: None)], base=BASE)
    with pytest.raises(ValueError, match="no entry is called 'x'"):
        leaderboard_page(FILES, base="x")


def test_ranks_follow_from_paired_exact_p_and_ties_are_told(tmp_path: Path) -> None:
    rights = [one["right"] for one in json.loads(MIXTURE.read_text())["questions"]]
    wrong = [row for row, right in enumerate(rights) if not right]

    def better(count: int) -> Any:
        def change(content: dict[str, Any]) -> None:
            for row in wrong[:count]:
                answered(content, row, True)

        return change

    a_bit, much = (changed(tmp_path, better(n), f"plus | {n}") for n in (4, 60))
    untrained = MIXTURE.with_name("tiny-untrained.json")
    page = leaderboard_page([MIXTURE, untrained, a_bit, much], base=BASE)
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    assert [line[0].strip("| ") for line in lines] == ["1", "2", "2", "4"]
    assert [line[1] for line in lines][:2] == [r"plus \| 60", r"plus \| 4"]
    p = binomtest(4, 4).pvalue
    assert f"| {p:.2g} |" in page
    assert "cannot be told apart" in page
    assert f"*plus \\| 4* and *{BASE}*" in page


@pytest.mark.slow
def test_a_run_is_submitted_and_one_that_breaks_a_rule_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mathsft.sharing import submission
    from mathsft.sharing.submit import submit
    from mathsft.training.by_recipe import train_by_recipe

    recipe = capstone_recipe()
    recipe["mix"] = {"parts": {"tiny-mathqa": 16}}
    recipe["multiple_choice"]["max_steps"] = 2
    run = train_by_recipe(recipe, "multiple_choice", output_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="2 optimiser steps of 8 rows"):
        submit(run, name="too short")
    monkeypatch.setattr(submission, "STEPS", 2)
    cli.main(["submit", str(run), "--name", "mine", "--by", "a team"])
    found = read_submission(run / "submission.json")
    assert (found.name, found.by, found.steps, found.training_rows) == ("mine", "a team", 2, 16)
    assert [*found.files] == ["adapter_model.safetensors"]
    assert found.adapter_hash
    assert found.accuracy == found.result.accuracy().accuracy
    asked = tmp_path / "asked"
    shutil.copytree(run, asked)
    text = (
        (asked / "config.yaml")
        .read_text()
        .replace(
            "tiny-mathqa: 16",
            "tiny-mathqa: 1600\n  datasets: {tiny-mathqa: {split: test, limit: 1600}}",
        )
    )
    (asked / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="600 of 1,600 training rows ask a question"):
        submit(asked, name="seen")
