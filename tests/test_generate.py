"""One function writes all answers: transformers' own greedy ones, in fuller batches."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from model_files import trained
from model_server import PROMPTS, Server, serving

from mathsft.data.problems import load_problems
from mathsft.data.prompts import sft_prompt
from mathsft.evaluation.worked import worked_answers
from mathsft.generation import server as served
from mathsft.generation.generate import generate
from mathsft.generation.mismatch import answer_logprobs
from mathsft.generation.rollouts import sample_groups
from mathsft.generation.served import ServerError
from mathsft.models.encoding import encode_prompts
from mathsft.models.greedy import own_generation
from mathsft.models.loading import load_model

PROBLEMS = load_problems("tiny-gsm", split="test", limit=9)
# Some end soon, some run on to the limit.
TEXTS = [*(sft_prompt(question) for question in PROBLEMS["question"]), "2 + 3 =", "Tom", "A cat"]
STEPS = 40


@pytest.fixture(scope="module")
def loaded() -> Any:
    return load_model("tiny", device="cpu")


@pytest.fixture(scope="module")
def running(loaded: Any) -> Iterator[Server]:
    with serving(*loaded) as server:
        yield server


def ids(groups: Any) -> list[list[int]]:
    return [answer.input_ids for group in groups for answer in group]


def by_transformers(model: Any, tokenizer: Any, batch_size: int) -> list[list[int]]:
    """Left-padded batches through transformers' ``generate``, up to the first stop."""
    found: list[list[int]] = []
    prompts, stop = encode_prompts(tokenizer, TEXTS), tokenizer.eos_token_id
    with torch.no_grad(), own_generation(model, tokenizer) as config:
        config.update(max_new_tokens=STEPS)
        for first in range(0, len(prompts), batch_size):
            part = prompts[first : first + batch_size]
            longest = max(map(len, part))
            rows = torch.tensor([[0] * (longest - len(p)) + p for p in part])
            seen = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in part])
            out = model.generate(input_ids=rows, attention_mask=seen, generation_config=config)
            for row in out[:, longest:].tolist():
                found.append(row[: row.index(stop) + 1] if stop in row else row)
    return found


@pytest.mark.parametrize("kind", ["full", "fresh adapter", "adapter", "adapter on 4 bits"])
def test_greedy_answers_are_those_of_transformers_token_for_token(loaded: Any, kind: str) -> None:
    """While answers leave a small batch, and the next prompts join it."""
    model, tokenizer = loaded
    if kind == "fresh adapter":
        model, _ = load_model("tiny", lora=True, device="cpu")
    elif kind != "full":
        model, _ = load_model("tiny", quantize=kind.endswith("bits"), device="cpu")
        model = trained(model, scale=0.1)
    groups = generate(model, tokenizer, TEXTS, max_new_tokens=STEPS, batch_size=5)
    expected = by_transformers(model, tokenizer, 6)
    assert ids(groups) == expected
    assert min(map(len, expected)) < STEPS == max(map(len, expected))
    for (answer,), wanted in zip(groups, expected, strict=True):
        assert answer.text == tokenizer.decode(wanted, skip_special_tokens=True)
        assert answer.ended == (wanted[-1] == tokenizer.eos_token_id)


@pytest.mark.parametrize("batch_size", [1, 3, 300])
def test_the_batch_size_changes_no_answer(loaded: Any, batch_size: int) -> None:
    expected = ids(generate(*loaded, TEXTS, max_new_tokens=STEPS))
    assert ids(generate(*loaded, TEXTS, max_new_tokens=STEPS, batch_size=batch_size)) == expected


@pytest.mark.parametrize("how", [{}, {"temperature": 0.7}, {"temperature": 1.0, "top_p": 0.8}])
def test_log_probabilities_are_those_of_a_plain_pass(loaded: Any, how: Any) -> None:
    groups = generate(*loaded, TEXTS, max_new_tokens=STEPS, batch_size=5, **how)
    temperature = how.get("temperature", 1.0)
    expected = answer_logprobs(*loaded, TEXTS, groups, temperature=temperature)
    for group, values in zip(groups, expected, strict=True):
        assert group[0].logprobs == pytest.approx(values[0], abs=2e-5)


def test_sampled_answers_are_those_of_sample_groups(loaded: Any) -> None:
    how: Any = {"num_generations": 3, "temperature": 0.9, "max_new_tokens": 9, "seed": 2}
    found = generate(*loaded, TEXTS, numbers=range(5, 5 + len(TEXTS)), **how)
    assert found == sample_groups(*loaded, TEXTS, numbers=range(5, 5 + len(TEXTS)), **how)
    refilled = sample_groups(*loaded, TEXTS, numbers=range(5, 5 + len(TEXTS)), batch_size=7, **how)
    assert ids(refilled) == ids(found)


