"""Prompts, completions and stops as tokens: one rule for every kind of tokenizer."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import base
from sentencepiece_model import lines, llama_tokenizer

from mathsft.models.encoding import encode_pieces, encode_prompts, special_ends, stop_tokens
from mathsft.models.forest import IGNORE
from mathsft.models.likelihood import encode_choices
from mathsft.objectives.sft import tokenize_problems

KINDS: dict[str, dict[str, Any]] = {
    "legacy": {"legacy": True},
    "current": {"legacy": False},
    "begins": {"legacy": True, "add_bos_token": True},
    "begins and ends": {"legacy": False, "add_bos_token": True, "add_eos_token": True},
    "ends": {"legacy": True, "add_eos_token": True},
    "no mark": {"add_prefix_space": False},
}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sentencepiece")
    return {name: llama_tokenizer(folder, **kind) for name, kind in KINDS.items()}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tokenizers: dict[str, Any]) -> Any:
    return tokenizers[request.param]


def document(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    (found,), dropped = tokenize_problems([row], tokenizer)
    assert not dropped
    return found["input_ids"], [token for token in found["labels"] if token != IGNORE]


def test_a_completion_has_no_text_start_mark_and_decodes_to_itself(tokenizer) -> None:
    ids, trained = document(tokenizer, {"prompt": "Answer:\n", "completion": "Five"})
    assert tokenizer.convert_ids_to_tokens(trained) == ["Five", "</s>"]
    (prompt,) = encode_prompts(tokenizer, ["Answer:\n"])
    assert ids == prompt + trained
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Answer:\nFive"


@pytest.mark.parametrize("completion", ["Five apples", " Five", "5", "\nFive", "#### 5", "é½"])
@pytest.mark.parametrize("prompt", ["Answer:\n", "Answer:", "Q: 3 + 2\n\n", "left? ", "x"])
def test_labels_decode_to_the_completion_whatever_stands_before(
    tokenizer, prompt, completion
) -> None:
    ids, _ = document(tokenizer, {"prompt": prompt, "completion": completion})
    (before,) = encode_prompts(tokenizer, [prompt])
    assert ids[: len(before)] == before
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    assert whole == tokenizer.decode(before, skip_special_tokens=True) + completion


def test_where_nothing_merges_the_tokens_are_those_of_the_joined_text(tokenizer) -> None:
    """As in TRL: the tokens of the joined text, cut after those of the prompt."""
    row = {"prompt": "Question: Tom has 4 apples.\nAnswer:\n", "completion": "Five is 5"}
    ids, _ = document(tokenizer, row)
    (joined,) = encode_prompts(tokenizer, [row["prompt"] + row["completion"]])
    assert ids == [*joined, tokenizer.eos_token_id]


def test_a_problem_is_asked_and_trained_with_the_same_prompt(tokenizer) -> None:
    from mathsft.data.prompts import sft_prompt

    row = {"question": "How many are left?", "solution": "Five is 5", "answer": "5"}
    ids, trained = document(tokenizer, row)
    (asked,) = encode_prompts(tokenizer, [sft_prompt(row["question"])])
    assert ids == asked + trained
    assert tokenizer.eos_token_id not in ids[:-1]
    assert tokenizer.decode(trained, skip_special_tokens=True) == "Five is 5\n#### 5"


def test_a_chat_s_tokens_are_those_of_the_rendered_text(tokenizer) -> None:
    tokenizer.chat_template = TEMPLATE
    messages = [
        {"role": "user", "content": "Tom has 4 apples"},
        {"role": "assistant", "content": "Five is 4"},
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "apples left"},
    ]
    try:
        ids, trained = document(tokenizer, {"messages": messages})
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert ids == tokenizer(text, add_special_tokens=False).input_ids
        expected = ["Five", "is", "4</s>", "apples", "left</s>"]
        assert tokenizer.decode(trained).split() == expected
    finally:
        tokenizer.chat_template = None


def test_a_prompt_that_brings_its_first_token_gets_no_second(tokenizer) -> None:
    (ids,) = encode_prompts(tokenizer, ["<s>[INST] Tom [/INST]"])
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id not in ids


def test_choices_follow_their_question_with_no_stop_between(tokenizer) -> None:
    problem = {"question": "Tom has 4?", "choices": ["3", "12"], "label": 0}
    for sequence in encode_choices(tokenizer, [problem])[0]:
        assert tokenizer.eos_token_id not in sequence["input_ids"]
        scored = [token for token in sequence["labels"] if token != IGNORE]
        assert tokenizer.decode(sequence["input_ids"], skip_special_tokens=True).endswith(
            tokenizer.decode(scored).strip()
        )


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 40), line=st.sampled_from(lines()[:40]), kind=st.sampled_from([*KINDS]))
def test_any_cut_of_a_text_gives_the_text_back(tokenizers, cut, line, kind) -> None:
    tokenizer = tokenizers[kind]
    pieces = [line[:cut], line[cut:]]
    (found,) = encode_pieces(tokenizer, [pieces], rendered=[False])
    assert found is not None
    assert tokenizer.decode(found[0] + found[1], skip_special_tokens=True) == line
    assert found[0] == encode_prompts(tokenizer, pieces[:1])[0]


def test_what_a_tokenizer_puts_around_a_text_is_found(tokenizers) -> None:
    found = {name: special_ends(tokenizer) for name, tokenizer in tokenizers.items()}
    assert found["legacy"] == ([], [])
    assert found["begins"] == ([1], [])
    assert found["begins and ends"] == ([1], [2])


def test_an_answer_ends_at_every_token_that_training_or_the_checkpoint_stops_at(
    small_model_dir,
) -> None:
    from mathsft.models.loading import load_tokenizer

    tokenizer, model = load_tokenizer(str(small_model_dir), None), base(small_model_dir)
    assert stop_tokens(model, tokenizer) == [tokenizer.eos_token_id]
    model.generation_config.eos_token_id = [7, 5]
    assert stop_tokens(model, tokenizer) == sorted({5, 7, tokenizer.eos_token_id})
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    )
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert stop_tokens(model, tokenizer) == sorted({5, 7, end, tokenizer.eos_token_id})
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert end not in stop_tokens(model, tokenizer)


@pytest.mark.parametrize("name", ["legacy", "current", "begins", "no mark"])
def test_trl_trains_the_same_tokens(tokenizers, name, tmp_path) -> None:
    """On prompt-completion rows, where TRL trains the completion."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = tokenizers[name]
    rows = [
        {"prompt": "Question: Tom has 4 apples.\nAnswer:\n", "completion": "Five is 5"},
        {"prompt": "Answer:", "completion": " Five apples"},
        {"prompt": "x", "completion": "\n5 - 2 = 3"},
    ]
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    theirs = SFTTrainer(
        LlamaForCausalLM(config),
        args=SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none"),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    ).train_dataset
    ours, _ = tokenize_problems(rows, tokenizer)
    for found, expected in zip(ours, theirs, strict=True):
        assert found["input_ids"] == expected["input_ids"]
        trained = [label != IGNORE for label in found["labels"]]
        if "completion_mask" in expected:
            assert trained == [bool(one) for one in expected["completion_mask"]]
        else:
            assert found["labels"] == expected["labels"]
