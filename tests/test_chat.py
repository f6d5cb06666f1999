"""Conversations as tokens: the template's text, trained only on the turns and their stops."""

from pathlib import Path
from typing import Any

import pytest
import torch
from chat_rows import (
    TEMPLATE,
    chat,
    document,
    joint,
    new_tokenizer,
    sums,
    trained_parts,
    with_template,
)
from datasets import Dataset
from gradients import adapted
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from mathsft.data.chat import CHAT_FEATURES
from mathsft.data.mixtures import mix_datasets
from mathsft.data.problems import read_problems
from mathsft.models.encoding import stop_tokens
from mathsft.models.forest import IGNORE
from mathsft.models.model_files import TINY
from mathsft.objectives.conversations import stop_after_turns
from mathsft.objectives.sft import tokenize_problems
from mathsft.training.make import sft_trainer

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="^~"), min_size=1).filter(str.strip)
WORDS = st.text("ab 12.?", min_size=1).map(lambda text: f"x{text}x")  # no merge at a line break
CHATS = st.lists(TEXT, min_size=2, max_size=6)


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerBase:
    return new_tokenizer()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return with_template(new_tokenizer())


@settings(max_examples=100, deadline=None)
@given(contents=CHATS, system=st.none() | TEXT)
def test_what_is_trained_is_the_assistants_turns_with_their_stop_and_nothing_else(
    tokenizer: Any, contents: list[str], system: str | None
) -> None:
    row = chat(*contents, system=system)
    found = document(row, tokenizer)
    answers = [turn["content"] for turn in row["messages"] if turn["role"] == "assistant"]
    # The tokenizer normalises text to NFC.
    wanted = [tokenizer.decode(tokenizer(f"{answer}~")["input_ids"]) for answer in answers]
    assert trained_parts(found, tokenizer) == wanted
    for token, label in zip(found["input_ids"], found["labels"], strict=True):
        assert label in (token, IGNORE)


@settings(max_examples=50, deadline=None)
@given(contents=st.lists(WORDS, min_size=2, max_size=6).filter(lambda c: len(c) % 2 == 0))
def test_the_tokens_are_those_of_transformers(tokenizer: Any, contents: list[str]) -> None:
    row = chat(*contents, system="Be brief.")
    assert document(row, tokenizer)["input_ids"] == joint(row, tokenizer)


def test_only_turns_from_the_index_on_are_trained_and_what_follows_the_last_is_not_read(
    tokenizer: Any,
) -> None:
    row = chat("2 + 3?", "Five.", "Sure?", "Yes.", "Really?")
    found = document({**row, "trained_from": 3}, tokenizer)
    assert trained_parts(found, tokenizer) == ["Yes.~"]
    assert "Really" not in tokenizer.decode(found["input_ids"])
    found = document(row, tokenizer, train_on_prompt=True)
    assert found["labels"] == [IGNORE, *found["input_ids"][1:]]


def test_a_prompt_and_its_completion_are_read_word_for_word_without_a_template(plain: Any) -> None:
    found = document({"prompt": "2 + 3 = ", "completion": " 5\n"}, plain)
    assert plain.decode(found["input_ids"]) == "2 + 3 =  5\n<|endoftext|>"
    assert trained_parts(found, plain) == [" 5\n<|endoftext|>"]


def test_a_stop_token_that_a_completion_ends_with_is_not_doubled(plain: Any) -> None:
    row = {"prompt": "2 + 3 = ", "completion": " 5"}
    assert document({**row, "completion": " 5<|endoftext|>"}, plain) == document(row, plain)


