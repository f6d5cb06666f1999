"""Worked answers and their intervals."""

from pathlib import Path
from typing import Any

import pytest
import torch

import mathsft
from mathsft.data.problems import load_problems
from mathsft.data.prompts import sft_prompt
from mathsft.evaluation.intervals import wilson_interval
from mathsft.evaluation.worked import worked_answers
from mathsft.models.loading import load_model


@pytest.fixture(scope="module")
def loaded(small_model_dir: Path):
    return load_model(small_model_dir)


@pytest.fixture(scope="module")
def problems():
    return load_problems("tiny-gsm", split="test", limit=10)


def test_a_batch_writes_what_each_problem_alone_would_get(loaded, problems) -> None:
    model, tokenizer = loaded
    together = worked_answers(model, tokenizer, problems, max_new_tokens=12, batch_size=4)
    for problem, result in zip(problems, together, strict=True):
        prompt = torch.tensor([tokenizer(sft_prompt(problem["question"])).input_ids])
        alone = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )[0, prompt.shape[1] :]
        assert result["text"] == tokenizer.decode(alone, skip_special_tokens=True)


def test_a_problem_without_an_answer_cannot_be_marked(loaded, problems) -> None:
    model, tokenizer = loaded
    with pytest.raises(ValueError, match="no answer"):
        worked_answers(model, tokenizer, [{**problems[0], "answer": ""}])


def test_wilson_agrees_with_the_published_formula() -> None:
    # Wilson 1927, with z = 1.959964: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    z, n, p = 1.959964, 50, 0.2
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    result = wilson_interval([True] * 10 + [False] * 40)
    assert result.accuracy == 0.2
    assert (result.low, result.high) == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert result.n == 50


def test_wilson_stays_inside_the_unit_interval_and_refuses_an_empty_list() -> None:
    assert wilson_interval([False] * 5).low == 0
    assert wilson_interval([True] * 5).high == 1
    with pytest.raises(ValueError, match="no question"):
        wilson_interval([])


@pytest.mark.parametrize("name", ["worked_answers", "choice_logprobs", "show_samples"])
@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("mine.jsonl", r"found a text. Load them: load_problems\('mine.jsonl'\)"),
        ({"train": []}, r"found a mapping with train. .* such as rows\['train'\]"),
    ],
)
def test_a_file_or_splits_in_place_of_rows_are_refused_in_words(
    name: str, rows: Any, told: str
) -> None:
    model, tokenizer = mathsft.load_model("tiny", device="cpu")
    given = (tokenizer,) if name == "show_samples" else (model, tokenizer)
    with pytest.raises(ValueError, match=f"{name}: rows are expected, {told}"):
        getattr(mathsft, name)(*given, rows)
