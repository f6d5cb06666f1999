"""`evaluate` by a server is `evaluate` of the model itself. The server is `model_server`'s."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import Server, serving
from own_tasks import task_file

from mathsft.evaluation.compare import compare_all
from mathsft.evaluation.report import write_report
from mathsft.evaluation.results import load_results
from mathsft.evaluation.run import evaluate
from mathsft.generation.server_forms import ServerError
from mathsft.models.loading import load_model


@pytest.fixture(scope="module")
def loaded() -> Any:
    model, tokenizer = load_model("tiny", device="cpu")
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def running(loaded: Any) -> Iterator[Server]:
    with serving(*loaded) as server:
        yield server


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MATHSFT_API_KEY", raising=False)


WRITING = {
    "output_type": "generate_until",
    "doc_to_text": '"Question: {{q}}\\nAnswer:"',
    "doc_to_choice": "",
    "doc_to_target": '"{{choices[0]}}"',
    "generation_kwargs": '{until: ["\\n", "Q"], max_gen_toks: 12}',
    "metric_list": "[{metric: exact_match, aggregation: mean, higher_is_better: true}]",
}
TASKS: dict[str, dict[str, str]] = {
    "multiple_choice": {},
    "loglikelihood": {
        "output_type": "loglikelihood", "doc_to_choice": "", "doc_to_target": '"{{choices[0]}}"',
        "metric_list": "[{metric: acc}, {metric: perplexity}]",
    },
    "loglikelihood_rolling": {
        "output_type": "loglikelihood_rolling", "doc_to_choice": "", "doc_to_target": "q",
        "doc_to_text": '""', "metric_list": "[{metric: word_perplexity}]",
    },
    "generate_until": WRITING,
}  # fmt: skip


def told(result: Any) -> Any:
    return [(q["id"], q["label"], q["metrics"]) for q in result.questions]


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize("task", TASKS)
def test_a_server_gives_what_the_model_itself_gives(
    loaded: Any, running: Server, tmp_path: Path, kind: str, task: str
) -> None:
    running.renew(kind)
    path = task_file(tmp_path, **TASKS[task])
    own = evaluate(loaded[0], str(path), tokenizer=loaded[1], num_fewshot=2, bootstrap_iters=0)
    served = evaluate("tiny", str(path), base_url=running.url, num_fewshot=2, bootstrap_iters=0)
    assert running.bodies
    assert served.ids == own.ids
    assert served.prompts == own.prompts
    for ours, theirs in zip(own.questions, served.questions, strict=True):
        assert theirs["loglikelihoods"] == pytest.approx(ours["loglikelihoods"], abs=1e-4)
        assert theirs["metrics"] == pytest.approx(ours["metrics"], abs=1e-4)
    assert served.harness == pytest.approx(own.harness, rel=1e-4, nan_ok=True)
