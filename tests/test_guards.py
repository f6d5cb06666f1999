"""A tuned model that scores exactly like its base is rejected."""

from pathlib import Path

import pytest
import torch
from result_rows import result

from mathsft.data.problems import load_problems
from mathsft.evaluation.compare import compare
from mathsft.evaluation.guards import check_distinct, check_tuned
from mathsft.models.adapters import add_adapter
from mathsft.models.likelihood import choice_logprobs
from mathsft.models.loading import load_model


@pytest.mark.parametrize("options", [{}, {"quantize": True}, {"dtype": "bfloat16"}], ids=str)
def test_a_zero_adapter_is_caught_and_a_trained_one_passes(
    small_model_dir: Path, options: dict[str, object]
) -> None:
    problems = load_problems("tiny-mathqa", split="test", limit=4)
    model, tokenizer = load_model(small_model_dir, device="cpu", **options)
    base = choice_logprobs(model, tokenizer, problems)
    model = add_adapter(model)
    with pytest.raises(ValueError, match=r"all 20 scores.*adapter was not in the model.*load_ada"):
        check_tuned(base, choice_logprobs(model, tokenizer, problems))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    check_tuned(base, choice_logprobs(model, tokenizer, problems))


@pytest.mark.parametrize(
    ("tuned", "found"),
    [([[-1.0, -2.0]], "2 problems"), ([[-1.0, -2.0], [-3.0]], "problem 1 has 2"), ([], "2 pro")],
)
def test_scores_of_other_problems_are_refused(tuned: list[list[float]], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        check_tuned([[-1.0, -2.0], [-3.0, -4.0]], tuned)


def test_empty_scores_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="no score"):
        check_tuned([], [])


def test_results_with_other_questions_or_choices_are_named() -> None:
    a, b = result("one", [1, 0]), result("two", [1, 0])
    with pytest.raises(ValueError, match="'one' has 2 questions, 'two' 1"):
        check_distinct(a, result("two", [1]))
    for scores in ([-1.0], [], [*a.scores()[1], -1.0]):
        b.questions[1]["loglikelihoods"] = scores
        with pytest.raises(ValueError, match=f"question 1 has 5 .* of 'one' and {len(scores)} of"):
            compare(a, b)
