"""Texts with more tokens than the model has positions: dropped and counted, or refused by name."""

from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from mathsft.evaluation.harness import ForestLM
from mathsft.models.attention import position_limit
from mathsft.models.likelihood import choice_logprobs
from mathsft.models.loading import load_tokenizer
from mathsft.training.make import multiple_choice_trainer, sft_trainer

LIMIT = 64


@pytest.fixture
def short(small_model_dir) -> tuple[Any, Any]:
    """A model of 64 positions."""
    tokenizer = load_tokenizer(str(small_model_dir), None)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=LIMIT,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    settings = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    return get_peft_model(model, settings), tokenizer


def worked(tokenizer: Any, tokens: int) -> dict[str, Any]:
    """Return a problem whose document has ``tokens`` tokens, including the stop."""
    row: dict[str, Any] = {"prompt": "5", "completion": "5" * (tokens - 2)}
    ids = tokenizer(row["prompt"] + row["completion"]).input_ids
    row["completion"] = row["completion"][: len(row["completion"]) - (len(ids) + 1 - tokens)]
    assert len(tokenizer(row["prompt"] + row["completion"]).input_ids) + 1 == tokens
    return row


def question(repeats: int) -> dict[str, Any]:
    return {"question": "Tom has 3. " * repeats, "choices": ["1", "2"], "label": 0}


def test_training_drops_and_counts_documents_longer_than_the_model(short, tmp_path, capsys) -> None:
    model, tokenizer = short
    # The last token is only predicted, so a document may have one token more.
    rows = [worked(tokenizer, n) for n in (10, LIMIT + 1, LIMIT + 2, 100)]
    trainer = sft_trainer(model, tokenizer, rows, output_dir=tmp_path, max_length=256, max_steps=1)
    assert "dropped: 2 longer than the model's 64 positions" in capsys.readouterr().out
    trainer.train()  # in a row of 256 tokens, in which each document starts at position 0


def test_training_drops_and_counts_questions_longer_than_the_model(short, tmp_path, capsys) -> None:
    model, tokenizer = short
    rows = [question(1), question(2), question(40)]
    multiple_choice_trainer(
        model, tokenizer, rows, output_dir=tmp_path, max_length=1000, max_steps=1
    ).train()
    assert "dropped: 1 longer than the model's 64 positions" in capsys.readouterr().out


def test_a_row_of_several_texts_may_be_longer_than_the_model(short) -> None:
    model, tokenizer = short
    rows = [question(2)] * 12
    together = choice_logprobs(model, tokenizer, rows, batch_size=12, max_length=2000)
    alone = choice_logprobs(model, tokenizer, rows[:1])
    assert together[5] == pytest.approx(alone[0], abs=1e-4)


def test_scores_name_the_problem_that_is_too_long(short) -> None:
    model, tokenizer = short
    with pytest.raises(ValueError, match=r"problem 1: .* tokens, but the model has 64 positions"):
        choice_logprobs(model, tokenizer, [question(1), question(40)])


def test_the_harness_cuts_long_texts_and_their_number_is_printed(short, capsys) -> None:
    from lm_eval.api.instance import Instance

    model, tokenizer = short
    lm = ForestLM(model, tokenizer=tokenizer)
    assert lm.max_length == LIMIT
    long = "Tom has 3. " * 40

    def requests(kind: str, *arguments: Any) -> list[Any]:
        return [Instance(request_type=kind, doc={}, arguments=a, idx=0) for a in arguments]

    lm.loglikelihood(requests("loglikelihood", ("Tom", " 3"), (long, " 1"), (long, " 2")), True)
    assert "2 requests exceed max_length=64: cut from the left" in capsys.readouterr().out
    asked = {"until": ["x"], "max_gen_toks": 4}
    lm.generate_until(requests("generate_until", ("Tom", asked), (long, asked)), True)
    said = capsys.readouterr().out
    assert "1 prompts exceed the 60 tokens" in said or "1 prompt exceeds the 60 tokens" in said


def test_a_max_length_beyond_the_model_is_refused(short) -> None:
    model, tokenizer = short
    with pytest.raises(ValueError, match="max_length=65: the model has 64 positions"):
        ForestLM(model, tokenizer=tokenizer, max_length=65)


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"max_position_embeddings": 32}, 32),
        ({"max_position_embeddings": None}, None),
        (
            {
                "max_position_embeddings": 32,
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32,
                    "rope_theta": 10000.0,
                },
            },
            128,
        ),
    ],
)
def test_the_positions_are_those_of_the_config(settings, limit) -> None:
    config = Qwen2Config()
    for key, value in settings.items():
        vars(config)[key] = value  # newer versions check what is set
    assert position_limit(config) == limit
