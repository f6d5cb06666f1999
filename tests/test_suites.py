"""Suites name tasks that exist, and each is asked and judged over rows of its own format."""

import csv
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from benchmark_rows import GENERATED, SCORED, local_task
from lm_eval.api.model import LM

from mathsft.evaluation.report import write_report
from mathsft.evaluation.requests import quiet_harness
from mathsft.evaluation.run import evaluate
from mathsft.evaluation.suites import ELSEWHERE, SUITES, in_full
from mathsft.evaluation.task_files import TASKS, _harness_names
from mathsft.evaluation.tasks import load_tasks, task_manager

pytestmark = pytest.mark.same_everywhere


class CodeEval:
    """The metric code_eval, whose script is on the hub: runs each answer in a process of its own.

    As there, nothing runs unless HF_ALLOW_CODE_EVAL says so.
    """

    def compute(self, references: Any, predictions: Any, k: Any) -> Any:
        import os

        if os.environ.get("HF_ALLOW_CODE_EVAL") != "1":
            raise ValueError("set HF_ALLOW_CODE_EVAL")
        right = []
        for test, (answer, *_) in zip(references, predictions, strict=True):
            program = [sys.executable, "-I", "-c", f"{answer}\n{test}"]
            right.append(not subprocess.run(program, capture_output=True, timeout=20).returncode)
        return {"pass@1": sum(right) / len(right)}, {}


@pytest.fixture
def code_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate as metrics

    monkeypatch.setattr(metrics, "load", lambda name: {"code_eval": CodeEval()}[name])
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")


class Given(LM):
    """Answers with the given texts in turn; holds the right one of several answers likelier."""

    def __init__(self, answers: Any, right: bool) -> None:
        super().__init__()
        self.answers, self.right = answers, right

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return [self.answers[request.doc_id] for request in requests]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        found = []
        for request in requests:
            said = request.args[1].strip()
            doc = request.doc
            wanted = {
                "mathqa": doc.get("options", "").split("b ) ")[-1].split(" ,")[0],
                "asdiv": "3", "gpqa_main_zeroshot": doc.get("answer"), "mmlu": "C",
            }[request.task_name.removeprefix("local_")]  # fmt: skip
            found.append((-1.0 if (said == wanted) == self.right else -5.0, said == wanted))
        return [(value, greedy and self.right) for value, greedy in found]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError


def judged(path: Path, lm: LM, **how: Any) -> dict[str, float]:
    """The harness's figures, by its own functions of the task."""
    manager = task_manager([str(path)], trust_task_code=True)
    with quiet_harness():
        tasks = load_tasks(manager, [str(path)])["tasks"]
        found = lm_eval.simple_evaluate(
            lm, tasks=[*tasks.values()], bootstrap_iters=0, task_manager=manager, **how
        )
    assert found is not None
    (figures,) = found["results"].values()
    return {
        key.partition(",")[0]: value
        for key, value in sorted(figures.items(), reverse=True)
        if isinstance(value, float) and "stderr" not in key
    }


@pytest.fixture
def any_antlr(monkeypatch: pytest.MonkeyPatch) -> None:
    """minerva_math insists on antlr4 4.11; its judge, math-verify, takes the one that is there."""
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda n: "4.11.0" if n.startswith("antlr4") else real(n)
    )


METRICS = {
    "gsm8k": ["exact_match"], "minerva_math": ["math_verify"],
    "aime": ["exact_match"], "svamp": ["exact_match"], "humaneval": ["pass@1"],
    "mbpp": ["pass_at_1"], "ifeval": ["prompt_level_strict_acc", "inst_level_loose_acc"],
    "mathqa": ["acc", "acc_norm"], "asdiv": ["acc"], "gpqa_main_zeroshot": ["acc", "acc_norm"],
    "mmlu": ["acc"],
}  # fmt: skip


@pytest.mark.parametrize("name", METRICS)
def test_a_right_answer_counts_and_a_wrong_one_does_not(
    tmp_path: Path, name: str, code_eval: None, any_antlr: None
) -> None:
    path = local_task(tmp_path, name)
    how: dict[str, Any] = {"num_fewshot": 1} if name in ("gsm8k", "svamp") else {}
    if name in ("humaneval", "mbpp"):
        how["confirm_run_unsafe_code"] = True
    _, rows, *answers = {**GENERATED, **SCORED}[name]
    right, wrong = answers or ([], "")
    good = judged(path, Given(right, right=True), **how)
    bad = judged(path, Given([wrong] * len(rows), right=False), **how)
    for metric in METRICS[name]:
        assert (good[metric], bad[metric]) == (1.0, 0.0), metric


