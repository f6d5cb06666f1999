"""`evaluate` by a server is `evaluate` of the model itself. The server is `model_server`'s."""

import asyncio
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from model_server import PROMPTS, Server, serving
from own_tasks import task_file
from served_tasks import written_task

from mathsft.cli import main
from mathsft.evaluation.compare import compare_all
from mathsft.evaluation.harness import ForestLM
from mathsft.evaluation.report import write_report
from mathsft.evaluation.results import load_results
from mathsft.evaluation.run import evaluate
from mathsft.evaluation.served import served_lm
from mathsft.generation.server_forms import ServerError
from mathsft.generation.server_scores import continuation_score
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
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        *(("vllm", task) for task in TASKS),
        ("sglang", "multiple_choice"),
        ("sglang", "loglikelihood"),
    ],
)
def test_a_server_gives_the_log_likelihoods_of_the_model_itself(
    loaded: Any, running: Server, tmp_path: Path, kind: str, task: str
) -> None:
    running.renew(kind)
    path = task_file(tmp_path, **TASKS[task])
    how: dict[str, Any] = {"num_fewshot": 2, "bootstrap_iters": 0}
    own = evaluate(loaded[0], str(path), tokenizer=loaded[1], **how)
    served = evaluate("tiny", str(path), base_url=running.url, **how)
    assert running.bodies
    assert served.ids == own.ids
    assert served.prompts == own.prompts
    for ours, theirs in zip(own.questions, served.questions, strict=True):
        assert theirs["loglikelihoods"] == pytest.approx(ours["loglikelihoods"], abs=1e-4)
        assert theirs["metrics"] == pytest.approx(ours["metrics"], abs=1e-4)
    assert served.harness == pytest.approx(own.harness, rel=1e-4, nan_ok=True)


@pytest.mark.parametrize("kind", ["vllm", "sglang", "transformers"])
def test_a_server_s_answers_are_judged_as_those_of_the_model_itself(
    loaded: Any, running: Server, tmp_path: Path, kind: Any
) -> None:
    running.renew(kind)
    path = str(written_task(tmp_path))
    own = evaluate(loaded[0], path, tokenizer=loaded[1])
    served = evaluate("tiny", path, base_url=running.url, server=kind)
    assert own.harness["exact_match,last"] == pytest.approx(2 / 3)  # every third reference is wrong
    assert [q["metrics"] for q in served.questions] == [q["metrics"] for q in own.questions]


class Asked(NamedTuple):
    args: tuple[str, dict[str, Any]]


@pytest.mark.parametrize("kind", ["vllm", "sglang", "transformers"])
def test_an_answer_ends_where_the_task_says(loaded: Any, running: Server, kind: Any) -> None:
    running.renew(kind)
    how = {"until": [" =", "\n104"], "max_gen_toks": 24, "do_sample": False}
    asked: Any = [Asked((text, how)) for text in PROMPTS]
    expected = ForestLM(loaded[0], tokenizer=loaded[1]).generate_until(asked)
    assert any(expected)
    with served_lm(running.url, "tiny", {}, tokenizer=loaded[1], server=kind) as (lm, _):
        assert lm.generate_until(asked) == expected
        lm.max_length = 20  # room for fewer tokens than it may write
        with pytest.raises(ValueError, match=r"up to 24 tokens.*20 together.*max_gen_toks"):
            lm.generate_until(asked)


