"""What ``lm_eval --log_samples`` writes is read as results: real output of the harness."""

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from harness_tasks import task_over
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from mathsft import cli
from mathsft.evaluation.compare import compare
from mathsft.evaluation.requests import quiet_harness
from mathsft.evaluation.results import Result, load_results, read_results
from mathsft.models.loading import load_model

FILTERS = [
    {"name": "strict", "filter": [{"function": "regex", "regex_pattern": "#### (\\d+)"},
                                  {"function": "take_first"}]},
    {"name": "loose", "filter": [{"function": "regex", "regex_pattern": "(\\d+)"},
                                 {"function": "take_first"}]},
]  # fmt: skip


def logged(folder: Path, name: str, model: Any, tokenizer: Any, tasks: list[Any]) -> Any:
    """Evaluate, and save as the harness's command line does with ``--log_samples``."""
    tracker = EvaluationTracker(output_path=str(folder))
    with quiet_harness():
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
        found = lm_eval.simple_evaluate(
            lm, tasks=deepcopy(tasks), task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0, evaluation_tracker=tracker, log_samples=True, limit=12,
        )  # fmt: skip
        tracker.general_config_tracker.model_name = name
        tracker.general_config_tracker.model_name_sanitized = name.replace("/", "__")
        samples = found.pop("samples")
        tracker.save_results_aggregated(results=found, samples=samples)
        for task, some in deepcopy(samples).items():
            tracker.save_results_samples(task_name=task, samples=some)
    return samples


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> dict[str, Any]:
    """Two folders of real output, ``one`` and ``two``, and the samples as they were in memory."""
    folder = tmp_path_factory.mktemp("logs")
    rows = json.loads((data_dir / "mathqa" / "dev.json").read_text(encoding="utf-8"))
    choice = task_over(folder, "mathqa/mathqa.yaml", test=rows[:12], examples=rows[20:40])
    written = {
        **choice, "task": "written_local", "output_type": "generate_until",
        "doc_to_text": "{{Problem}} ####", "doc_to_target": "{{correct}}", "doc_to_choice": None,
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4}, "filter_list": FILTERS,
        "metric_list": [{"metric": "exact_match", "aggregation": "mean",
                         "higher_is_better": True}], "should_decontaminate": False,
    }  # fmt: skip
    model, tokenizer = load_model("tiny")
    found: dict[str, Any] = {"folder": folder}
    found["one"] = logged(folder / "one", "org/tiny", model, tokenizer, [choice, written])
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    found["two"] = logged(folder / "two", "org/tiny", model, tokenizer, [choice, written])
    return found


@pytest.fixture
def folder(written: dict[str, Any], tmp_path: Path) -> Path:
    for name in ("one", "two"):
        shutil.copytree(written["folder"] / name, tmp_path / name)
    return tmp_path


def task_of(results: list[Result], task: str) -> Result:
    return next(result for result in results if result.task == task)


def test_a_log_holds_each_question_as_the_harness_scored_it(
    written: dict[str, Any], folder: Path
) -> None:
    found = load_results(folder / "one")
    assert sorted(result.task for result in found) == ["local", "written_local"]
    local = task_of(found, "local")
    assert (local.name, local.model, local.num_fewshot, local.limit) == ("tiny", "org/tiny", 0, 12)
    for question, sample in zip(local.questions, written["one"]["local"], strict=True):
        assert question["id"] == sample["doc_hash"]
        assert question["loglikelihoods"] == [score for score, _ in sample["filtered_resps"]]
        assert question["metrics"] == {"acc": sample["acc"], "acc_norm": sample["acc_norm"]}
        assert question["label"] == sample["target"]
        assert question["choices"] == [asked[1].strip() for asked in sample["arguments"]]
        assert question["question"] == sample["doc"]["Problem"]
    assert local.harness["acc,none"] == pytest.approx(local.accuracy().accuracy)
    assert local.prompts
    # A folder, its model's subfolder, and a file of either kind are the same.
    (inner,) = (folder / "one").iterdir()
    assert [str(r) for r in load_results(inner)] == [str(r) for r in found]
    (samples,) = inner.glob("samples_local_*.jsonl")
    assert [r.task for r in load_results(samples)] == ["local"]
    (figures,) = inner.glob("results_*.json")
    assert [r.task for r in load_results(figures)] == ["local", "written_local"]


