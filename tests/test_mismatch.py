"""A server's log-probabilities against ours: measured, corrected or refused."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from model_files import trained
from model_server import HOW, PROMPTS, Server, serving

from mathsft.data.problems import read_problems
from mathsft.data.prompts import sft_prompt
from mathsft.generation.mismatch import (
    Mismatch,
    answer_logprobs,
    check_mismatch,
    logprob_mismatch,
    truncated_weights,
)
from mathsft.generation.rollouts import Completion, sample_groups
from mathsft.generation.served import served_groups
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


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equal_weights_agree(loaded: Any, running: Server, kind: str, temperature: float) -> None:
    running.renew(kind)
    how = {**HOW, "temperature": temperature}
    groups = served_groups(running.url, loaded[1], PROMPTS, **how)
    found = logprob_mismatch(*loaded, PROMPTS, groups, temperature=temperature)
    assert found.tokens == sum(len(answer.input_ids) for group in groups for answer in group)
    assert found.largest < 1e-4
    assert found.effective == pytest.approx(1, abs=1e-6)
    check_mismatch(found, limit=1e-4)


def test_other_weights_are_refused(loaded: Any, running: Server) -> None:
    """The trainer has an adapter that the server does not have."""
    running.renew("vllm")
    groups = served_groups(running.url, loaded[1], PROMPTS, **HOW)
    model = trained(load_model("tiny", device="cpu")[0]).eval()
    found = logprob_mismatch(model, loaded[1], PROMPTS, groups)
    assert found.effective < 0.9
    with pytest.raises(ValueError, match=r"not samples of this model.*is the adapter"):
        check_mismatch(found)


def test_log_probabilities_at_another_temperature_are_refused(loaded: Any, running: Server) -> None:
    """vLLM's default mode reports temperature 1, whatever the sampling's."""
    running.renew("vllm").raw = True
    groups = served_groups(running.url, loaded[1], PROMPTS, temperature=0.5, **HOW)
    found = logprob_mismatch(*loaded, PROMPTS, groups, temperature=0.5)
    with pytest.raises(ValueError, match="--logprobs-mode processed_logprobs"):
        check_mismatch(found)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_our_log_probabilities_are_those_of_a_plain_forward_pass(
    loaded: Any, temperature: float
) -> None:
    model, tokenizer = loaded
    groups = sample_groups(*loaded, PROMPTS, num_generations=5, max_new_tokens=9)
    for max_length in (2048, 40):
        found = answer_logprobs(
            *loaded, PROMPTS, groups, temperature=temperature, max_length=max_length
        )
        for text, group, values in zip(PROMPTS, groups, found, strict=True):
            prompt = encode_prompts(tokenizer, [text])[0]
            for answer, value in zip(group, values, strict=True):
                ids = torch.tensor([prompt + answer.input_ids])
                with torch.no_grad():
                    logits = model(ids).logits[0, len(prompt) - 1 : -1].float() / temperature
                expected = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
                assert value == pytest.approx(expected.tolist(), abs=2e-5)


def test_the_limit_lies_between_rounding_and_another_temperature(loaded: Any) -> None:
    texts = [sft_prompt(row["question"]) for row in read_problems("tiny-gsm", limit=8)[0]]
    groups = sample_groups(*loaded, texts, num_generations=2, max_new_tokens=40)
    rounded = load_model("tiny", device="cpu", dtype="bfloat16")[0].eval()
    check_mismatch(logprob_mismatch(rounded, loaded[1], texts, groups))
    with pytest.raises(ValueError, match="limit"):
        check_mismatch(logprob_mismatch(*loaded, texts, groups, temperature=0.8))


def shifted(loaded: Any, shifts: tuple[float, float]) -> Any:
    """Answers whose served log-probabilities are ours minus one of two numbers, in turn."""
    (group,) = sample_groups(*loaded, PROMPTS[:1], num_generations=2, max_new_tokens=6)
    (ours,) = answer_logprobs(*loaded, PROMPTS[:1], [group])
    return [
        [
            Completion(a.input_ids, a.text, a.ended, [v - shifts[i % 2] for i, v in enumerate(vs)])
            for a, vs in zip(group, ours, strict=True)
        ]
    ]


def test_the_measures_by_hand(loaded: Any) -> None:
    even = logprob_mismatch(*loaded, PROMPTS[:1], shifted(loaded, (0.3, 0.3)))
    assert even.mean == pytest.approx(0.3, abs=1e-5)
    assert even.mean_ratio == pytest.approx(torch.tensor(0.3).exp().item(), abs=1e-4)
    assert even.effective == pytest.approx(1, abs=1e-6)
    groups = shifted(loaded, (0.5, -0.1))
    mixed = logprob_mismatch(*loaded, PROMPTS[:1], groups)
    signs = [(0.5, -0.1)[i % 2] for answer in groups[0] for i in range(len(answer.input_ids))]
    ratio = torch.tensor(signs, dtype=torch.float64).exp()
    assert mixed.largest == pytest.approx(0.5, abs=1e-5)
    assert mixed.mean_ratio == pytest.approx(float(ratio.mean()), abs=1e-4)
    share = float(ratio.sum() ** 2 / ratio.square().sum() / len(ratio))
    assert mixed.effective == pytest.approx(share, abs=1e-4)


def test_a_difference_that_is_not_a_number_is_refused() -> None:
    nothing = Mismatch(4, float("nan"), float("nan"), float("nan"), float("nan"))
    with pytest.raises(ValueError, match=r"limit is 0\.02"):
        check_mismatch(nothing)


def test_the_weights_correct_what_the_server_drew() -> None:
    """Over all outcomes: mean under the server, times the weight, is the mean under our model."""
    generator = torch.Generator().manual_seed(0)
    ours, served = torch.randn(2, 50, generator=generator).log_softmax(-1)
    values = torch.randn(50, generator=generator)
    weights = truncated_weights(ours.requires_grad_(), served, cap=1e6)
    assert not weights.requires_grad
    corrected = (served.exp() * weights * values).sum()
    assert corrected.item() == pytest.approx((ours.exp() * values).sum().item(), abs=1e-5)
    capped = truncated_weights(ours, served)
    assert torch.equal(capped, weights.clamp(max=2.0))
    assert truncated_weights(torch.tensor([0.0]), torch.tensor([-900.0])).item() == 2.0
    with pytest.raises(ValueError, match="shapes"):
        truncated_weights(ours, served[1:])
    with pytest.raises(ValueError, match="cap=0"):
        truncated_weights(ours, served, cap=0)


@pytest.mark.parametrize(
    ("prompts", "groups", "told"),
    [
        (PROMPTS, [[]], "3 prompts and 1 groups"),
        (PROMPTS[:1], [[]], "no answers to compare"),
        (PROMPTS[:1], [[Completion([], "", False, [])]], "prompt 0: an answer has no tokens"),
        (PROMPTS[:1], [[Completion([5, 6], "", False, [-1.0])]], "2 tokens and 1 log-prob"),
    ],
)
def test_answers_that_cannot_be_compared_are_named(
    loaded: Any, prompts: Any, groups: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        logprob_mismatch(*loaded, prompts, groups)
