"""Sampled answers: repeatable, with the tokens that were drawn, as likely as the model says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import base
from transformers import AutoTokenizer

from mathsft.generation.rollouts import sample_groups
from mathsft.models.encoding import stop_tokens

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