def test_two_logs_are_compared_question_by_question(
    written: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (task_of(load_results(folder / name), "local") for name in ("one", "two"))
    right = [[sample["acc"] for sample in written[name]["local"]] for name in ("one", "two")]
    found = compare(one, two)
    assert found.gained == sum(b > a for a, b in zip(*right, strict=True))
    assert found.lost == sum(b < a for a, b in zip(*right, strict=True))
    capsys.readouterr()
    cli.main(["compare", str(folder / "one"), str(folder / "two")])
    told = capsys.readouterr().out
    assert "tiny (two) against tiny (one): " in told
    assert f"{found.gained} gained and {found.lost} lost of 12" in told
    assert "by the filter strict; loose left out" in told
    assert "written_local: exact_match" in told


def test_the_newest_of_several_runs_is_read_and_a_line_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (inner,) = (folder / "one").iterdir()
    (samples,) = inner.glob("samples_local_*.jsonl")
    lines = samples.read_text(encoding="utf-8").splitlines(keepends=True)
    older = inner / "samples_local_2020-01-01T00-00-00.000001.jsonl"
    older.write_text(lines[0], encoding="utf-8")
    (figures,) = inner.glob("results_*.json")
    shutil.copy(figures, inner / "results_2020-01-01T00-00-00.000001.json")
    found = load_results(folder / "one")
    assert len(task_of(found, "local").questions) == 12
    assert "org/tiny, local: of 2 runs the newest is read" in capsys.readouterr().out


def test_samples_without_the_file_of_figures_are_enough(folder: Path) -> None:
    whole = task_of(load_results(folder / "one"), "local")
    (inner,) = (folder / "one").iterdir()
    next(inner.glob("results_*.json")).unlink()
    found = task_of(load_results(folder / "one"), "local")
    assert found.name == "org__tiny"
    assert [*found.questions] == [*whole.questions]
    assert (found.limit, found.harness) == (None, {})


def test_figures_without_samples_say_what_to_add(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (inner,) = (folder / "one").iterdir()
    for file in inner.glob("samples_*.jsonl"):
        file.unlink()
    with pytest.raises(ValueError, match=r"results_.*no samples of local.*with --log_samples"):
        load_results(folder / "one")
    with pytest.raises(SystemExit, match="--log_samples"):
        cli.main(["compare", str(folder / "one")])
    with pytest.raises(SystemExit, match="2 of the files were left out"):
        cli.main(["compare", str(folder / "one"), str(folder / "two")])
    told = capsys.readouterr().out
    assert told.count("left out: ") == 2
    assert "tiny, local: acc" in told


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: [*lines[:4], lines[4][:80]], r"line 5: not valid JSON"),
        (lambda lines: lines[:7], r"7 of 12 questions.*damaged"),
        (lambda lines: [*lines, lines[3]], r"line 13: question 3 is also in line 4"),
        (lambda lines: ['{"doc_id": 1}\n'], r"line 1: doc, target, .* missing"),
        (lambda lines: ["[1]\n"], r"line 1: no sample"),
        (lambda lines: [], r"no samples in it"),
        (lambda lines: ['{"doc_id": ' + "9" * 5000 + "}"], r"line 1: not usable as JSON"),
        (lambda lines: [line.replace('"doc": {', '"doc": 1, "old": {') for line in lines], None),
        (lambda lines: [line.replace('"arguments": {', '"arguments": 1, "old": {')
                        for line in lines], r"not the harness's samples"),
    ],
    ids=["cut", "cut at a line", "twice", "no sample", "a list", "empty", "digits", "doc", "args"],
)  # fmt: skip
def test_a_damaged_log_is_named_and_the_rest_is_read(
    folder: Path, spoil: Any, message: str | None
) -> None:
    (samples,) = (folder / "one").glob("*/samples_local_*.jsonl")
    lines = samples.read_text(encoding="utf-8").splitlines(keepends=True)
    samples.write_text("".join(spoil(lines)), encoding="utf-8")
    found, damaged = read_results(folder / "one")
    assert [result.task for result in found if result.task != "local"] == ["written_local"]
    if message is None:  # the harness may log a row that is no mapping
        assert damaged == []
        return
    with pytest.raises(ValueError, match=rf"samples_local_.*{message}"):
        load_results(folder / "one")


def test_two_models_in_one_folder_are_two_runs(folder: Path) -> None:
    (inner,) = (folder / "one").iterdir()
    (other,) = (folder / "two").iterdir()
    shutil.copytree(other, folder / "one" / "org__other")
    (figures,) = (folder / "one" / "org__other").glob("results_*.json")
    text = figures.read_text(encoding="utf-8").replace('"org/tiny"', '"org/other/adapter"')
    figures.write_text(text, encoding="utf-8")
    found = load_results(folder / "one")
    assert sorted(r.name for r in found if r.task == "local") == ["other", "tiny"]
    (inner / "notes_2020-01-01T00-00-00.json").write_text("[1]")  # somebody else's file
    assert len(load_results(folder / "one")) == 4


def test_numpy_s_truth_is_a_metric_too(folder: Path) -> None:
    """The harness writes numpy's numbers as text, such as the accuracy of truthfulqa_mc1."""
    (samples,) = (folder / "one").glob("*/samples_local_*.jsonl")
    text = samples.read_text(encoding="utf-8")
    text = text.replace('"acc": 1.0', '"acc": "True"').replace('"acc": 0.0', '"acc": "False"')
    before = task_of(load_results(folder / "one"), "local").correct()
    samples.write_text(text, encoding="utf-8")
    assert task_of(load_results(folder / "one"), "local").correct() == before