def test_what_does_not_fit_is_cut_as_for_the_model_itself_and_a_line_says_so(
    loaded: Any, running: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    how = {"until": [], "max_gen_toks": 6}
    asked: Any = [Asked((text, how)) for text in PROMPTS]
    own = ForestLM(loaded[0], tokenizer=loaded[1], max_length=20)
    expected = own.generate_until(asked)
    with served_lm(running.renew("vllm").url, "tiny", {}, tokenizer=loaded[1]) as (lm, _):
        assert lm.max_length == 512  # as the server says
        lm.max_length = 20
        capsys.readouterr()
        assert lm.generate_until(asked) == expected
        assert "1 prompts exceed" in capsys.readouterr().out
        context, rest = lm.tok_encode(PROMPTS[1]), [5, 6]
        lm.max_length = 13  # one more token is written, and that has to fit too
        assert lm._loglikelihood_tokens([(None, context, rest)]) == [
            continuation_score(lm._ask, "vllm", context[-10:], rest, model="tiny")
        ]
        assert "1 requests exceed" in capsys.readouterr().out


def test_a_notebook_s_event_loop_does_not_matter(running: Server, tmp_path: Path) -> None:
    async def cell() -> Any:
        return evaluate("tiny", str(task_file(tmp_path)), base_url=running.renew("vllm").url)

    assert len(asyncio.run(cell()).questions) == 6


def test_a_served_result_is_saved_compared_and_reported_beside_one_of_the_model_itself(
    loaded: Any, running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATHSFT_API_KEY", "s3cret")
    running.renew("vllm")
    results, path = tmp_path / "results", str(task_file(tmp_path))
    own = evaluate(loaded[0], path, tokenizer=loaded[1], name="own", folder=results)
    (tmp_path / "other").mkdir()
    written = str(written_task(tmp_path / "other"))
    evaluate("tiny", written, base_url=running.url, name="served", folder=results)
    running.spoil = shifted
    served = evaluate("tiny", path, base_url=running.url, name="served", folder=results)
    assert {*running.keys} == {"Bearer s3cret"}
    assert (served.weights, served.dtype) == ("", "")
    assert served.hardware == f"vllm at {running.url}"
    found = compare_all([own, served])
    assert [(one.a, one.b, one.n) for one in found] == [("own", "served", 6)]
    page = write_report(results, tmp_path / "page.html", base="own")
    rows = list(csv.DictReader(page.with_suffix(".csv").open()))
    assert [(row["task"], row["run"]) for row in rows] == [
        ("mine", "own"), ("mine", "served"), ("written", "served"),
    ]  # fmt: skip
    assert rows[0]["acc,none"]
    assert rows[2]["exact_match,last"]
    texts = [file.read_text() for file in (page, page.with_suffix(".csv"), *results.iterdir())]
    assert not any("s3cret" in text for text in texts)


def shifted(found: Any) -> tuple[int, Any]:
    """Another model's log-probabilities."""
    for choice in found.get("choices", ()):
        values = choice["logprobs"]["token_logprobs"]
        values[1:] = [value - 0.01 * len(values) for value in values[1:]]
    return 200, found


def test_the_same_scores_as_the_base_s_are_an_error_for_a_server_too(
    loaded: Any, running: Server, tmp_path: Path
) -> None:
    path = str(task_file(tmp_path))
    own = evaluate(loaded[0], path, tokenizer=loaded[1])
    with pytest.raises(ValueError, match="are equal"):
        evaluate("tiny", path, base_url=running.renew("vllm").url, base=own)


def no_logprobs(found: Any) -> tuple[int, Any]:
    for choice in found.get("choices", ()):
        choice["logprobs"] = None
    return 200, found


def without_a_number(found: Any) -> tuple[int, Any]:
    for choice in found.get("choices", ()):
        choice["logprobs"]["token_logprobs"][-2] = float("nan")
    return 200, found


def no_text(found: Any) -> tuple[int, Any]:
    for choice in found.get("choices", ()):
        choice["text"] = None
    return 200, found


def other_tokens(found: Any) -> tuple[int, Any]:
    return 200, {"tokens": [1, 2]} if "tokens" in found else found


def a_page(found: Any) -> tuple[int, Any]:
    return 200, b"<html>log in</html>"


def other_form(found: Any) -> tuple[int, Any]:
    return 200, {"choices": [{"index": 0, "text": "a", "logprobs": ["x"]}]}


def no_list(found: Any) -> tuple[int, Any]:
    return 200, {"choices": ["a"]}


@pytest.mark.parametrize(
    ("given", "spoil", "error", "message"),
    [
        ({"server": "transformers"}, None, ValueError, "mine: needs log-likelihoods"),
        ({"server": "chat"}, None, ValueError, "mine: needs log-likelihoods"),
        ({}, no_logprobs, ServerError, "gave no log-probabilities of a prompt's tokens"),
        ({}, without_a_number, ServerError, "expected a finite one for each"),
        ({}, other_tokens, ValueError, "tokenizer makes 2 tokens.*tokenizer="),
        ({"model": "tinny"}, None, ServerError, "tinny"),
        ({"base_url": "localhost:8000"}, None, ValueError, "give the server's address"),
        ({"base_url": "http://me:pw@localhost"}, None, ValueError, "a password.*MATHSFT_API_KEY"),
        ({"base_url": "http://127.0.0.1:9"}, None, ServerError, "no server answers"),
        ({"quantize": True}, None, ValueError, "quantize does not go with base_url"),
        ({"use_cache": "cache"}, None, ValueError, "use_cache.*another model would get its"),
        ({"concurrency": 0}, None, ValueError, "concurrency"),
        ({"answer_timeout": 0.0}, None, ValueError, "timeout"),
        ({"tokenizer": "no/such/folder/x"}, None, OSError, "tokenizer= names"),
        ({"written": True}, no_text, ServerError, "has no text"),
        ({"written": True}, a_page, ServerError, "not JSON: '<html>log in"),
        ({"written": True}, other_form, ServerError, "not the form of vllm"),
        ({"written": True}, no_list, ServerError, "did not give 1 answers"),
        ({}, a_page, ServerError, "not JSON"),
        ({"written": True, "server": "chat"}, None, ValueError, "apply_chat_template=True"),
        ({"written": True, "gen_kwargs": "num_beams=2"}, None, ValueError, "num_beams: not sent"),
    ],
)  # fmt: skip
def test_what_a_server_cannot_do_is_told_and_nothing_is_replaced(
    running: Server, tmp_path: Path, given: dict[str, Any], spoil: Any, error: Any, message: str
) -> None:
    running.renew("vllm").spoil = spoil
    task = written_task(tmp_path) if given.pop("written", False) else task_file(tmp_path)
    how = {"model": "tiny", "base_url": running.url, "tokenizer": "tiny", **given}
    with pytest.raises(error, match=message):
        evaluate(how.pop("model"), str(task), **how)


def test_a_loaded_model_is_no_name_on_a_server(loaded: Any, running: Server) -> None:
    with pytest.raises(ValueError, match="the model's name on the server"):
        evaluate(loaded[0], "mathqa_tiny", tokenizer=loaded[1], base_url=running.url)


def test_a_server_of_chats_gets_the_conversation(
    loaded: Any, running: Server, tmp_path: Path
) -> None:
    running.renew("vllm")
    running.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}\n"
    try:
        path = str(written_task(tmp_path))
        served = evaluate(
            "tiny", path, base_url=running.url, server="chat", apply_chat_template=True
        )
    finally:
        running.tokenizer.chat_template = None
    (body, *_) = running.bodies
    assert body["messages"][0]["role"] == "user"
    assert len(body.get("stop", ())) <= 4
    assert served.hardware.startswith("chat at")
    assert served.harness["exact_match,last"] > 0


def test_the_command_line_evaluates_a_server(
    running: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running.renew("vllm")
    task = str(task_file(tmp_path))
    given = ["--model", "tiny", "--tasks", task, "--base_url", running.url, "--tokenizer", "tiny"]
    main(["evaluate", *given, "--folder", str(tmp_path / "results")])
    assert "tiny, mine: acc" in capsys.readouterr().out
    assert [r.hardware for r in load_results(tmp_path / "results")] == [f"vllm at {running.url}"]
