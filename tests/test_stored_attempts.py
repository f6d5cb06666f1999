"""Attempts in a file: read as groups for GPO and as pairs for DPO, resumed to the byte."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_selection import HOW, ROWS, digits, lines, loaded  # noqa: F401

from mathsft.data.group_pairs import pairs_from_groups
from mathsft.data.pairs import pairs_from
from mathsft.data.problems import read_problems
from mathsft.data.prompts import sft_prompt
from mathsft.generation.rollouts import sample_groups
from mathsft.generation.stored_attempts import store_attempts
from mathsft.objectives.gpo import GPO
from mathsft.objectives.preference import DPO
from mathsft.training.make import make_trainer
from mathsft.training.rows import training_rows


@pytest.fixture(scope="module")
def whole(loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:  # noqa: F811
    path = tmp_path_factory.mktemp("stored") / "attempts.jsonl"
    return path, store_attempts(*loaded, ROWS, digits, output=path, **HOW)


def test_all_answers_are_kept_with_their_rewards(loaded: Any, whole: Any) -> None:  # noqa: F811
    """Those of `sample_groups`, also those that were cut; the file holds what is returned."""
    path, rows = whole
    assert lines(path)[1:] == rows
    prompts = [sft_prompt(row["question"]) for row in ROWS]
    groups = sample_groups(*loaded, prompts, **HOW)
    for row, prompt, group in zip(rows, prompts, groups, strict=True):
        assert row["prompt"] == prompt
        assert row["completions"] == [answer.text for answer in group]
        assert row["ended"] == [answer.ended for answer in group]
        assert row["rewards"] == [float(len(answer.text)) for answer in group]
    assert {value for row in rows for value in row["ended"]} == {True, False}


@pytest.mark.parametrize("left", [20, 900, -3])
def test_a_killed_run_ends_with_the_same_file(
    loaded: Any,  # noqa: F811
    whole: Any,
    tmp_path: Path,
    left: int,
) -> None:
    path, rows = whole
    again = tmp_path / "attempts.jsonl"
    again.write_bytes(path.read_bytes()[:left])
    assert store_attempts(*loaded, ROWS, digits, output=again, **HOW) == rows
    assert again.read_bytes() == path.read_bytes()


def test_the_file_is_read_as_groups_and_trains_gpo_and_dpo(
    loaded: Any,  # noqa: F811
    whole: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, rows = whole
    groups, dropped = read_problems(path)
    assert not dropped
    for name in ("prompt", "completions", "rewards", "ended"):
        assert list(groups[name]) == [row[name] for row in rows]
    made = make_trainer(*loaded, groups, GPO(), output_dir=tmp_path / "gpo", disable_tqdm=True)
    assert len(made.train_dataset) == len(rows)
    pairs = pairs_from_groups(groups, keep=2)
    expected = []
    for row in rows:
        answers = zip(row["completions"], row["rewards"], row["ended"], strict=True)
        kept = [(text, reward) for text, reward, ended in answers if ended and text.strip()]
        made_pairs = pairs_from([text for text, _ in kept], [r for _, r in kept], keep=2)
        expected += [{"prompt": row["prompt"], **pair} for pair in made_pairs]
    assert [{n: pair[n] for n in ("prompt", "chosen", "rejected")} for pair in pairs] == expected
    assert expected
    cut = sum(row["ended"].count(False) for row in rows)
    assert f"pairs: {len(pairs)} from 5 groups; {cut} answers cut" in capsys.readouterr().out
    assert len(training_rows(pairs, loaded[1], DPO())) > 0


def test_messages_become_pairs_of_messages() -> None:
    def said(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    answers = [said("assistant", "5"), said("assistant", "6")]
    group = {"prompt": said("user", "2 + 3?"), "completions": answers, "rewards": [0.5, 0.25]}
    (pair,) = pairs_from_groups([group])
    assert (pair["chosen"], pair["rejected"]) == (answers[0], answers[1])
    assert pair["prompt"] == group["prompt"]
    assert pairs_from_groups([group], min_gap=0.25) == []


def test_what_is_no_group_or_has_no_pair_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    equal = {"prompt": "2 + 3 =", "completions": [" 5", " five"], "rewards": [1, 1]}
    assert pairs_from_groups([equal, {**equal, "completions": [], "rewards": []}]) == []
    told = capsys.readouterr().out
    assert "0 from 2 groups" in told
    assert "1 groups without completions" in told
    assert "1 groups without a pair" in told
    with pytest.raises(ValueError, match="row 0: a row of the kind 'prompt'"):
        pairs_from_groups([{"prompt": "2 + 3 =", "completion": " 5"}])
    with pytest.raises(ValueError, match="pairs_from_groups from groups"):
        training_rows([equal], None, DPO())
    with pytest.raises(ValueError, match=r"rewards\[0\]: expected a finite number"):
        pairs_from_groups([{**equal, "rewards": [None, 1]}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ('{"kind": "stored attempts", "settings": {}}\n', "no rows"),
        ('{"kind": "stored attempts", "settings": {}}\n{"prompt"', "row 2"),
        ('{"prompt": "a", "completions": [1], "rewards": [1]}\n', "completions[0]"),
    ],
)
def test_a_damaged_file_of_attempts_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "attempts.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError) as told:  # noqa: PT011
        read_problems(path)
    assert str(path) in str(told.value)
    assert message in str(told.value)


def test_another_kind_of_file_is_not_written_into(loaded: Any, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(ValueError, match="holds something else than stored attempts"):
        store_attempts(*loaded, ROWS, digits, output=path, **HOW)
    with pytest.raises(ValueError, match="num_generations"):
        store_attempts(*loaded, ROWS, digits, output=path, **{**HOW, "num_generations": 0})