def test_problems_and_prompts_that_hold_a_control_token_are_dropped_and_counted(plain: Any) -> None:
    problem = read_problems("tiny-gsm", limit=1)[0][0]
    text = {"prompt": "2 + 3 =", "completion": " 5"}
    bad = [
        {**problem, "question": "What is <|endoftext|>?"},
        {**problem, "solution": "One.<|endoftext|>Two."},
        {**text, "prompt": "<|endoftext|>2 + 3 ="},
        {**text, "completion": " 5<|endoftext|><|endoftext|>"},
    ]
    documents, dropped = tokenize_problems([*bad, problem, text], plain)
    assert len(documents) == 2
    assert dropped == {"that hold a control token of the tokenizer": 4}


def test_rows_of_all_kinds_keep_their_order_and_their_own_tokens(tokenizer: Any) -> None:
    problem = read_problems("tiny-gsm", limit=1)[0][0]
    text = {"prompt": "2 + 3 =", "completion": " 5"}
    rows = [problem, chat("2 + 3?", "Five."), text, problem]
    together, dropped = tokenize_problems(rows, tokenizer)
    assert not dropped
    assert together == [document(row, tokenizer) for row in rows]


@pytest.mark.parametrize(
    ("template", "row", "reason"),
    [
        (TEMPLATE, chat("What is ~?", "A tilde."), "that hold a control token of the tokenizer"),
        (TEMPLATE, chat("Hi", "<|endoftext|>"), "that hold a control token of the tokenizer"),
        (
            TEMPLATE.replace(
                "m['content'] +", "(m['content'] if loop.last or m['role'] == 'user' else '…') +"
            ),
            chat("Hi", "Hello.", "Hi", "Hello."),
            "that the chat template rewrites",
        ),
        (
            "{% if messages | length > 2 %}{{ raise_exception('Two turns at most') }}{% endif %}"
            + TEMPLATE,
            chat("Hi", "Hello.", "Hi", "Hello."),
            "that the chat template refuses (Two turns at most)",
        ),
        (TEMPLATE, chat("Hi " * 600, "Hello."), "longer than 512 tokens"),
        (TEMPLATE, chat("Hi"), "without an assistant turn"),
        (TEMPLATE, {**chat("Hi", "Hello."), "trained_from": 2}, "without an assistant turn"),
    ],
)
def test_what_cannot_be_tokenized_is_dropped_whole_and_counted(
    template: str, row: dict[str, Any], reason: str
) -> None:
    tokenizer = with_template(new_tokenizer(), template)
    documents, dropped = tokenize_problems([row, chat("Hi", "Hello."), row], tokenizer)
    assert len(documents) == 1
    assert dropped == {reason: 2}


@pytest.mark.slow
def test_a_mixture_of_problems_chats_and_prompts_is_trained_and_generation_gets_the_stop(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.jsonl").write_text('{"prompt": "2 + 3 =", "completion": " 5"}\n' * 8)
    chats = [{**row, "trained_from": 0, "source": "mine"} for row in sums(8)]
    sets = {
        "sums": read_problems("tiny-gsm", limit=8)[0],
        "chats": Dataset.from_list(chats, features=CHAT_FEATURES),
        "texts": read_problems(tmp_path / "t.jsonl")[0],
    }
    mixture = mix_datasets({"sums": 8, "chats": 8, "texts": 8}, datasets=sets, test=None)
    model = adapted(TINY)
    for _ in range(2):
        trainer = sft_trainer(
            model, tokenizer, mixture, eval_problems=mixture, output_dir=tmp_path, max_steps=2,
            disable_tqdm=True,
        )  # fmt: skip
    said = capsys.readouterr().out
    assert "train: 24 documents" in said
    assert model.get_base_model().generation_config.eos_token_id == 0
    stop = tokenizer.convert_tokens_to_ids("~")
    assert stop_tokens(model, tokenizer) == [0, stop]  # our own generation ends at these
    stop_after_turns(model, tokenizer)  # for generation by other code
    stop_after_turns(model, tokenizer)
    said_now = capsys.readouterr().out
    assert said_now.count("generation now ends at '~' too, as turns do in the chat template") == 1
    assert model.get_base_model().generation_config.eos_token_id == [0, stop]
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.evaluate()["eval_loss"]))
