"""Batches made ahead: the same items, errors where they are asked for, and no thread left."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mathsft.models import ahead, likelihood
from mathsft.models.ahead import made_ahead
from mathsft.models.likelihood import choice_logprobs
from mathsft.models.loading import load_model


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("made_ahead")]


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_items_come_in_order_whether_a_thread_makes_them_or_not(device, count):
    made_in: set[str] = set()

    def items() -> Iterator[int]:
        for n in range(count):
            made_in.add(threading.current_thread().name)
            yield n

    with made_ahead(items(), device=device) as found:
        assert [*found] == [*range(count)]
    assert all(name.startswith("made_ahead") == (device != "cpu") for name in made_in)
    assert threads() == []


def test_one_item_is_made_while_the_block_works_and_no_more():
    made: list[int] = []
    ready = [threading.Event() for _ in range(5)]

    def items() -> Iterator[int]:
        for n in range(5):
            made.append(n)
            ready[n].set()
            yield n

    with made_ahead(items()) as found:
        for n in found:
            if n < 4:
                assert ready[n + 1].wait(10)  # without the block's asking for it
            assert made == [*range(min(n + 2, 5))]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_error_in_an_item_is_raised_when_it_is_asked_for(device):
    def items() -> Iterator[int]:
        yield 0
        raise ValueError("no item 1")

    with made_ahead(items(), device=device) as found:
        assert next(found) == 0
        with pytest.raises(ValueError, match="no item 1"):
            next(found)
    assert threads() == []


def test_leaving_early_leaves_no_thread():
    with made_ahead(iter(range(100))) as found:
        for n in found:
            if n == 2:
                break
    assert threads() == []

    def fails() -> None:
        with made_ahead(iter(range(100))) as found:
            raise KeyError(f"item {next(found)} does not suit the block")

    with pytest.raises(KeyError, match="item 0"):
        fails()
    assert threads() == []


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread, also with a model on a CPU."""

    def in_thread(items: Any, *, device: Any) -> Any:
        return ahead.made_ahead(items, device="cuda")

    monkeypatch.setattr(likelihood, "made_ahead", in_thread)
    monkeypatch.setattr("mathsft.evaluation.harness.made_ahead", in_thread)


def test_choices_scored_with_a_thread_have_the_same_bits(
    small_model_dir: Path, tiny_choices, request
):
    model, tokenizer = load_model(small_model_dir)
    problems = [*tiny_choices.select(range(20))]
    alone = choice_logprobs(model, tokenizer, problems, batch_size=3)
    request.getfixturevalue("always")
    assert choice_logprobs(model, tokenizer, problems, batch_size=3) == alone
    assert threads() == []


def test_the_harness_with_a_thread_gives_the_same_bits(small_model_dir: Path, request):
    from mathsft.evaluation.run import evaluate

    def scores() -> list[list[float]]:
        model, tokenizer = load_model(small_model_dir)
        found = evaluate(model, "mathqa_tiny", tokenizer=tokenizer, limit=30, batch_size=2)
        return [question["loglikelihoods"] for question in found.questions]

    alone = scores()
    request.getfixturevalue("always")
    assert scores() == alone
    assert threads() == []
