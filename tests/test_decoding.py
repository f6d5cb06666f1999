"""Answers written together are those that each prompt gets alone, from a plain pass per token."""

from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import base
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from mathsft.models.cache import RoomyLayer, roomy_cache
from mathsft.models.choosing import Sampler
from mathsft.models.encoding import encode_prompts
from mathsft.models.greedy import written_tokens

PROMPTS = ["Tom has 3 pens", "A", "Ann buys 12 apples and gives some of them to Bob."]
STEPS = 90  # more than the room that a cache grows by


@pytest.fixture(scope="module")
def loaded(small_model_dir: Path) -> Any:
    return base(small_model_dir).eval(), AutoTokenizer.from_pretrained(small_model_dir)


def write(model: Any, tokenizer: Any, **how: Any) -> list[list[int]]:
    prompts = encode_prompts(tokenizer, PROMPTS)
    return written_tokens(model, tokenizer, prompts, names=PROMPTS, **how)


def ending_early(model: Any, tokenizer: Any, place: int) -> Any:
    """A tokenizer whose stop is a token that the model writes somewhere in an answer."""
    answers = write(model, tokenizer, max_new_tokens=STEPS)
    token = answers[0][place]
    other = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    other.eos_token = other.convert_ids_to_tokens(token)
    return other


def test_rows_of_unlike_length_get_the_tokens_of_transformers_generate(loaded: Any) -> None:
    """Some answers end at once and leave; the others go on past the cache's first room."""
    model, tokenizer = loaded
    tokenizer = ending_early(model, tokenizer, 2)
    found = write(model, tokenizer, max_new_tokens=STEPS, copies=[2, 1, 3])
    expected = []
    for ids, count in zip(encode_prompts(tokenizer, PROMPTS), (2, 1, 3), strict=True):
        out = model.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=STEPS,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=0,
        )  # fmt: skip
        expected += [out[0, len(ids) :].tolist()] * count
    assert found == expected
    assert len({len(answer) for answer in found}) > 1


def test_the_cache_holds_what_transformers_cache_holds(loaded: Any) -> None:
    """Through growing, selecting rows and growing again."""
    model, _ = loaded
    ours = roomy_cache(model)
    assert ours is not None
    assert all(isinstance(layer, RoomyLayer) for layer in ours.layers)
    ids = torch.arange(40, 40 + 3 * 70).reshape(3, 70) % 300
    keep = torch.tensor([2, 0, 0])
    with torch.no_grad():
        first = model(ids[:, :4], past_key_values=ours).logits
        for place in range(4, 70):
            if place == 30:
                ours.batch_select_indices(keep)
                ids = ids[keep]
            first = model(ids[:, place : place + 1], past_key_values=ours).logits
        plain = model(ids, use_cache=False).logits
    torch.testing.assert_close(first[:, -1], plain[:, -1], rtol=1e-4, atol=1e-5)
    assert ours.get_seq_length() == 70


def test_a_model_with_windows_is_left_to_generate_and_writes_the_same_way(loaded: Any) -> None:
    _, tokenizer = loaded
    torch.manual_seed(0)
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, sliding_window=8,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        )
    ).eval()  # fmt: skip
    assert roomy_cache(model) is None
    greedy = write(model, tokenizer, max_new_tokens=12, copies=[1, 2, 1])
    assert greedy[1] == greedy[2]
    uniform = torch.rand(4, 12, generator=torch.Generator().manual_seed(1))
    sampler = Sampler(uniform, temperature=1.0)
    sampled = write(model, tokenizer, max_new_tokens=12, copies=[1, 2, 1], choose=sampler)
    assert sampled[1] != sampled[2]


def test_no_token_outside_top_p_is_sampled(loaded: Any) -> None:
    model, tokenizer = loaded
    prompt = encode_prompts(tokenizer, PROMPTS[:1])[0]
    with torch.no_grad():
        likely = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    best = int(likely.argmax())
    uniform = torch.rand(200, 1, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(uniform, temperature=1.0, top_p=float(likely.max()) * 0.99)
    found = written_tokens(
        model, tokenizer, [prompt], names=["it"], copies=[200], max_new_tokens=1, choose=sampler
    )
    assert {answer[0] for answer in found} == {best}
    # The log-probability is the model's own, not the nucleus's.
    torch.testing.assert_close(sampler.logprobs[:, 0], likely.max().log().expand(200))


def test_a_draw_is_the_token_whose_share_of_the_line_it_falls_in() -> None:
    """Tokens with probabilities 0.5, 0, 0.25, 0.25; also numbers at the very edges."""
    logits = torch.tensor([0.5, 0.0, 0.25, 0.25]).log().expand(6, 4)
    numbers = [0.0, 0.49, 0.51, 0.74, 0.76, 1 - 2**-24]
    sampler = Sampler(torch.tensor(numbers)[:, None], temperature=1.0)
    assert sampler(logits, torch.arange(6), 0).tolist() == [0, 0, 2, 2, 3, 3]
    shares = torch.tensor([0.5, 0.5, 0.25, 0.25, 0.25, 0.25])
    torch.testing.assert_close(sampler.logprobs[:, 0].exp(), shares)
    sharp = Sampler(torch.tensor([[0.6]]), temperature=0.5)  # 0.25, 0, 0.0625, 0.0625 of 0.375
    assert sharp(logits[:1], torch.tensor([0]), 0).tolist() == [0]
    assert sharp.logprobs[0, 0].exp().item() == pytest.approx(2 / 3)
