"""Every function that uses a model leaves it unchanged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lent import assert_same, state_of
from peft import LoraConfig, get_peft_model

from mathsft.data.problems import read_problems
from mathsft.evaluation.run import evaluate
from mathsft.evaluation.worked import worked_answers
from mathsft.models.likelihood import choice_logprobs
from mathsft.models.loading import load_model
from mathsft.models.modes import evaluating
from mathsft.recipes.estimate import estimate_memory
from mathsft.training.callbacks import show_samples
from mathsft.training.make import multiple_choice_trainer, sft_trainer

KINDS = ("full", "lora", "embedding", "head", "mixed modes")


def lend(folder: Path, kind: str) -> tuple[Any, Any]:
    """A model as a user has it: the trained weights of its adapter differ from the base."""
    model, tokenizer = load_model(folder)
    modules = {"embedding": ["embed_tokens"], "head": ["lm_head"]}
    if kind != "full":
        config = LoraConfig(
            r=4, target_modules=["q_proj", "down_proj"], modules_to_save=modules.get(kind),
            lora_dropout=0.1, task_type="CAUSAL_LM",
        )  # fmt: skip
        model = get_peft_model(model, config)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:  # this unties tied weights, as training does
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.eval()
    if kind == "mixed modes":  # dropout on in one layer, off in all others
        model.get_base_model().model.layers[0].train()
    model.generation_config.repetition_penalty = 1.3
    model.config.use_cache = True
    return model, tokenizer


def problems() -> Any:
    return read_problems("tiny-gsm", limit=6)[0]


def choices() -> Any:
    return read_problems("tiny-mathqa", limit=6)[0]


LENT_TO: dict[str, Any] = {
    "evaluate": lambda m, t, _: evaluate(m, "mathqa_tiny", tokenizer=t, limit=4),
    "evaluate, generating": lambda m, t, f: generating(m, t, f),
    "worked answers": lambda m, t, _: worked_answers(m, t, problems(), max_new_tokens=4),
    "choice scores": lambda m, t, _: choice_logprobs(m, t, choices()),
    "memory estimate": lambda m, t, _: estimate_memory("tiny"),
}


def generating(model: Any, tokenizer: Any, folder: Path) -> Any:
    """A task of the harness that generates."""
    rows = folder / "rows.jsonl"
    rows.write_text('{"question": "1 + 1?", "answer": "2"}\n' * 2, encoding="utf-8")
    task = folder / "asks.yaml"
    task.write_text(
        "task: asks\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {rows}\ntest_split: test\noutput_type: generate_until\n"
        'doc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
        "generation_kwargs:\n  until: ['\\n\\n']\n  max_gen_toks: 4\n  do_sample: false\n"
        "metric_list:\n  - metric: exact_match\n",
        encoding="utf-8",
    )
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from mathsft.evaluation.harness import ForestLM

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    with evaluating(model):
        lm = ForestLM(model, tokenizer=tokenizer)
        return simple_evaluate(lm, tasks=["asks"], task_manager=manager)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("user", LENT_TO)
def test_a_model_comes_back_as_it_was_lent(small_model_dir, tmp_path, kind, user) -> None:
    model, tokenizer = lend(small_model_dir, kind)
    side, pad = tokenizer.padding_side, tokenizer.pad_token
    before = state_of(model)
    LENT_TO[user](model, tokenizer, tmp_path)
    assert_same(before, state_of(model))
    assert (side, pad) == (tokenizer.padding_side, tokenizer.pad_token)


@pytest.mark.parametrize("objective", ["sft", "multiple_choice"])
@pytest.mark.parametrize("kind", ["full", "lora", "embedding"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_trainer_changes_what_it_trains_and_nothing_else(
    small_model_dir, tmp_path, kind, objective, checkpointing
) -> None:
    model, tokenizer = lend(small_model_dir, kind)
    before, start = state_of(model, trained=False), state_of(model)["parameters"]
    rows, make = (
        (problems(), sft_trainer) if objective == "sft" else (choices(), multiple_choice_trainer)
    )
    settings: dict[str, Any] = {}
    if objective == "sft":
        settings["callbacks"] = [show_samples(tokenizer, rows, samples=1, max_new_tokens=3)]
    trainer = make(
        model, tokenizer, rows, eval_problems=rows, output_dir=tmp_path, max_steps=2,
        learning_rate=1e-2, warmup_steps=0, per_device_train_batch_size=1,
        eval_strategy="steps", eval_steps=1, gradient_checkpointing=checkpointing,
        **settings,
    )  # fmt: skip
    trainer.train()
    trainer.evaluate()
    assert_same(before, state_of(model, trained=False))
    moved = state_of(model)["parameters"]
    assert any(not torch.equal(start[name], moved[name]) for name in start)


def test_a_model_is_given_back_after_an_error_as_well(small_model_dir) -> None:
    model, tokenizer = lend(small_model_dir, "mixed modes")
    before = state_of(model)
    norm = model.get_base_model().model.norm.weight
    kept = norm.detach().clone()
    norm.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        worked_answers(model, tokenizer, problems(), max_new_tokens=2)
    norm.data.copy_(kept)
    assert_same(before, state_of(model))


@pytest.mark.parametrize("kind", ["embedding", "head"])
def test_weights_that_were_tied_once_are_scored_as_they_were_trained(small_model_dir, kind) -> None:
    model, tokenizer = lend(small_model_dir, kind)
    result = evaluate(model, "mathqa_tiny", tokenizer=tokenizer, limit=4)
    expected = choice_logprobs(
        model, tokenizer, read_problems("tiny-mathqa", split="test", limit=4)[0]
    )
    for ours, theirs in zip(result.scores(), expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
