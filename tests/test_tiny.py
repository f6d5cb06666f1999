"""The embedded model: small, loaded like any other, and with the abilities of a base model."""

from pathlib import Path

import pytest
import torch

from mathsft.data.problems import load_problems
from mathsft.data.prompts import sft_prompt
from mathsft.evaluation.intervals import wilson_interval
from mathsft.evaluation.worked import worked_answers
from mathsft.models import tiny
from mathsft.models.likelihood import choice_logprobs
from mathsft.models.loading import load_model

FOLDER = Path(tiny.__file__).parent


@pytest.fixture(scope="module")
def loaded():
    return load_model("tiny")


def test_all_its_files_together_stay_under_eight_megabytes() -> None:
    assert sum(p.stat().st_size for p in FOLDER.glob("*.*")) <= 8e6
    assert (FOLDER / "model.safetensors").is_file()


def test_it_is_a_qwen2_of_one_to_three_million_parameters(loaded) -> None:
    model, _ = loaded
    assert model.config.model_type == "qwen2"
    assert 1e6 <= model.num_parameters() <= 3e6
    assert model.dtype == torch.float32  # the policy of a CPU, as for any other model


def test_its_tokenizer_splits_digits_and_gives_back_any_text(loaded) -> None:
    _, tokenizer = loaded
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    for text in ("a ) 24 , b ) 120", "Größe 3·π ≈ 9,42 €", "x\n\n\ty ", "数学"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_no_two_characters_look_alike_to_it(loaded) -> None:
    # All tokens that pre-training never shows end with the same embedding, and no adapter can
    # learn to write one of them: "####" could not be distinguished from "@@@@".
    model, tokenizer = loaded
    ids = [tokenizer(chr(i)).input_ids[0] for i in range(33, 127)]
    vectors = model.get_input_embeddings().weight[ids].detach()
    apart = torch.cdist(vectors, vectors).fill_diagonal_(torch.inf)
    assert apart.min() > 0.5  # usual length: 2.4; untrained ones were 0.1 apart


@pytest.mark.slow
def test_the_base_is_at_chance_on_the_multiple_choice_problems(loaded) -> None:
    model, tokenizer = loaded
    problems = load_problems("tiny-mathqa", split="test")
    picked = torch.tensor(choice_logprobs(model, tokenizer, problems)).argmax(dim=1)
    accuracy = wilson_interval(
        (picked == torch.tensor(problems["label"])).tolist(), confidence=0.997
    )
    assert accuracy.low < 0.2 < accuracy.high, str(accuracy)


@pytest.mark.slow
def test_the_base_continues_a_worked_solution_in_its_own_format(loaded) -> None:
    model, tokenizer = loaded
    problems = load_problems("tiny-gsm", split="validation", limit=60)
    own, course = (
        wilson_interval([r["correct"] for r in worked_answers(model, tokenizer, problems,
                                                     max_new_tokens=90, prompt=prompt)])
        for prompt in ("{}\n".format, sft_prompt)
    )  # fmt: skip
    assert own.low > 0.9, str(own)
    assert course.high < 0.2, str(course)
