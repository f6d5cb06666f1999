"""From a model to a stored result, by the harness's own tasks."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_tasks import HARNESS
from hub import local_hub  # noqa: F401  (the fixture)
from lm_eval.tasks._yaml_loader import load_yaml
from model_files import trained
from peft import get_peft_model
from problem_rows import MATHQA

from mathsft.data.problems import read_problems
from mathsft.evaluation.results import Result, load_results
from mathsft.evaluation.run import evaluate
from mathsft.evaluation.tasks import TASKS
from mathsft.models.adapters import save_adapter
from mathsft.models.likelihood import choice_logprobs
from mathsft.models.loading import load_model


@pytest.fixture(scope="module")
def base(small_model_dir: Path) -> Result:
    return evaluate(small_model_dir, "mathqa_tiny", name="base", limit=20)


def test_our_task_files_are_the_harness_s_but_for_where_rows_come_from() -> None:
    stock = load_yaml(HARNESS / "mathqa" / "mathqa.yaml")
    stock_choices = stock.pop("doc_to_choice")
    for key in ("tag", "dataset_path", "task"):
        stock.pop(key)
    row = {"options": "['a ) 1 , 000', 'b ) 2', 'c ) 3', 'd ) 4', 'e ) 5']"}
    for name in ("mathqa_file", "mathqa_tiny"):
        ours = load_yaml(TASKS / f"{name}.yaml")
        assert ours.pop("task") == name
        assert callable(ours.pop("custom_dataset"))
        assert ours.pop("doc_to_choice")(row) == stock_choices(row)
        assert ours == stock
    clean = load_yaml(TASKS / "mathqa_file_clean.yaml")
    assert clean["doc_to_choice"](row) == ["1 , 000", "2", "3", "4", "5"]


def test_a_result_says_for_each_question_what_choice_logprobs_says(small_model_dir: Path) -> None:
    model, tokenizer = load_model(small_model_dir)
    found = evaluate(model, "mathqa_tiny", tokenizer=tokenizer, limit=25)
    problems = read_problems("tiny-mathqa", split="test", limit=25)[0]
    scores = choice_logprobs(model, tokenizer, problems)
    assert [q["question"] for q in found.questions] == problems["question"]
    assert [q["choices"] for q in found.questions] == problems["choices"]
    assert [q["label"] for q in found.questions] == problems["label"]
    for ours, theirs in zip(found.scores(), scores, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert found.accuracy().accuracy == pytest.approx(found.harness["acc,none"])
    assert found.accuracy("acc_norm").accuracy == pytest.approx(found.harness["acc_norm,none"])
    assert found.chance == pytest.approx(0.2)
    assert not model.training


def test_a_model_is_left_in_the_mode_it_was_in(small_model_dir: Path) -> None:
    model, tokenizer = load_model(small_model_dir)
    for training in (True, False):
        model.train(training)
        evaluate(model, "mathqa_tiny", tokenizer=tokenizer, limit=2)
        assert model.training is training


def test_a_cache_answers_for_its_own_model_only_and_keeps_nothing_that_is_not_finite(
    small_model_dir: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_model(small_model_dir)
    arguments: dict[str, Any] = {"tokenizer": tokenizer, "limit": 3, "use_cache": tmp_path / "c"}
    first = evaluate(model, "mathqa_tiny", **arguments)
    assert evaluate(model, "mathqa_tiny", **arguments).scores() == first.scores()
    assert len([*tmp_path.glob("c*.db")]) == 1
    by_name = {**arguments, "tokenizer": None}
    four_bit = evaluate(small_model_dir, "mathqa_tiny", quantize=True, **by_name)
    assert four_bit.weights != first.weights
    assert four_bit.scores() != first.scores()
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    assert evaluate(model, "mathqa_tiny", **arguments).scores() != first.scores()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    for _ in range(2):
        with pytest.raises(ValueError, match="is nan"):
            evaluate(model, "mathqa_tiny", **arguments)


def test_a_result_does_not_overwrite_that_of_another_run(base: Result, tmp_path: Path) -> None:
    base.save(tmp_path)
    base.save(tmp_path)  # as after a second evaluation
    few = evaluate("tiny", "mathqa_tiny", name="base", limit=2, num_fewshot=1, folder=tmp_path)
    assert len(load_results(tmp_path)) == 2
    with pytest.raises(ValueError, match="holds the result of 'base': give 'Base' another name"):
        replace(base, name="Base").save(tmp_path)
    with pytest.raises(ValueError, match="same num_fewshot"):
        evaluate("tiny", "mathqa_tiny", limit=2, base=few)
    with pytest.raises(ValueError, match="base is a result of mathqa, which is not evaluated"):
        evaluate("tiny", "mathqa_tiny", limit=2, base=replace(base, task="mathqa"))


def test_a_result_is_stored_and_read_back_whole(base: Result, tmp_path: Path) -> None:
    path = base.save(tmp_path)
    (tmp_path / "other.json").write_text("[1]")
    assert load_results(tmp_path) == load_results(path) == [base]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert base.minutes > 0
    assert base.peak_memory_gb > 0.1
    assert {"torch", "transformers", "lm_eval", "mathsft"} <= base.versions.keys()
    assert base.hardware.startswith("CPU")
    assert base.date[:2] == "20"
    assert base.dtype == "float32"


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"mathsft_result": 1,', "not valid JSON"), ('{"mathsft_result": 1}', "missing: evaluate")],
)
def test_a_damaged_result_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cut.json").write_text(text)
    with pytest.raises(ValueError, match=rf"cut\.json.*{message}"):
        load_results(tmp_path)
    (tmp_path / "cut.json").write_text("{}")
    with pytest.raises(ValueError, match="not a result of an evaluation"):
        load_results(tmp_path / "cut.json")
    with pytest.raises(FileNotFoundError):
        load_results(tmp_path / "nowhere")


def test_hashes_distinguish_weights_that_names_do_not(
    small_model_dir: Path, tmp_path: Path, base: Result
) -> None:
    model, tokenizer = load_model(small_model_dir)
    model = trained(model)
    save_adapter(model, tmp_path / "adapter")
    arguments: dict[str, Any] = {"limit": 20, "base": base}
    found = evaluate(model, "mathqa_tiny", tokenizer=tokenizer, **arguments)
    loaded = evaluate(small_model_dir, "mathqa_tiny", peft=tmp_path / "adapter", **arguments)
    assert found.weights == loaded.weights == base.weights
    assert found.adapter_hash == loaded.adapter_hash != base.adapter_hash == ""
    assert loaded.name == f"small + {tmp_path.name}"  # the folder "adapter" says nothing
    assert loaded.scores() == found.scores()
    with torch.no_grad():
        model.get_base_model().model.norm.weight.mul_(1.5)
    assert evaluate(model, "mathqa_tiny", tokenizer=tokenizer, limit=2).weights != base.weights


def test_the_public_experiment_s_failure_is_an_error_at_each_of_its_steps(
    small_model_dir: Path, tmp_path: Path, base: Result
) -> None:
    """Wrap twice, merge, save the merged weights into the adapter's folder, and score."""
    folder = tmp_path / "adapter"
    model, tokenizer = load_model(small_model_dir)
    once = trained(model)
    config = once.peft_config["default"]
    twice = get_peft_model(once, config)  # running the cell again does this
    with torch.no_grad():
        for name, parameter in twice.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    with pytest.raises(ValueError, match="wrapped with an adapter twice"):
        save_adapter(twice, folder)
    twice.save_pretrained(folder)  # peft itself saves it silently

    arguments: dict[str, Any] = {"limit": 20, "base": base}
    with pytest.raises(ValueError, match="the adapter was wrapped twice"):
        evaluate(small_model_dir, "mathqa_tiny", peft=folder, **arguments)
    trained(load_model(small_model_dir)[0]).merge_and_unload().save_pretrained(folder)
    with pytest.raises(ValueError, match="holds a full model and an adapter"):
        evaluate(small_model_dir, "mathqa_tiny", peft=folder, **arguments)
    with pytest.raises(ValueError, match="holds a full model and an adapter"):
        evaluate(folder, "mathqa_tiny", **arguments)

    # Loaded without our checks, as in the public notebook, it is the base under another name.
    from peft import PeftModel

    with pytest.warns(UserWarning, match="missing adapter keys"):
        loaded = PeftModel.from_pretrained(load_model(small_model_dir)[0], folder)
    with pytest.raises(ValueError, match="this adapter does nothing"):
        evaluate(loaded, "mathqa_tiny", tokenizer=tokenizer, **arguments)
    again, _ = load_model(small_model_dir)
    with pytest.raises(ValueError, match=r"all 100 log-likelihoods of 'base' and 'SFT' are equal"):
        evaluate(again, "mathqa_tiny", tokenizer=tokenizer, name="SFT", batch_size=1, **arguments)


