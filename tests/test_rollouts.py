"""Sampled answers: repeatable, with the tokens that were drawn, as likely as the model says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import base, trained
from torch import Tensor
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from mathsft.generation.rollouts import sample_groups
from mathsft.models.encoding import encode_prompts, pad_token, stop_tokens
from mathsft.models.forest import IGNORE, TokenForest
from mathsft.models.loading import load_model
from mathsft.models.logprobs import sequence_logprobs
from mathsft.models.merging import merged_for_reading
from mathsft.models.modes import evaluating

PROMPTS = ["Tom has 3 pens", "2 + 3 =", "Ann buys apples and gives some of them to Bob."]


@pytest.fixture(scope="module")
def loaded(small_model_dir: Path) -> Any:
    return base(small_model_dir).eval(), AutoTokenizer.from_pretrained(small_model_dir)


def ids(groups: Any) -> list[list[list[int]]]:
    return [[answer.input_ids for answer in group] for group in groups]


def test_the_same_seed_gives_the_same_answers_and_leaves_the_global_state(loaded: Any) -> None:
    how = {"num_generations": 3, "max_new_tokens": 6}
    before = torch.get_rng_state()
    first, again, other = (sample_groups(*loaded, PROMPTS, seed=seed, **how) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert ids(first) == ids(again) != ids(other)
    assert [len(group) for group in first] == [3, 3, 3]


def test_an_answer_has_its_own_tokens_and_says_whether_it_stopped(loaded: Any) -> None:
    model, tokenizer = loaded
    stops = set(stop_tokens(model, tokenizer))
    groups = sample_groups(*loaded, PROMPTS, num_generations=40, max_new_tokens=12)
    answers = [answer for group in groups for answer in group]
    for answer in answers:
        assert answer.ended == (answer.input_ids[-1] in stops)
        assert answer.ended or len(answer.input_ids) == 12
        assert not stops & {*answer.input_ids[:-1]}
        assert answer.text == tokenizer.decode(answer.input_ids, skip_special_tokens=True)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_drawn_as_often_as_the_model_says(loaded: Any, temperature: float) -> None:
    model, tokenizer = loaded
    count = 2000
    (group,) = sample_groups(
        *loaded, PROMPTS[1:2], num_generations=count, max_new_tokens=1, temperature=temperature
    )
    tokens = torch.tensor([answer.input_ids[0] for answer in group])
    with torch.no_grad():
        logits = model(**tokenizer(PROMPTS[1], return_tensors="pt")).logits[0, -1]
    likely = (logits / temperature).softmax(-1)
    drawn = tokens.bincount(minlength=len(likely)) / count
    # Of each quarter of the vocabulary by likelihood: within five standard errors.
    for part in likely.argsort(descending=True).chunk(4):
        share = float(likely[part].sum())
        error = (share * (1 - share) / count) ** 0.5
        assert abs(float(drawn[part].sum()) - share) < 5 * error + 1e-3


def test_the_order_of_the_answers_is_that_of_the_prompts(loaded: Any) -> None:
    """Prompts are batched by length; a nearly certain first token shows whose answer it is."""
    groups = sample_groups(*loaded, PROMPTS, num_generations=1, max_new_tokens=3, temperature=1e-4)
    alone = [
        sample_groups(*loaded, [prompt], num_generations=1, max_new_tokens=3, temperature=1e-4)
        for prompt in PROMPTS
    ]
    assert ids(groups) == [ids(one)[0] for one in alone]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"num_generations": 0}, "num_generations=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"max_new_tokens": 10**6}, "prompt 0 has a prompt of"),
    ],
)
def test_an_impossible_setting_is_named(loaded: Any, wrong: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        sample_groups(*loaded, PROMPTS, **wrong)


@pytest.mark.parametrize(
    ("prompts", "told"),
    [("2 + 2 =", "expected a list of texts"), (["2 + 2 =", ""], "prompt 1 has an empty prompt")],
)
def test_a_single_text_and_an_empty_prompt_are_refused(
    loaded: Any, prompts: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        sample_groups(*loaded, prompts)


def in_a_forest(model: Any, tokenizer: Any, groups: Any, temperature: float) -> tuple[Tensor, ...]:
    """The log-probabilities that training computes for the answers, in their order."""
    prompts = encode_prompts(tokenizer, PROMPTS)
    sequences = [
        {
            "input_ids": [*prompt, *one.input_ids],
            "labels": [*[IGNORE] * len(prompt), *one.input_ids],
        }
        for prompt, group in zip(prompts, groups, strict=True)
        for one in group
    ]
    batch = TokenForest(sequences).tensors(pad_token_id=pad_token(tokenizer))
    with torch.no_grad(), evaluating(model):
        return sequence_logprobs(model, batch, temperature=temperature).by_sequence()


def assert_logprobs_of_training(model: Any, tokenizer: Any, groups: Any, how: Any) -> None:
    answers = [one for group in groups for one in group]
    found = in_a_forest(model, tokenizer, groups, how.get("temperature", 1.0))
    for one, expected in zip(answers, found, strict=True):
        assert len(one.logprobs) == len(one.input_ids)
        own = torch.tensor(one.logprobs)
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5)
        # The ratio of the first step after sampling.
        torch.testing.assert_close((expected - own).exp(), torch.ones(len(own)), rtol=0, atol=3e-5)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.7}, {"top_p": 0.5}], ids=str)
@pytest.mark.parametrize("quantize", [False, True])
def test_an_answers_logprobs_are_those_that_training_computes(
    small_model_dir: Path, quantize: bool, how: Any
) -> None:
    """Of a trained adapter: sampling reads merged weights, training the adapter beside its base."""
    model, tokenizer = load_model(small_model_dir, quantize=quantize, device="cpu")
    model = trained(model, scale=0.3)
    groups = sample_groups(model, tokenizer, PROMPTS, num_generations=4, max_new_tokens=10, **how)
    assert_logprobs_of_training(model, tokenizer, groups, how)


def test_a_model_with_windows_gives_logprobs_too(loaded: Any) -> None:
    """It is driven by transformers' generate."""
    _, tokenizer = loaded
    torch.manual_seed(0)
    model: Any = MistralForCausalLM(
        MistralConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, sliding_window=64,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        )
    ).eval()  # fmt: skip
    how = {"temperature": 0.7}
    groups = sample_groups(model, tokenizer, PROMPTS, num_generations=3, max_new_tokens=8, **how)
    again = sample_groups(model, tokenizer, PROMPTS, num_generations=3, max_new_tokens=8, **how)
    assert ids(groups) == ids(again)
    for ids_of, group in zip(encode_prompts(tokenizer, PROMPTS), groups, strict=True):
        for one in group:
            whole = torch.tensor([[*ids_of, *one.input_ids]])
            with torch.no_grad():
                logits = model(whole).logits[0, len(ids_of) - 1 : -1] / 0.7
            expected = logits.log_softmax(-1).gather(1, torch.tensor(one.input_ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(one.logprobs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_other_batches_give_the_same_answers(loaded: Any, batch_size: int) -> None:
    how = {"num_generations": 3, "max_new_tokens": 8, "seed": 3}
    found = sample_groups(*loaded, PROMPTS, batch_size=batch_size, **how)
    assert ids(found) == ids(sample_groups(*loaded, PROMPTS, **how))


def test_a_prompt_alone_with_its_number_gets_its_answers_of_the_list(loaded: Any) -> None:
    how = {"num_generations": 3, "max_new_tokens": 8, "seed": 3}
    together = sample_groups(*loaded, PROMPTS, **how)
    alone = [
        sample_groups(*loaded, [prompt], numbers=[number], **how)[0]
        for number, prompt in enumerate(PROMPTS)
    ]
    assert ids(alone) == ids(together)
    (other,) = sample_groups(*loaded, PROMPTS[1:2], **how)  # its place in this list is 0
    assert ids([other]) != ids(together[1:2])


def test_the_answers_of_a_group_differ(loaded: Any) -> None:
    (group,) = sample_groups(*loaded, PROMPTS[:1], num_generations=30, max_new_tokens=8)
    assert len({tuple(one.input_ids) for one in group}) == 30


def test_the_first_tokens_pass_a_chi_square_test(loaded: Any) -> None:
    """Against the model's probabilities; the sum has about as many degrees as there are bins."""
    model, tokenizer = loaded
    count = 6000
    (group,) = sample_groups(*loaded, PROMPTS[:1], num_generations=count, max_new_tokens=1)
    tokens = torch.tensor([one.input_ids[0] for one in group])
    with torch.no_grad():
        logits = model(**tokenizer(PROMPTS[0], return_tensors="pt")).logits[0, -1]
    expected = logits.softmax(-1).double() * count
    drawn = tokens.bincount(minlength=len(expected)).double()
    often = expected >= 5  # the usual rule; the rest is one bin
    observed = torch.cat([drawn[often], drawn[~often].sum()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    degrees = len(observed) - 1
    assert degrees > 50
    chi_square = float(((observed - expected) ** 2 / expected.clamp(min=1)).sum())
    # Its standard deviation is sqrt(2 * degrees).
    assert abs(chi_square - degrees) < 4 * (2 * degrees) ** 0.5


def test_no_token_outside_the_nucleus_is_drawn(loaded: Any) -> None:
    model, tokenizer = loaded
    (group,) = sample_groups(
        *loaded, PROMPTS[:1], num_generations=1000, max_new_tokens=1, top_p=0.3
    )
    with torch.no_grad():
        logits = model(**tokenizer(PROMPTS[0], return_tensors="pt")).logits[0, -1]
    likely, tokens = logits.softmax(-1).sort(descending=True)
    nucleus = set(tokens[likely.cumsum(0) - likely < 0.3].tolist())
    drawn = {one.input_ids[0] for one in group}
    assert drawn <= nucleus
    assert len(drawn) > 0.5 * len(nucleus)
    for one in group:
        expected = logits.log_softmax(-1)[one.input_ids[0]].item()
        assert one.logprobs[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("quantize", [False, True])
def test_a_model_merged_for_reading_comes_back_bit_for_bit(
    small_model_dir: Path, quantize: bool
) -> None:
    model = trained(base(small_model_dir, quantize=quantize), scale=0.3)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    modules, ids = dict(model.named_modules()), torch.arange(2, 30)[None]

    def read_and_fail() -> None:
        with merged_for_reading(model):
            assert not any("lora_A" in name for name, _ in model.named_modules())
            torch.testing.assert_close(model(input_ids=ids).logits, plain, rtol=1e-4, atol=1e-4)
            raise KeyError("stop")

    with torch.no_grad(), evaluating(model):
        plain = model(input_ids=ids).logits
        with pytest.raises(KeyError, match="stop"):
            read_and_fail()
    assert dict(model.named_modules()) == modules
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]), name


def test_a_model_in_half_precision_is_read_as_it_is(small_model_dir: Path) -> None:
    model = trained(base(small_model_dir, dtype="bfloat16"))
    modules = dict(model.named_modules())
    with merged_for_reading(model):
        assert dict(model.named_modules()) == modules