def test_every_task_of_a_suite_is_one_of_the_harness_or_ours() -> None:
    ours = {path.stem for path in TASKS.glob("*.yaml")}
    names = {name for suite in SUITES.values() for name in suite}
    assert names <= _harness_names() | ours
    assert names == {*METRICS}  # each is tried here
    assert not SUITES.keys() & (_harness_names() | ours)
    for name in ELSEWHERE:
        assert not [task for task in _harness_names() if task.replace("_", "").startswith(name)]


def test_suites_and_tasks_may_be_mixed_and_each_task_comes_once() -> None:
    assert in_full("code") == ["humaneval", "mbpp"]
    assert in_full(["ifeval", "instruction", "mathqa_tiny"]) == ["ifeval", "mathqa_tiny"]
    assert in_full("mathqa") == ["mathqa"]
    assert in_full("mine/mtbench.yaml") == ["mine/mtbench.yaml"]


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("LiveCodeBench", "LiveCodeBench/LiveCodeBench"), ("swe_bench", "swebench"),
        ("SWE-bench-verified", "swebench"), ("arena-hard", "arena-hard-auto"),
        ("mt_bench", "FastChat"), ("scicode", "scicode-bench"),
    ],
)  # fmt: skip
def test_what_the_harness_lacks_is_named_with_the_tool_that_has_it(name: str, tool: str) -> None:
    with pytest.raises(ValueError, match=tool):
        evaluate("tiny", name)
    with pytest.raises(ValueError, match=tool):
        evaluate("tiny", ["mathqa_tiny", name])


def test_answers_are_run_as_programs_only_if_it_is_confirmed(
    tmp_path: Path, code_eval: None
) -> None:
    path = str(local_task(tmp_path, "humaneval"))
    with pytest.raises(ValueError, match="would run code"):
        evaluate("tiny", path)
    with pytest.raises(ValueError, match="confirm_run_unsafe_code"):
        evaluate("tiny", path, trust_task_code=True, gen_kwargs="max_gen_toks=4")


def test_choices_that_a_task_shuffles_are_the_same_in_each_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import random

    import datasets

    path = str(local_task(tmp_path, "gpqa_main_zeroshot"))
    found = []
    for seed in (1, 2):
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
        datasets.disable_caching()
        random.seed(seed)
        found.append(evaluate("tiny", path, trust_task_code=True).ids)
    datasets.enable_caching()
    assert found[0] == found[1]


@pytest.mark.slow
def test_all_benchmarks_are_in_one_table_and_report(
    tmp_path: Path, code_eval: None, any_antlr: None
) -> None:
    paths = {name: str(local_task(tmp_path, name)) for name in METRICS}
    results = tmp_path / "results"
    how: dict[str, Any] = {
        "name": "one", "folder": results, "trust_task_code": True, "limit": 1,
        "confirm_run_unsafe_code": True, "gen_kwargs": "max_gen_toks=8", "bootstrap_iters": 0,
    }  # fmt: skip
    shown = [paths.pop(name) for name in ("gsm8k", "svamp")]
    evaluate("tiny", shown, num_fewshot=1, **how)  # there are not enough rows for five
    evaluate("tiny", [*paths.values()], **how)
    page = write_report(results, tmp_path / "report.html", reference=False)
    rows = list(csv.DictReader(page.with_suffix(".csv").open()))
    assert {row["task"] for row in rows} == {f"local_{name}" for name in METRICS}
    for row in rows:
        for metric in METRICS[row["task"].removeprefix("local_")]:
            assert any(key.startswith(metric) and value for key, value in row.items()), row["task"]
    text = page.read_text()
    assert all(f"local_{name}" in text for name in METRICS)


def test_a_task_that_needs_another_package_says_which() -> None:
    class Manager:
        def load(self, tasks: Any) -> Any:  # as minerva_math's own module does
            raise AssertionError("`antlr4-python3-runtime==4.11` is required")

    manager: Any = Manager()
    with pytest.raises(ImportError, match=r"minerva_math: .*4\.11.*leave that task out"):
        load_tasks(manager, ["minerva_math"])
