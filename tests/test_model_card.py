"""A card says what the run recorded, shows no path of this machine, and is needed to share."""

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from result_rows import result

from mathsft.evaluation.compare import compare
from mathsft.evaluation.worked import worked_result
from mathsft.models.adapters import save_adapter
from mathsft.models.loading import load_model
from mathsft.record import write_record
from mathsft.sharing.model_card import write_model_card
from mathsft.sharing.upload import share

BASE = result("base", [0, 1] * 30)
TUNED = result("mine", [1] * 60, seed=3)


@pytest.fixture
def run(adapter: Path, tmp_path: Path) -> Path:
    """The adapter in the folder of a run with its record."""
    data = tmp_path / "rows.jsonl"
    data.write_text('{"question": "1 + 1 ?", "solution": "1 + 1 = 2", "answer": "2"}\n')
    recipe = {
        "model": {"name": str(adapter.parent.parent / "models" / "small")},
        "train": {"source": str(data)},
        "sft": {"learning_rate": 1e-3, "max_steps": 6},
    }
    resolved = {"dtype": "float32", "training_rows": 12, "training_rows_sha256": "ab" * 32}
    write_record(tmp_path, recipe, command="sft", seed=5, resolved=resolved)
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 6}))
    return adapter


def test_a_card_holds_data_settings_scores_and_versions_and_no_path(
    run: Path, tmp_path: Path
) -> None:
    text = write_model_card(run, results=[TUNED], base=BASE, name="mine", notes="For sums.")
    card = ModelCard.load(text)
    (score,) = card.data.eval_results
    assert (score.dataset_name, score.metric_value) == ("mathqa_tiny", 1.0)
    assert (card.data.library_name, card.data.base_model) == ("peft", None)
    found = compare(BASE, TUNED)
    for words in (
        "For sums.", "rows.jsonl", "12 rows were trained", "ab" * 32, "| optimiser steps | 6 |",
        "| sft.learning_rate | 0.001 |", "| seed | 5 |", "50.0%", "100.0% [94.0%, 100.0%] | 60 |",
        str(found), "Not chosen yet", f"torch {torch.__version__}",
    ):  # fmt: skip
        assert words in card.content, words
    assert str(tmp_path) not in card.content
    assert re.search(r"SHA-256 [0-9a-f]{64}", card.content)


def test_a_difference_that_does_not_show_is_told_so_and_other_questions_are_refused(
    run: Path,
) -> None:
    alike = result("alike", [1, *([0, 1] * 30)[1:]], seed=3)
    assert "no difference shows" in write_model_card(run, results=[alike], base=BASE).read_text()
    others = result("others", [1] * 60, ids=[f"o{n}" for n in range(60)])
    with pytest.raises(ValueError, match="not comparable"):
        write_model_card(run, results=[others], base=BASE)
    with pytest.raises(ValueError, match=r"log-likelihoods.*are equal"):
        write_model_card(run, results=[result("base", [0, 1] * 30)], base=BASE)


def test_a_person_s_own_text_stays_and_a_program_s_is_replaced(adapter: Path) -> None:
    text = write_model_card(adapter, license="mit").read_text()
    assert "license: mit" in text
    assert "Not evaluated." in text
    assert "The settings are not recorded." in text
    write_model_card(adapter)
    (adapter / "README.md").write_text("# My notes\n")
    with pytest.raises(ValueError, match="is your own text"):
        write_model_card(adapter)
    with pytest.raises(ValueError, match="holds no adapter and no model"):
        write_model_card(adapter.parent / "nothing")
    (adapter / "README.md").unlink()
    with pytest.raises(FileNotFoundError, match="it holds no run"):
        write_model_card(adapter, run=adapter)


def test_only_a_complete_folder_is_shared_and_no_token_is_shown(
    small_model_dir: Path,
    tmp_path: Path,
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ValueError, match="has no tokenizer"):
        share(adapter)
    from mathsft.models.tuned import load_tuned

    model, _ = load_tuned(adapter)
    _, tokenizer = load_model(small_model_dir)
    whole = save_adapter(model, tmp_path / "whole", tokenizer=tokenizer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no model card"):
        share(whole)
    write_model_card(whole)
    with pytest.raises(ValueError, match="give USER/NAME"):
        share(whole, "mine")
    assert share(whole, "me/mine") == str(whole)
    assert "no token was found" in capsys.readouterr().out

    sent: dict[str, dict[str, str]] = {}

    def upload(*, folder_path: Path, repo_id: str, **_: object) -> None:
        sent[repo_id] = {
            path.name: path.read_text(errors="ignore") for path in folder_path.iterdir()
        }

    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    monkeypatch.setattr("huggingface_hub.create_repo", lambda repo, **_: f"https://hub/{repo}")
    monkeypatch.setattr("huggingface_hub.upload_folder", upload)
    assert share(whole, "me/mine") == "https://hub/me/mine"
    told = capsys.readouterr()
    assert "hf_secret" not in told.out + told.err
    assert {"README.md", "adapter_model.safetensors", "tokenizer.json"} <= sent["me/mine"].keys()
    assert str(small_model_dir) not in json.dumps(sent["me/mine"])
    assert str(small_model_dir) in (whole / "adapter_config.json").read_text()


def test_worked_answers_of_two_models_are_compared_on_the_same_problems() -> None:
    model, _ = load_model()
    problems = [{"question": f"{n} + 1 ?", "answer": str(n + 1)} for n in range(12)]
    none, all_ = ([{"correct": right}] * 12 for right in (False, True))
    a = worked_result(none, problems, name="base", model=model)
    b = worked_result(all_, problems, name="mine", model=model)
    found = compare(a, b)
    assert (found.n, found.gained, found.lost, found.p) == (12, 12, 0, 2 * 0.5**12)
    assert a.weights
    assert not a.adapter_hash
    with pytest.raises(ValueError, match="11 answers to 12 problems"):
        worked_result(none[1:], problems, name="x", model=model)
    with pytest.raises(ValueError, match="not comparable"):
        compare(a, worked_result(all_, problems[::-1], name="y", model=model))
