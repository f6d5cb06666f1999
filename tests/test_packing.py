"""Packing: nothing lost, little wasted, and no document sees another."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from mathsft.models.attention import attention_inputs
from mathsft.models.forest import IGNORE, TokenForest, even_rows, pack
from mathsft.models.logprobs import sequence_logprobs


def best_fit_decreasing_by_scan(lengths: Sequence[int], max_length: int) -> list[int]:
    """Run the textbook loop over all open rows; return how full each row is."""
    used: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, tokens in enumerate(used) if tokens + length <= max_length]
        if fitting:
            used[max(fitting, key=lambda row: used[row])] += length
        else:
            used.append(length)
    return used


@given(st.lists(st.integers(1, 64), max_size=80))
def test_every_document_is_in_one_row_and_rows_are_those_of_best_fit_decreasing(lengths):
    rows = pack(lengths, max_length=64)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    used = [sum(lengths[index] for index in row) for row in rows]
    assert sorted(used) == sorted(best_fit_decreasing_by_scan(lengths, 64))
    assert rows == pack(lengths, max_length=64)


@pytest.mark.parametrize("length", [0, 9])
def test_a_document_that_cannot_be_in_a_row_is_an_error_naming_it(length):
    with pytest.raises(ValueError, match=f"document 1 has {length} tokens"):
        pack([8, length], max_length=8)


def test_a_hundred_thousand_documents_are_packed_as_one_data_set():
    lengths = torch.randint(40, 400, (100_000,), generator=torch.manual_seed(0)).tolist()
    rows = pack(lengths, max_length=512)
    assert sum(lengths) / (512 * len(rows)) > 0.95


@given(st.lists(st.integers(1, 64), min_size=1, max_size=40))
def test_even_rows_hold_everything_within_the_length_and_pad_little_more_than_they_must(lengths):
    def padded_tokens(rows):
        return len(rows) * max(sum(lengths[index] for index in row) for row in rows)

    rows = even_rows(lengths, max_length=64)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert max(sum(lengths[index] for index in row) for row in rows) <= 64
    # Shorter rows may be worth some padding, at most what attention over 64 tokens costs.
    full = pack(lengths, max_length=min(64, sum(lengths)))
    assert padded_tokens(rows) <= padded_tokens(full) * (1 + 64 / 3000) + 2 * len(rows)


@pytest.mark.slow
def test_rows_of_real_problems_are_at_least_95_percent_full(data_dir: Path):
    from mathsft.models.tiny.corpus import train_tokenizer
    from mathsft.objectives.sft import tokenize_problems

    lines = (data_dir / "gsm8k" / "train.jsonl").read_text().splitlines()
    raw = [json.loads(line) for line in lines]
    problems = [
        {
            "question": row["question"],
            "solution": re.sub(r"<<.*?>>", "", solution),
            "answer": answer,
        }
        for row in raw
        for solution, answer in [row["answer"].split("\n#### ")]
    ]
    texts = (text for row in problems[::4] for text in (row["question"], row["solution"]))
    tokenizer = train_tokenizer(texts, vocab_size=8000)
    documents, dropped = tokenize_problems(problems, tokenizer, max_length=512)
    assert len(documents) + dropped.total() == len(problems)
    rows = pack(passed(documents), max_length=512)
    assert sum(passed(documents)) / (512 * len(rows)) >= 0.95


def passed(documents) -> list[int]:
    """Return how many tokens of each document the model reads: the last is only predicted."""
    return [len(document["input_ids"]) - 1 for document in documents]


@pytest.fixture(scope="module")
def documents() -> list[dict[str, list[int]]]:
    generator = torch.manual_seed(0)
    lengths = [3, 17, 9, 25, 2, 12, 31, 6]
    ids = [torch.randint(1, 300, (n,), generator=generator).tolist() for n in lengths]
    prompts = [len(document) // 3 + 1 for document in ids]
    return [
        {"input_ids": document, "labels": [IGNORE] * prompt + document[prompt:]}
        for document, prompt in zip(ids, prompts, strict=True)
    ]


def load(folder: Path, attention: str):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("use_cache", [False, True], ids=["no-cache", "cache"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_logits_equal_the_separate_ones(
    small_model_dir, documents, attention, use_cache, training
):
    model = load(small_model_dir, attention).train(training)
    rows = pack(passed(documents), max_length=40)
    assert any(len(row) > 2 for row in rows)
    assert len(rows) > 1
    batch = TokenForest(documents, rows=rows, share=False).tensors(pad_token_id=0)
    with torch.no_grad():
        packed = model(**attention_inputs(model, batch), use_cache=use_cache).logits
        assert packed.isfinite().all()
        for logits, row in zip(packed, rows, strict=True):
            start = 0
            for index in row:
                ids = torch.tensor([documents[index]["input_ids"][:-1]])
                alone = model(input_ids=ids, use_cache=use_cache).logits[0]
                here = logits[start : start + ids.shape[1]]
                assert (here - alone).abs().max() < 1e-5
                start += ids.shape[1]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_wrong_mask_would_be_noticed(small_model_dir, documents, attention):
    """The comparison above can fail: without our mask, documents do see each other."""
    model = load(small_model_dir, attention).eval()
    batch = TokenForest(documents[1:3], share=False).tensors(pad_token_id=0)
    with torch.no_grad():
        right = model(**attention_inputs(model, batch), use_cache=True).logits
        wrong = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
    assert (right - wrong).abs().max() > 1e-3


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(8)), max_length=st.integers(31, 80))
def test_the_loss_of_packed_rows_is_the_token_weighted_loss_of_its_documents(
    small_model_dir, documents, order, max_length
):
    model = load(small_model_dir, "sdpa").eval()
    expected = 0.0
    with torch.no_grad():
        for document in documents:
            logits = model(input_ids=torch.tensor([document["input_ids"]])).logits[0, :-1]
            targets = torch.tensor(document["labels"][1:])
            expected += cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
        shuffled = [documents[index] for index in order]
        rows = pack(passed(shuffled), max_length=max_length)
        batch = TokenForest(shuffled, rows=rows, share=False).tensors(pad_token_id=0)
        loss = -sequence_logprobs(model, batch).sum.sum()
    trained = sum(label != IGNORE for d in documents for label in d["labels"])
    assert len(batch["scored"]) == trained
    assert loss / trained == pytest.approx(float(expected) / trained, abs=1e-5)


def test_an_attention_that_would_mix_documents_silently_is_refused(small_model_dir, documents):
    model = load(small_model_dir, "sdpa")
    model.config._attn_implementation = "flash_attention_2"
    batch = TokenForest(documents, share=False).tensors(pad_token_id=0)
    with pytest.raises(ValueError, match=r"flash_attention_2.*not known to keep the sequences"):
        attention_inputs(model, batch)
