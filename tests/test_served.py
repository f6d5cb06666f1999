"""Answers from a server: its own tokens, checked. The server is `model_server`'s."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from model_server import HOW, PROMPTS, Server, serving

from mathsft.generation.rollouts import sample_groups
from mathsft.generation.served import ServerError, served_groups
from mathsft.models.encoding import encode_prompts
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


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_the_answers_are_the_servers_own_tokens(loaded: Any, running: Server, kind: str) -> None:
    running.renew(kind)
    groups = served_groups(f"{running.url}/v1/", loaded[1], PROMPTS, seed=4, **HOW)
    assert [len(group) for group in groups] == [3, 3, 3]
    asked = {}
    for body in running.bodies:
        ids = body["prompt"] if kind == "vllm" else body["input_ids"][0]
        how = body if kind == "vllm" else body["sampling_params"][0]
        asked[tuple(ids)] = body["seed"] if kind == "vllm" else how["sampling_seed"]
        assert how["repetition_penalty"] == 1.0  # or the checkpoint's own would be used
        assert how["top_k"] == -1
        assert loaded[1].eos_token_id in how["stop_token_ids"]
    assert len(set(asked.values())) == 3
    for text, group in zip(PROMPTS, groups, strict=True):
        seed = asked[tuple(encode_prompts(loaded[1], [text])[0])]
        how = {"max_new_tokens": 8}
        if kind == "vllm":
            expected = sample_groups(*loaded, [text], num_generations=3, seed=seed, **how)[0]
        else:
            copies = range(seed, seed + 3)
            expected = [
                sample_groups(*loaded, [text], num_generations=1, seed=copy, **how)[0][0]
                for copy in copies
            ]
        assert group == expected
    again = served_groups(running.url, loaded[1], PROMPTS, seed=4, concurrency=1, **HOW)
    assert again == groups
    part = served_groups(running.url, loaded[1], PROMPTS[2:], seed=4, numbers=[2], **HOW)
    assert part == groups[2:]


def first(change: Any) -> Any:
    """A spoiler for vLLM's form: changes the first choice."""

    def spoil(found: Any) -> Any:
        change(found["choices"][0])
        return 200, found

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (first(lambda c: c.pop("token_ids")), "prompt 0: the server returned no token ids"),
        (first(lambda c: c.update(logprobs=None)), "returned no log-probabilities"),
        (first(lambda c: c["logprobs"]["token_logprobs"].pop()), "expected a finite one for each"),
        (first(lambda c: c.update(finish_reason="abort")), "broke off an answer"),
        (first(lambda c: c.update(finish_reason="stop", token_ids=[9] * 8)), "last token"),
        (lambda found: (200, {"choices": found["choices"][1:]}), "did not give 3 answers"),
        (lambda found: (200, [1, 2]), "did not give 3 answers"),
        (lambda found: (400, {"error": {"message": "too long"}}), "answered 400.*too long"),
        (lambda found: (500, b"broken"), "answered 500: broken"),
        (lambda found: (200, b"<html>"), "is not JSON: '<html>'"),
    ],
)
def test_what_training_could_not_use_is_refused(
    loaded: Any, running: Server, spoil: Any, told: str
) -> None:
    running.renew("vllm").spoil = spoil
    how = {**HOW, "temperature": 2.0, "seed": 1}
    with pytest.raises(ServerError, match=told):
        served_groups(running.url, loaded[1], PROMPTS[:1], **how)


def test_sglang_without_log_probabilities_is_refused(loaded: Any, running: Server) -> None:
    running.renew("sglang").spoil = lambda found: (200, [{"text": "5"} for _ in found])
    with pytest.raises(ServerError, match="returned no token ids"):
        served_groups(running.url, loaded[1], PROMPTS[:1], **HOW)


def test_another_model_or_server_is_named(loaded: Any, running: Server) -> None:
    running.renew("vllm")
    with pytest.raises(ServerError, match=r"unknown model 'tinny'.*did you mean 'tiny'"):
        served_groups(running.url, loaded[1], PROMPTS, **{**HOW, "model": "tinny"})
    running.renew("someone")
    with pytest.raises(ServerError, match=r"is someone, not vLLM or SGLang.*transformers serve"):
        served_groups(running.url, loaded[1], PROMPTS, **HOW)
    assert served_groups(running.url, loaded[1], PROMPTS[:1], server="vllm", **HOW)


def test_no_server_and_a_slow_one(loaded: Any, running: Server) -> None:
    with pytest.raises(ServerError, match=r"no server answers.*base_url"):
        served_groups("http://127.0.0.1:9", loaded[1], PROMPTS, **HOW)
    running.renew("vllm").spoil = lambda found: (time.sleep(1), (200, found))[1]
    with pytest.raises(ServerError, match="no answer in time"):
        served_groups(running.url, loaded[1], PROMPTS[:1], timeout=0.3, **HOW)


def test_the_key_is_sent_and_never_shown(
    loaded: Any, running: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.renew("vllm")
    served_groups(running.url, loaded[1], PROMPTS[:1], **HOW)
    monkeypatch.setenv("MATHSFT_API_KEY", "hidden-word")
    served_groups(running.url, loaded[1], PROMPTS[:1], **HOW)
    assert running.keys == [None, "Bearer hidden-word"]
    running.spoil = lambda found: (401, {"error": "wrong key hidden-word"})
    with pytest.raises(ServerError, match="Set MATHSFT_API_KEY") as caught:
        served_groups(running.url, loaded[1], PROMPTS[:1], **HOW)
    assert "hidden-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"prompts": "2 + 3 ="}, "expected a list of texts"),
        ({"prompts": [""]}, "prompt 0 is empty"),
        ({"num_generations": 0}, "num_generations=0"),
        ({"temperature": 0}, "temperature=0"),
        ({"top_p": 2}, "top_p=2"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"timeout": 0}, "timeout=0"),
    ],
)
def test_an_impossible_argument_is_named(loaded: Any, wrong: Any, told: str) -> None:
    given = {"prompts": PROMPTS, **HOW, **wrong}
    with pytest.raises(ValueError, match=told):
        served_groups("http://127.0.0.1:9", loaded[1], **given)
