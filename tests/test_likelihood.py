"""Choice scores: equal to one plain pass per choice, whatever the batch."""

from pathlib import Path

import pytest
import torch

from mathsft.data.problems import load_problems
from mathsft.data.prompts import choice_context, choice_continuation
from mathsft.models.likelihood import choice_logprobs, encode_continuation
from mathsft.models.loading import load_model


@pytest.fixture(scope="module")
def loaded(small_model_dir: Path):
    return load_model(small_model_dir)


@pytest.fixture(scope="module")
def problems():
    return load_problems("tiny-mathqa", split="test", limit=12)


def plain_score(model, tokenizer, question: str, choice: str) -> float:
    context = tokenizer(choice_context(question)).input_ids
    whole = tokenizer(choice_context(question) + choice_continuation(choice)).input_ids
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(logprobs[i - 1, whole[i]].item() for i in range(len(context), len(whole)))


def test_scores_equal_one_pass_per_choice(loaded, problems) -> None:
    model, tokenizer = loaded
    ours = choice_logprobs(model, tokenizer, problems, batch_size=5)
    for problem, scores in zip(problems, ours, strict=True):
        plain = [plain_score(model, tokenizer, problem["question"], c) for c in problem["choices"]]
        assert scores == pytest.approx(plain, abs=1e-4)


def test_scores_do_not_depend_on_the_batch(loaded, problems) -> None:
    model, tokenizer = loaded
    one, many = (choice_logprobs(model, tokenizer, problems, batch_size=b) for b in (1, 12))
    for a, b in zip(one, many, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_questions_may_differ_in_their_number_of_choices(loaded, problems) -> None:
    model, tokenizer = loaded
    mixed = [{**problems[0], "choices": problems[0]["choices"][:2]}, problems[1]]
    assert [len(s) for s in choice_logprobs(model, tokenizer, mixed)] == [2, 5]


def test_the_model_is_left_in_the_mode_it_was_in(loaded, problems) -> None:
    model, tokenizer = loaded
    model.train()
    choice_logprobs(model, tokenizer, problems.select(range(1)))
    assert model.training
    model.eval()


def test_a_score_that_is_not_finite_is_an_error_naming_the_problem(
    small_model_dir: Path, problems
) -> None:
    model, tokenizer = load_model(small_model_dir)
    model.train()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"problem 0: a score is not finite.*float32"):
        choice_logprobs(model, tokenizer, problems)
    assert model.training  # the mode is given back after an error, too


def test_a_problem_without_choices_or_with_an_empty_one_is_an_error(loaded, problems) -> None:
    model, tokenizer = loaded
    with pytest.raises(ValueError, match="no choices"):
        choice_logprobs(model, tokenizer, [{**problems[0], "choices": []}])
    with pytest.raises(ValueError, match="adds no token"):
        encode_continuation(tokenizer, "Answer:", "")
