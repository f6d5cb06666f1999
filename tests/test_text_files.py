"""An adapter's folder has what text needs: tokenizer, chat template, stop tokens."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from model_files import trained
from transformers import AutoTokenizer, GenerationConfig

from mathsft.evaluation.harness import ForestLM
from mathsft.evaluation.run import evaluate
from mathsft.evaluation.worked import worked_answers
from mathsft.models.adapters import load_adapter, merge_adapter, save_adapter
from mathsft.models.encoding import stop_tokens
from mathsft.models.loading import load_model
from mathsft.models.saving import save_model
from mathsft.training.make import sft_trainer

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}~{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture
def base_dir(small_model_dir: Path, tmp_path: Path) -> Path:
    """A base like Qwen2.5: it has a token that ends turns, but no chat template."""
    folder = Path(shutil.copytree(small_model_dir, tmp_path / "base"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    spare = tokenizer.convert_ids_to_tokens(len(tokenizer) - 1)
    tokenizer.add_special_tokens({"additional_special_tokens": [spare]})
    tokenizer.save_pretrained(folder)
    return folder


def turn_end(tokenizer: Any) -> int:
    """The token that ends a turn."""
    return len(tokenizer) - 1


@pytest.fixture
def saved(base_dir: Path, tmp_path: Path) -> tuple[Path, Any]:
    """A chat-tuned adapter, and its tokenizer."""
    model, tokenizer = load_model(base_dir, lora=True)
    end = tokenizer.convert_ids_to_tokens(turn_end(tokenizer))
    tokenizer.chat_template = TEMPLATE.replace("~", end)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{n} + 1?"},
                {"role": "assistant", "content": f"It is {n + 1}."},
            ]
        }
        for n in range(8)
    ]
    sft_trainer(
        model, tokenizer, rows, output_dir=tmp_path / "run", max_steps=30, learning_rate=1e-2,
        per_device_train_batch_size=1,
    ).train()  # fmt: skip
    return save_adapter(model, tmp_path / "adapter", tokenizer=tokenizer), tokenizer


def test_the_folder_holds_tokenizer_template_and_every_stop(saved) -> None:
    folder, tokenizer = saved
    found = AutoTokenizer.from_pretrained(folder)
    assert found.chat_template == tokenizer.chat_template
    assert found("### 3 apples").input_ids == tokenizer("### 3 apples").input_ids
    stops = GenerationConfig.from_pretrained(folder).eos_token_id
    assert sorted(stops) == sorted([tokenizer.eos_token_id, turn_end(tokenizer)])


def test_the_base_s_own_tokenizer_stops_at_the_turn_s_end_after_a_reload(saved, base_dir) -> None:
    """The generation config names the stop: a base's tokenizer does not know the template."""
    folder, tokenizer = saved
    base, plain = load_model(base_dir)
    assert plain.chat_template is None
    model = load_adapter(base, folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "3 + 1?"}], tokenize=False, add_generation_prompt=True
    )
    problems = [{"question": "3 + 1?", "answer": "4"}]
    (ours,) = worked_answers(model, plain, problems, max_new_tokens=40, prompt=lambda _: prompt)
    (theirs,) = worked_answers(
        model, tokenizer, problems, max_new_tokens=40, prompt=lambda _: prompt
    )
    assert ours["text"] == theirs["text"]
    assert stop_tokens(model, plain) == stop_tokens(model, tokenizer)
    assert turn_end(tokenizer) in stop_tokens(model, plain)


@pytest.mark.slow
def test_evaluate_asks_a_chat_tuned_adapter_in_its_own_template(saved, base_dir) -> None:
    folder, tokenizer = saved
    settings: dict[str, Any] = {"limit": 4, "apply_chat_template": True}
    found = evaluate(str(base_dir), "mathqa_tiny", peft=folder, **settings)
    model = load_adapter(load_model(base_dir)[0], folder)
    expected = evaluate(model, "mathqa_tiny", tokenizer=tokenizer, **settings)
    assert found.scores() == expected.scores()
    lm = ForestLM(str(base_dir), peft=folder)
    assert lm.tokenizer.chat_template == tokenizer.chat_template


def test_an_adapter_without_a_tokenizer_is_read_with_the_base_s(base_dir, tmp_path) -> None:
    folder = save_adapter(trained(load_model(base_dir)[0]), tmp_path / "adapter")
    lm = ForestLM(str(base_dir), peft=folder)
    assert lm.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(base_dir).get_vocab()


def test_a_merged_and_a_full_model_name_every_stop_as_well(saved, base_dir, tmp_path) -> None:
    folder, tokenizer = saved
    model = load_adapter(load_model(base_dir)[0], folder)
    merge_adapter(model, tmp_path / "merged", tokenizer=tokenizer)
    full, _ = load_model(base_dir)
    before = full.generation_config.eos_token_id
    save_model(full, tokenizer, tmp_path / "full")
    assert full.generation_config.eos_token_id == before  # the model is not changed
    for name in ("merged", "full"):
        stops = GenerationConfig.from_pretrained(tmp_path / name).eos_token_id
        assert sorted(stops) == sorted(GenerationConfig.from_pretrained(folder).eos_token_id)


def test_a_generation_config_that_cannot_be_saved_costs_no_adapter(
    base_dir, tmp_path, capsys
) -> None:
    model, tokenizer = load_model(base_dir)
    model = trained(model)
    model.get_base_model().generation_config.num_return_sequences = 4  # invalid: greedy, yet 4
    folder = save_adapter(model, tmp_path / "adapter", tokenizer=tokenizer)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id
    load_adapter(load_model(base_dir)[0], folder)