def test_readings_of_a_file_of_real_rows_differ_where_the_harness_garbles(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((data_dir / "mathqa" / "dev.json").read_text(encoding="utf-8"))
    listed = [row for row in rows if row["options"].startswith("[")][:10]
    file = tmp_path / "some.json"
    file.write_text(json.dumps([*rows[:20], *listed]), encoding="utf-8")
    official, clean = evaluate(
        "tiny", ["mathqa_file", "mathqa_file_clean"], file=file, num_fewshot=1
    )
    assert len(official.questions) == 30
    assert official.num_fewshot == 1
    theirs = {q["id"]: q["choices"] for q in official.questions}
    differ = [q for q in clean.questions if q["choices"] != theirs[q["id"]]]
    assert len(differ) >= len(listed) - (30 - len(clean.questions))
    assert not any("'" in choice for q in clean.questions for choice in q["choices"])
    assert any("'" in choice for choices in theirs.values() for choice in choices)


@pytest.mark.slow
def test_the_hub_s_own_task_is_evaluated_by_its_name(local_hub: Any, tmp_path: Path) -> None:  # noqa: F811
    import pandas as pd

    folder = local_hub.folder("datasets", "regisss/math_qa") / "data"
    folder.mkdir()
    rows = [{**MATHQA, "Problem": f"what is {n} + 3 ?"} for n in range(6)]
    for split in ("train", "validation", "test"):
        pd.DataFrame(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    code = (
        "from mathsft import evaluate\n"
        "for r in evaluate('tiny', ['mathqa', 'mathqa_clean'], limit=4): print('RESULT', r)"
    )
    done = local_hub.python(code, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert ["mathqa: acc" in told[0], "mathqa_clean: acc" in told[1]] == [True, True]
    assert "(n = 4)" in told[0]


@pytest.mark.slow
def test_the_harness_s_command_line_knows_our_model_and_our_tasks(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "mathsft.lm_eval", "--model", "mathsft",
        "--model_args", "pretrained=tiny,quantize=True", "--tasks", "mathqa_tiny",
        "--limit", "8", "--log_samples", "--output_path", str(tmp_path / "out"),
        "--num_fewshot", "2",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "mathqa_tiny" in done.stdout
    (results,) = (tmp_path / "out").rglob("results_*.json")
    (samples,) = (tmp_path / "out").rglob("samples_mathqa_tiny_*.jsonl")
    assert json.loads(results.read_text())["n-shot"] == {"mathqa_tiny": 2}
    logged = [json.loads(line) for line in samples.read_text().splitlines()]
    ours = evaluate("tiny", "mathqa_tiny", quantize=True, limit=8, num_fewshot=2)
    assert len(logged) == 8
    for sample, scores in zip(
        sorted(logged, key=lambda s: s["doc_id"]), ours.scores(), strict=True
    ):
        assert [float(r[0][0]) for r in sample["resps"]] == pytest.approx(scores, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": "mathqa_tony"}, r"unknown task 'mathqa_tony'.*did you mean 'mathqa_tiny'"),
        ({"tasks": "mathqa_file"}, "which file"),
        ({"tasks": "mathqa_tiny", "peft": "nowhere/adapter"}, "nowhere/adapter"),
        ({"tasks": "mathqa_tiny", "revision": "main"}, "revision"),
    ],
    ids=["a task nobody has", "no file", "no adapter", "a revision of what is no hub name"],
)
@pytest.mark.slow
def test_a_wrong_argument_says_what_to_give(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MATHSFT_MATHQA", raising=False)
    with pytest.raises((ValueError, OSError), match=message):
        evaluate("tiny", **arguments)


def test_an_argument_for_models_that_the_harness_loads_is_refused() -> None:
    with pytest.raises(ValueError, match="device would change nothing"):
        evaluate("tiny", "mathqa_tiny", device="cpu", limit=2)
