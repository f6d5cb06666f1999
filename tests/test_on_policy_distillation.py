"""Distillation on what the student writes: the loss, its gradients, evaluation, resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pair_training import assert_same_gradients, gradients, moved
from transformers import TrainerCallback

from mathsft.cli import main
from mathsft.models.loading import load_model
from mathsft.objectives.distillation import Distillation
from mathsft.objectives.sft import SFT
from mathsft.training.make_rollouts import rollout_trainer

QUESTIONS = [f"Tom has {n} apples and eats {n - 1}.{' Hm?' * (n % 2)}" for n in range(3, 7)]
ASKED = [{"prompt": f"{q}\n\n"} for q in QUESTIONS]
# Some rows let the teacher read another prompt.
TOLD = [{**row, "teacher_prompt": f"{q}\n"} for row, q in zip(ASKED, QUESTIONS, strict=True)][:2]
TOLD += ASKED[2:]


class Stop(TrainerCallback):
    """Interrupts a training run after its second step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt


def trainer(folder: Path, objective: Distillation | None = None, **given: Any) -> Any:
    settings: dict[str, Any] = {
        "num_generations": 3, "max_new_tokens": 10, "disable_tqdm": True, "rows": TOLD,
        "per_device_train_batch_size": 2, "max_steps": 3, "save_strategy": "steps",
        "save_steps": 1, "learning_rate": 1e-3,
    } | given  # fmt: skip
    loaded = settings.pop("loaded", None) or load_model("tiny", lora={"r": 4}, device="cpu")
    made = objective or Distillation(on_policy=True, loss_type="reverse_kl")
    return rollout_trainer(*loaded, settings.pop("rows"), made, output_dir=folder, **settings)


@pytest.mark.parametrize(
    "objective",
    [
        Distillation(on_policy=True),
        Distillation(on_policy=True, loss_type="reverse_kl", temperature=2.0),
        Distillation(on_policy=True, loss_type="jsd", top_k=9, sampling_temperature=0.7),
    ],
)
def test_a_step_has_the_loss_and_the_gradients_of_plain_passes_over_the_sampled_tokens(
    tmp_path: Path, objective: Distillation
) -> None:
    """The teacher reads its own prompt, and then the very token ids that were sampled."""
    model, tokenizer = load_model("tiny", lora={"r": 4, "lora_dropout": 0.0}, device="cpu")
    made = trainer(
        tmp_path, objective, loaded=(moved(model), tokenizer), per_device_train_batch_size=4
    )
    batches, items = made.get_batch_samples(iter(made.get_train_dataloader()), 1, made.args.device)
    model.train()
    ours = made.compute_loss(model, batches[0], num_items_in_batch=items)
    found = gradients(ours, model)
    base = load_model("tiny", device="cpu")[0]
    values = []
    for group in made.last_attempts:
        told = TOLD[group.row].get("teacher_prompt", TOLD[group.row]["prompt"])
        for one in group.completions:
            logits = []
            for who, prompt in ((model, group.prompt_ids), (base, tokenizer(told).input_ids)):
                ids = torch.tensor([[*prompt, *one.input_ids][:-1]])
                logits.append(who(ids).logits[0, -len(one.input_ids) :].float())
            token = torch.tensor(one.input_ids)
            values.append(objective.compared(token, logits[0], logits[1].detach())[0])
    assert sum(map(len, values)) == int(items)
    theirs = torch.cat(values).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert_same_gradients(found, gradients(theirs, model))


def test_it_needs_no_reward_and_evaluates_the_distance_on_answers_of_its_own(
    tmp_path: Path,
) -> None:
    made = trainer(tmp_path, eval_rows=TOLD, save_strategy="no", max_steps=6)
    before = made.evaluate()
    assert before["eval_loss"] > 0
    assert before["eval_logps/student"] == pytest.approx(-before["eval_entropy"], rel=1e-4)
    assert not [name for name in before if "reward" in name]
    made.train()
    assert made.evaluate()["eval_loss"] < before["eval_loss"]
    logged = {name for entry in made.state.log_history for name in entry}
    assert {"loss", "logps/teacher", "completions/mean_length", "seconds/generating"} <= logged


def test_a_reward_is_only_logged_and_never_stops_the_run(tmp_path: Path) -> None:
    def nothing(completions: list[str], **columns: Any) -> list[float]:
        return [0.0] * len(completions)

    made = trainer(tmp_path / "a", reward=nothing, max_steps=4, save_strategy="no")
    made.train()
    assert made.state.global_step == 4
    assert made.state.log_history[0]["reward"] == 0
    alone = trainer(tmp_path / "b", max_steps=4, save_strategy="no")
    alone.train()
    for one, other in zip(made.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_stopped_run_ends_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", num_iterations=2)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "stopped", num_iterations=2, callbacks=[Stop()]).train()
    again = trainer(tmp_path / "stopped", num_iterations=2)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for told, objective, given in (
        ("does not learn from a model's own attempts", SFT(), {}),
        ("does not learn from a model's own attempts", Distillation(), {}),
        ("learns from every answer", None, {"resample": 1}),
        ("reward: expected a function", None, {"reward": 3}),
        ("column 'teacher_prompt'", None, {"rows": [{**ASKED[0], "teacher_prompt": []}]}),
        (
            "on_policy needs a teacher that reads new texts",
            Distillation(on_policy=True, teacher="x.safetensors"),
            {},
        ),
    ):
        with pytest.raises(ValueError, match=told):
            trainer(tmp_path, objective, **given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no prompt is left.*teacher_prompt of more"):
        trainer(tmp_path, rows=[{**ASKED[0], "teacher_prompt": "word " * 2000}])


def test_the_command_line_distils_on_policy_without_a_reward(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    main([
        "train", "--objective", "distillation", "--on_policy", "true", "--teacher", "tiny",
        "--train.source", "tiny-gsm", "--train.limit", "4", "--test", "null",
        "--rollout.num_generations", "2", "--rollout.max_new_tokens", "4",
        "--per_device_train_batch_size", "2", "--max_steps", "1", "--output_dir", str(folder),
    ])  # fmt: skip
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