def passes(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The shape of the tokens of each pass through the model from now on."""
    seen: list[tuple[int, int]] = []
    real = model.forward

    def forward(input_ids: Any, **how: Any) -> Any:
        seen.append(tuple(input_ids.shape))
        return real(input_ids=input_ids, **how)

    forward.__signature__ = inspect.signature(real)  # type: ignore[attr-defined]
    monkeypatch.setattr(model, "forward", forward)
    return seen


def test_a_prompt_with_several_answers_is_read_once(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = passes(loaded[0], monkeypatch)
    generate(*loaded, TEXTS[:3], num_generations=6, temperature=1.0, max_new_tokens=4, batch_size=8)
    assert sum(rows for rows, length in seen if length > 1) == 3
    assert max(rows for rows, length in seen if length == 1) == 6  # a second group has no room
    seen.clear()
    (group,) = generate(*loaded, TEXTS[:1], num_generations=6, max_new_tokens=4)
    assert {rows for rows, _ in seen} == {1}  # greedy answers are all the same
    assert len(group) == 6


def test_places_of_answers_that_ended_are_filled(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = passes(loaded[0], monkeypatch)
    answers = ids(generate(*loaded, TEXTS, max_new_tokens=STEPS, batch_size=4))
    alone = sum(len(answer) - 1 for answer in answers)  # the last token does not pass
    shapes = [rows for rows, length in seen if length == 1]
    assert sum(shapes) < 1.25 * alone
    full = shapes[: len(shapes) - STEPS]  # nobody waits at the end
    assert sum(full) > 3 * len(full)


def test_no_prompt_gives_no_answer_and_one_text_is_refused(loaded: Any) -> None:
    assert generate(*loaded, []) == []
    with pytest.raises(ValueError, match="expected a list of texts, found one text"):
        generate(*loaded, "2 + 3 =")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"num_generations": 0}, "num_generations=0"),
        ({"temperature": -1}, "temperature=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_new_tokens": 10**6}, "story 0 has a prompt of"),
    ],
)
def test_an_impossible_argument_is_named(loaded: Any, wrong: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        generate(*loaded, TEXTS[:1], name="story", **wrong)


@pytest.mark.parametrize("kind", ["vllm", "sglang", "transformers"])
def test_a_server_gives_the_greedy_answers_of_the_model(
    loaded: Any, running: Server, kind: str
) -> None:
    """`transformers serve` returns texts alone."""
    running.renew(kind)
    server = served.Server(running.url, "tiny", server=kind)  # type: ignore[arg-type]
    how: Any = {"max_new_tokens": 20, "num_generations": 2}
    found = generate(None, loaded[1], PROMPTS, server=server, **how)
    expected = generate(*loaded, PROMPTS, **how)
    for group, own in zip(found, expected, strict=True):
        assert [(a.text, a.ended) for a in group] == [(a.text, a.ended) for a in own]
        assert group[0].input_ids == ([] if kind == "transformers" else own[0].input_ids)
        wanted = [] if kind == "transformers" else own[0].logprobs
        assert group[0].logprobs == pytest.approx(wanted, abs=1e-5)
    assert len(running.bodies) == len(PROMPTS)  # greedy answers are asked for once
    problems = PROBLEMS.select(range(2))
    solved = worked_answers(None, loaded[1], problems, max_new_tokens=40, server=server)
    assert solved == worked_answers(*loaded, problems, max_new_tokens=40)


def test_greedy_answers_may_lack_what_only_training_needs(loaded: Any, running: Server) -> None:
    def spoil(found: Any) -> Any:
        for choice in found["choices"]:
            choice.pop("logprobs")
        return 200, found

    running.renew("vllm").spoil = spoil
    server = served.Server(running.url, "tiny")
    ((answer,),) = generate(None, loaded[1], PROMPTS[:1], server=server, max_new_tokens=8)
    assert answer.input_ids
    assert answer.logprobs == []
    with pytest.raises(ServerError, match="no log-probabilities, which training needs"):
        generate(None, loaded[1], PROMPTS[:1], server=server, max_new_tokens=8, temperature=1.0)


def test_transformers_serve_is_not_asked_for_what_it_cannot_give(
    loaded: Any, running: Server
) -> None:
    running.renew("transformers")
    server = served.Server(running.url, "tiny", server="transformers")
    with pytest.raises(ServerError, match="only answer greedily"):
        generate(None, loaded[1], PROMPTS[:1], server=server, temperature=1.0)
    two = loaded[1]("12", add_special_tokens=False).input_ids
    split = [token for text in "12" for token in loaded[1](text).input_ids]
    if two != split:  # tokens that no text gives
        with pytest.raises(ServerError, match="prompt 0: no text gives these tokens back"):
            generate(None, loaded[1], [split], server=server)
    assert not running.bodies
