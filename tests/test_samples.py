"""Sample answers are shown and recorded at every evaluation, and do not change the training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_rows import TEMPLATE, chat, sums, with_template
from small_training import PROBLEMS

from mathsft.data.problems import read_problems
from mathsft.evaluation.worked import worked_answers
from mathsft.models.loading import load_model
from mathsft.training.callbacks import show_samples
from mathsft.training.make import multiple_choice_trainer, sft_trainer

WORKED = read_problems("tiny-gsm", limit=12)[0]


def train(folder: Path, rows: Any, **arguments: Any) -> Any:
    """Train two steps with `sft_trainer`, or with ``make``; evaluate after each step."""
    model, tokenizer = load_model("tiny", lora={"r": 4}, device="cpu")
    tokenizer = with_template(tokenizer)
    shown = arguments.pop("shown", None)
    callbacks = [] if shown is None else [show_samples(tokenizer, shown, max_new_tokens=20)]
    trainer = arguments.pop("make", sft_trainer)(
        model, tokenizer, rows, eval_problems=rows, output_dir=folder, max_steps=2,
        eval_strategy="steps", eval_steps=1, per_device_train_batch_size=1, disable_tqdm=True,
        learning_rate=1e-3, callbacks=callbacks, **arguments,
    )  # fmt: skip
    trainer.train()
    return trainer


def records(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "samples.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("make", [sft_trainer, multiple_choice_trainer])
def test_the_weights_are_the_same_bit_for_bit_with_and_without(tmp_path: Path, make: Any) -> None:
    rows = WORKED if make is sft_trainer else PROBLEMS.select(range(8))
    without = train(tmp_path / "a", rows, make=make)
    state = torch.get_rng_state()
    shown = train(tmp_path / "b", rows, make=make, shown=rows)
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(without.model.parameters(), shown.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert len(records(tmp_path / "b")) == 6


def test_what_is_shown_is_the_greedy_answer_of_the_step_and_the_file_has_it_in_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = train(tmp_path, WORKED, shown=WORKED)
    found = records(tmp_path)
    assert [(r["step"], r["sample"]) for r in found] == [(s, n) for s in (1, 2) for n in range(3)]
    answers = worked_answers(
        trainer.model, trainer.processing_class, WORKED.select(range(3)), max_new_tokens=20
    )
    assert [r["written"] for r in found[3:]] == [a["text"] for a in answers]
    assert [r["question"] for r in found[3:]] == WORKED["question"][:3]
    assert all(r["wanted"].endswith(f"#### {WORKED[r['sample']]['answer']}") for r in found)
    said = capsys.readouterr().out
    for record in found:
        cut = "" if record["stopped"] else " (cut off after 20 tokens)"
        assert f"step {record['step']}, sample {record['sample'] + 1}{cut}\n" in said
    assert f"  question  {WORKED[0]['question']}\n" in said


def test_a_chat_is_answered_from_before_its_last_turn_and_a_prompt_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"prompt": "2 + 3 = " * 100, "completion": " 5"}
    train(tmp_path, sums(12), shown=[sums(1)[0], long])
    chat, prompt = records(tmp_path)[-2:]
    assert (chat["question"], chat["wanted"]) == ("Sure?", "Yes.")
    assert (prompt["question"], prompt["wanted"]) == (long["prompt"], long["completion"])
    assert long["prompt"][:300] + " …\n" in capsys.readouterr().out


def test_conversations_that_the_template_refuses_are_passed_over_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    refusing = (
        "{% if messages | length > 2 %}{{ raise_exception('Two turns at most') }}{% endif %}"
        + TEMPLATE
    )
    tokenizer = with_template(load_model("tiny", device="cpu")[1], refusing)
    rows = [*sums(2), chat("Hi"), chat("2 + 3?", "5."), chat("3 + 3?", "6.")]
    shown = show_samples(tokenizer, rows, samples=1)
    assert [sample["question"] for sample in shown._samples] == ["2 + 3?"]
    said = "2 that the chat template refuses (Two turns at most), 1 without an assistant turn"
    assert f"rows skipped: {said}\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"no problem to answer .* 2 that the chat template"):
        show_samples(tokenizer, sums(2))


def test_a_model_that_names_no_stop_ends_at_the_tokenizers() -> None:
    model, tokenizer = load_model("tiny", device="cpu")
    written = []
    for stop in (model.generation_config.eos_token_id, None):
        model.generation_config.eos_token_id = stop
        shown = show_samples(tokenizer, WORKED, samples=1, max_new_tokens=60)
        written.append(shown._write(model, shown._samples[0]))
    assert written[0] == written[1]


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    _, tokenizer = load_model("tiny", device="cpu")
    with pytest.raises(ValueError, match="samples=0: give 1 or more"):
        show_samples(tokenizer, WORKED, samples=0)
    with pytest.raises(ValueError, match="there is no problem to answer"):
        show_samples(tokenizer, [])
    with pytest.raises(ValueError, match="chat template"):
        show_samples(tokenizer, sums(1))
