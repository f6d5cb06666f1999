"""Greedy answers depend only on weights and prompt, end at the stop, and never use NaN."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mathsft.data.problems import read_problems
from mathsft.evaluation.worked import worked_answers
from mathsft.models.encoding import encode_prompts
from mathsft.models.greedy import greedy_tokens
from mathsft.models.loading import load_model
from mathsft.training.callbacks import show_samples
from mathsft.training.make import sft_trainer

PROMPTS = ["### Question:\nTom has 3", "Sam buys 24 apples and eats 5.", "A"]
SETTINGS: dict[str, dict[str, Any]] = {
    "a repetition penalty": {"repetition_penalty": 1.8},
    "beams": {"num_beams": 4},
    "no repeated pairs": {"no_repeat_ngram_size": 2},
    "forbidden tokens": {"suppress_tokens": list(range(60, 200))},
    "forbidden words": {"bad_words_ids": [[n] for n in range(60, 200)]},
    "a forced end": {"forced_eos_token_id": 5},
    "a least length": {"min_new_tokens": 12},
    "sampling": {"do_sample": True, "temperature": 5.0, "top_k": 50},
    "a bias": {"sequence_bias": [[[70], 50.0]]},
}


@pytest.fixture
def loaded(small_model_dir: Path) -> tuple[Any, Any]:
    return load_model(small_model_dir)


def argmax(model: Any, ids: list[int], steps: int, stops: set[int]) -> list[int]:
    """Append the likeliest token step by step, each from a plain pass."""
    ids, start = list(ids), len(ids)
    for _ in range(steps):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] in stops:
            break
    return ids[start:]


def written(model: Any, tokenizer: Any, steps: int = 10) -> list[list[int]]:
    prompts = encode_prompts(tokenizer, PROMPTS)
    return greedy_tokens(model, tokenizer, prompts, max_new_tokens=steps, names=PROMPTS)


def harness_answers(model: Any, tokenizer: Any) -> list[str]:
    from lm_eval.api.instance import Instance

    from mathsft.evaluation.harness import ForestLM

    asked = {"until": ["<never>"], "max_gen_toks": 10, "do_sample": False}
    requests = [
        Instance(request_type="generate_until", doc={}, arguments=(prompt, dict(asked)), idx=n)
        for n, prompt in enumerate(PROMPTS)
    ]
    return ForestLM(model, tokenizer=tokenizer).generate_until(requests, disable_tqdm=True)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoint_s_generation_config_changes_no_answer(loaded, name, capsys) -> None:
    model, tokenizer = loaded
    stops = {tokenizer.eos_token_id}
    expected = [argmax(model, ids, 10, stops) for ids in encode_prompts(tokenizer, PROMPTS)]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    model.generation_config.update(**SETTINGS[name])
    problems = [{"question": q, "answer": "1"} for q in PROMPTS]
    assert written(model, tokenizer) == expected
    found = worked_answers(model, tokenizer, problems, max_new_tokens=10, prompt=str)
    assert [one["text"] for one in found] == texts
    assert harness_answers(model, tokenizer) == texts
    said = capsys.readouterr().out
    assert all(f"{key}=" in said for key in SETTINGS[name]) or name == "sampling"


def test_only_settings_that_greedy_decoding_ignores_are_reported(loaded, capsys) -> None:
    model, tokenizer = loaded
    problems = [{"question": "1 + 1", "answer": "2"}]
    worked_answers(model, tokenizer, problems, max_new_tokens=2)
    assert capsys.readouterr().out == ""
    model.generation_config.update(repetition_penalty=1.1, temperature=0.7, top_p=0.8, top_k=20)
    worked_answers(model, tokenizer, problems, max_new_tokens=2)
    assert "ignores the checkpoint's repetition_penalty=1.1 (" in capsys.readouterr().out


def test_a_config_json_with_a_penalty_changes_no_answer(small_model_dir, tmp_path) -> None:
    """Old checkpoints keep such settings in config.json."""
    model, tokenizer = load_model(small_model_dir)
    expected = written(model, tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "repetition_penalty": 1.8}))
    (tmp_path / "generation_config.json").unlink()
    assert written(*load_model(tmp_path)) == expected


@pytest.mark.parametrize("named", [7, [7, 9], None])
def test_an_answer_ends_at_the_stop_that_was_trained(loaded, named) -> None:
    """The checkpoint's generation config does not matter."""
    model, tokenizer = loaded
    free = argmax(model, encode_prompts(tokenizer, PROMPTS)[0], 10, set())
    model.generation_config.eos_token_id = named
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(free[3])
    end = free.index(free[3]) + 1
    assert written(model, tokenizer)[0] == free[:end]
    problems = [{"question": PROMPTS[0], "answer": "1"}]
    (found,) = worked_answers(model, tokenizer, problems, max_new_tokens=10, prompt=str)
    assert found["text"] == tokenizer.decode(free[:end], skip_special_tokens=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("how", ["worked answers", "samples", "harness"])
def test_weights_that_are_not_finite_give_an_error_and_no_text(
    loaded, how, value, tmp_path
) -> None:
    model, tokenizer = loaded
    problems = read_problems("tiny-gsm", limit=2)[0]
    sampler = show_samples(tokenizer, problems, samples=1)
    model.model.norm.weight.data[3] = value
    ways = {
        "worked answers": lambda: worked_answers(model, tokenizer, problems, max_new_tokens=3),
        "harness": lambda: harness_answers(model, tokenizer),
        "samples": lambda: sampler._write(model, sampler._samples[0]),
    }
    with pytest.raises(ValueError, match="not finite"):
        ways[how]()


def test_a_prompt_that_leaves_no_room_is_named_with_what_to_do(loaded, tmp_path) -> None:
    model, tokenizer = loaded
    long = "Tom has 3 apples and eats 1. " * 200
    problems = [{"question": "1 + 1", "answer": "2"}, {"question": long, "answer": "2"}]
    with pytest.raises(ValueError, match=r"problem 1 has a prompt of .* 1,024 positions"):
        worked_answers(model, tokenizer, problems, max_new_tokens=4)
    with pytest.raises(ValueError, match="give max_new_tokens of at most"):
        worked_answers(model, tokenizer, problems[:1], max_new_tokens=1024)
    row = {"question": long, "solution": "2", "answer": "2"}
    with pytest.raises(ValueError, match=r"show_samples: 'Tom has 3.* positions"):
        sft_trainer(
            load_model("tiny", lora=True)[0], tokenizer, read_problems("tiny-gsm", limit=4)[0],
            output_dir=tmp_path, callbacks=[show_samples(tokenizer, [row])],
        )  # fmt: skip


def test_the_last_answer_that_fits_is_written(loaded) -> None:
    model, tokenizer = loaded
    prompt = [40] * 1000
    (found,) = greedy_tokens(model, tokenizer, [prompt], max_new_tokens=25, names=["it"])
    assert len(found) == 25 or found[-1] == tokenizer.eos_token_id
    with pytest.raises(ValueError, match="at most 25"):
        greedy_tokens(model, tokenizer, [prompt], max_new_tokens=26, names=["it"])
