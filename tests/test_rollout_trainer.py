"""Training on a model's own attempts: what is learned, logged, resumed, and when it stops."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from mathsft import load_model, load_problems
from mathsft.generation.reward_calls import RewardError
from mathsft.generation.rollouts import sample_groups
from mathsft.objectives.policy import DAPO, GRPO, RLOO, DrGRPO, Reinforce
from mathsft.objectives.sft import SFT
from mathsft.training.attempts import CollapseWatch
from mathsft.training.make_rollouts import rollout_trainer

ROWS = load_problems("tiny-gsm", limit=12)
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Stop(TrainerCallback):
    """Ends training after a step, without the schedule of a shorter run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def even_length(completions: list[str], **columns: Any) -> list[float]:
    """A reward with signal, whatever the model writes."""
    return [float(len(text) % 2) for text in completions]


def trainer(folder: Path, objective: Any = None, reward: Any = even_length, **given: Any) -> Any:
    torch.manual_seed(0)
    model, tokenizer = load_model("tiny", lora={"r": 4}, device="cpu")
    model = given.pop("model", model)
    settings = {
        "output_dir": folder, "num_generations": 4, "max_new_tokens": 12, "max_steps": 4,
        "per_device_train_batch_size": 2, "learning_rate": 2e-3, "disable_tqdm": True,
        "save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "constant",
    }  # fmt: skip
    rows = given.pop("rows", ROWS)
    objective = objective or DrGRPO()
    return rollout_trainer(model, tokenizer, rows, objective, reward, **{**settings, **given})


def weights(folder: Path, step: int) -> bytes:
    return (folder / f"checkpoint-{step}" / "adapter_model.safetensors").read_bytes()


def test_the_loss_falls_on_the_reward_that_is_given(tmp_path: Path) -> None:
    def many_spaces(completions: list[str], **columns: Any) -> list[float]:
        return [text.count(" ") / 10 for text in completions]

    made = trainer(
        tmp_path, reward=many_spaces, max_steps=8, per_device_train_batch_size=4,
        num_generations=8, save_strategy="no", learning_rate=5e-3,
    )  # fmt: skip
    made.train()
    rewards = [entry["reward"] for entry in made.state.log_history if "reward" in entry]
    assert sum(rewards[-3:]) > 1.3 * sum(rewards[:3])


@pytest.mark.parametrize(
    ("objective", "given"),
    [
        (DrGRPO(), {}),
        pytest.param(GRPO(beta=0.1), {"num_iterations": 2}, marks=pytest.mark.slow),
        pytest.param(RLOO(beta=0.1), {"resample": 1}, marks=pytest.mark.slow),
        pytest.param(DAPO(), {"num_iterations": 3, "resample": 1}, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_as_one_that_was_not_stopped(
    tmp_path: Path, objective: Any, given: dict[str, int]
) -> None:
    trainer(tmp_path / "whole", objective, **given).train()
    stopped = trainer(tmp_path / "stopped", objective, callbacks=[Stop(4)], **given)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    again = trainer(tmp_path / "stopped", objective, **given)
    again.train(resume_from_checkpoint=True)
    assert weights(tmp_path / "stopped", 3) == weights(tmp_path / "whole", 3)
    assert weights(tmp_path / "stopped", 4) == weights(tmp_path / "whole", 4)
    assert weights(tmp_path / "whole", 3) != weights(tmp_path / "whole", 4)


@pytest.mark.slow
def test_a_stopped_run_of_several_epochs_asks_the_same_prompts(tmp_path: Path) -> None:
    given: dict[str, Any] = {"max_steps": 9, "per_device_train_batch_size": 5}  # 2 left over
    whole = trainer(tmp_path / "whole", **given)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "stopped", callbacks=[Stop(6)], **given).train()
    again = trainer(tmp_path / "stopped", **given)
    again.train(resume_from_checkpoint=True)
    assert [one.row for one in whole.last_attempts] == [one.row for one in again.last_attempts]
    assert weights(tmp_path / "stopped", 9) == weights(tmp_path / "whole", 9)


def test_another_reward_or_other_answers_are_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(tmp_path, max_steps=1).train()

    def other(completions: list[str], **columns: Any) -> list[float]:
        return even_length(completions)

    row = ROWS[0]
    changed = [{**row, "answer": "7"}, *list(ROWS)[1:]]
    for given in ({"reward": other}, {"rows": changed}, {"num_generations": 3}, {"top_p": 0.9}):
        made = trainer(tmp_path, max_steps=1, **given)
        made.train(resume_from_checkpoint=True)
        assert "training starts again from step 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "objective", [DrGRPO(), GRPO(), pytest.param(DAPO(), marks=pytest.mark.slow)]
)
def test_accumulated_batches_learn_what_one_batch_learns(tmp_path: Path, objective: Any) -> None:
    given: dict[str, Any] = {"max_steps": 1, "objective": objective}
    whole = trainer(tmp_path / "1", per_device_train_batch_size=4, **given)
    whole.train()
    parts = trainer(
        tmp_path / "2", per_device_train_batch_size=2, gradient_accumulation_steps=2, **given
    )
    parts.train()
    answers = [
        [one.input_ids for group in made.last_attempts for one in group.completions]
        for made in (whole, parts)
    ]
    assert answers[0] == answers[1]
    for key in ("loss", "grad_norm"):
        a, b = (made.state.log_history[0][key] for made in (whole, parts))
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


def test_several_steps_learn_from_the_same_attempts(tmp_path: Path) -> None:
    made = trainer(tmp_path, GRPO(epsilon=0.01), num_iterations=3, max_steps=6)
    seen = []
    step = made.training_step
    made.training_step = lambda *a, **k: (seen.append(made.last_attempts), step(*a, **k))[1]
    made.train()
    assert [a is b for a, b in itertools.pairwise(seen)] == [True, True, False, True, True]
    clipped = [e["clip_ratio/region_mean"] for e in made.state.log_history
               if "clip_ratio/region_mean" in e]  # fmt: skip
    assert clipped[0] == 0  # the ratio of the first step is one
    assert max(clipped[1:3]) > 0


def test_what_is_logged_in_each_step(tmp_path: Path) -> None:
    made = trainer(tmp_path, GRPO(beta=0.1), max_steps=2)
    made.train()
    logged = made.state.log_history[1]
    groups = made.last_attempts
    rewards = torch.tensor([group.rewards for group in groups])
    answers = [one for group in groups for one in group.completions]
    assert logged["reward"] == pytest.approx(rewards.mean().item(), abs=1e-4)
    assert logged["reward_std"] == pytest.approx(rewards.std(dim=1).mean().item(), abs=1e-4)
    equal = (rewards == rewards[:, :1]).all(dim=1).float().mean().item()
    assert logged["frac_reward_zero_std"] == pytest.approx(equal, abs=1e-4)
    lengths = [len(one.input_ids) for one in answers]
    assert logged["completions/mean_length"] == sum(lengths) / len(lengths)
    assert logged["completions/ended"] == sum(one.ended for one in answers) / len(answers)
    tokens = [value for one in answers for value in one.logprobs]
    assert logged["entropy"] == pytest.approx(-sum(tokens) / len(tokens), abs=1e-4)
    assert logged["kl"] >= 0
    assert logged["seconds/generating"] > 0 < logged["seconds/updating"]


def test_a_reward_that_raises_stops_the_run_and_names_the_row(tmp_path: Path) -> None:
    def strict(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
        return [float(int(one)) for one in answer]

    rows = [*list(ROWS)[:3], {**ROWS[3], "answer": "twelve"}]
    made = trainer(tmp_path, reward=strict, rows=rows, per_device_train_batch_size=4)
    with pytest.raises(RewardError, match=r"'strict', row \d+ \(prompt .*twelve"):
        made.train()


def test_a_reward_gets_what_trl_gives(tmp_path: Path) -> None:
    got: dict[str, Any] = {}

    def reward(prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
        got.update(columns, prompts=prompts, completions=completions, ids=completion_ids)
        columns["log_metric"]("mine", 3.0)
        return even_length(completions)

    made = trainer(tmp_path, reward=reward, max_steps=1)
    made.train()
    assert len(got["prompts"]) == len(got["completions"]) == len(got["answer"]) == 8
    assert got["prompts"][0].startswith("### Question:")
    assert got["trainer_state"] is made.state
    assert got["ids"][0] == made.last_attempts[0].completions[0].input_ids
    assert {"question", "solution", "answer", "ended"} <= got.keys()
    assert made.state.log_history[0]["mine"] == 3.0


def test_a_run_without_any_reward_stops_and_says_what_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = trainer(tmp_path, reward=lambda completions, **_: [0.0] * len(completions), max_steps=9)
    made.train()
    assert made.state.global_step == 3
    told = capsys.readouterr().out
    assert "no answer was rewarded in the last 3 steps, and none before" in told
    assert "SFT on a few solutions" in told


def test_a_collapse_is_noticed_after_a_good_start() -> None:
    watch = CollapseWatch()
    fine = {"reward": 0.4, "completions/ended": 0.9, "frac_reward_zero_std": 0.5}
    solved = {"reward": 1.0, "completions/ended": 1.0, "frac_reward_zero_std": 1.0}
    silent = {"reward": 0.0, "completions/ended": 0.02, "frac_reward_zero_std": 1.0}
    endless = {"reward": 0.4, "completions/ended": 0.0, "frac_reward_zero_std": 0.5}
    for found in (fine, *[solved] * 5, silent, silent, fine, silent, silent):
        assert watch.update(found) == ""
    assert "half the learning_rate" in watch.update(silent)
    watch = CollapseWatch()
    assert [watch.update(one) for one in (fine, endless, endless)] == ["", "", ""]
    assert "no answer ended in the last 3 steps; before, up to 90%" in watch.update(endless)


def test_silent_groups_are_replaced_by_other_prompts(tmp_path: Path) -> None:
    rewarded = {ROWS[number]["question"] for number in range(6)}

    def reward(completions: list[str], question: list[str], **columns: Any) -> list[float]:
        signal = even_length(completions)
        return [s * (q in rewarded) for s, q in zip(signal, question, strict=True)]

    given: dict[str, Any] = {"max_steps": 1, "per_device_train_batch_size": 8}
    made = trainer(tmp_path / "a", reward=reward, **given)
    made.train()
    before = made.state.log_history[0]["frac_reward_zero_std"]
    made = trainer(tmp_path / "b", reward=reward, resample=4, **given)
    made.train()
    assert made.state.log_history[0]["frac_reward_zero_std"] < before
    assert len(made.last_attempts) == 8


def test_groups_without_signal_do_not_pass_but_count(tmp_path: Path) -> None:
    def first_prompt(completions: list[str], prompts: list[str], **_: Any) -> list[float]:
        signal = even_length(completions)
        return [s * (p == prompts[0]) for s, p in zip(signal, prompts, strict=True)]

    made = trainer(tmp_path, reward=first_prompt, max_steps=1, per_device_train_batch_size=4)
    made.train()
    (group, *others) = made.last_attempts
    assert group.has_signal
    assert not any(one.has_signal for one in others)
    learning = sum(len(one.input_ids) for one in group.completions) + len(group.prompt_ids)
    assert made.state.log_history[0]["num_tokens"] <= learning


def test_evaluation_asks_the_held_out_rows_the_same_way_each_time(tmp_path: Path) -> None:
    held_out = load_problems("tiny-gsm", split="test", limit=3)
    made = trainer(
        tmp_path, eval_rows=held_out, eval_strategy="steps", eval_steps=1, max_steps=2,
        load_best_model_at_end=True, metric_for_best_model="reward", greater_is_better=True,
    )  # fmt: skip
    first, second = made.evaluate(), made.evaluate()
    assert first["eval_reward"] == second["eval_reward"]
    assert {"eval_completions/ended", "eval_entropy", "eval_runtime"} <= first.keys()
    plain = trainer(tmp_path / "plain", max_steps=2)
    plain.train()
    made.train()  # an evaluation changes nothing
    assert weights(tmp_path, 2) == weights(tmp_path / "plain", 2)
    with pytest.raises(ValueError, match="give eval_rows"):
        plain.evaluate()


def test_a_reference_is_the_start_even_if_that_was_trained(tmp_path: Path) -> None:
    made = trainer(tmp_path / "first", max_steps=2)
    made.train()
    again = trainer(tmp_path / "again", GRPO(beta=0.5), model=made.model, max_steps=2)
    assert again.reference == "before_training"
    before = [parameter.detach().clone() for parameter in again.model.parameters()]
    again.train()
    kls = [entry["kl"] for entry in again.state.log_history if "kl" in entry]
    assert kls[0] == pytest.approx(0, abs=1e-6)  # of the start itself
    assert kls[1] != 0
    assert any(not torch.equal(a, b) for a, b in zip(before, again.model.parameters(), strict=True))


def test_another_author_s_log_probabilities_are_corrected_up_to_a_cap(tmp_path: Path) -> None:
    def rounded(model: Any, tokenizer: Any, prompts: Any, **how: Any) -> Any:
        groups = sample_groups(model, tokenizer, prompts, **how)
        return [
            [replace(one, logprobs=[value - 1.0 for value in one.logprobs]) for one in group]
            for group in groups
        ]

    exact = trainer(tmp_path / "exact", Reinforce(), max_steps=1)
    exact.train()
    made = trainer(tmp_path / "other", Reinforce(), sampler=rounded, max_steps=1)
    made.train()
    assert made.state.log_history[0]["sampling/logp_difference"] == pytest.approx(1.0, abs=1e-4)
    row = made._rows[0]
    for values, one in zip(row["old"], made.last_attempts[0].completions, strict=True):
        assert values == pytest.approx([value + 1.0 for value in one.logprobs], abs=1e-4)
    # exp(1) is above the cap of 2: every token counts twice.
    assert {weight for one in row["importance_weight"] for weight in one} == {2.0}
    ratio = made.state.log_history[0]["grad_norm"] / exact.state.log_history[0]["grad_norm"]
    assert ratio == pytest.approx(2.0, rel=1e-4)


def test_conversations_are_asked_and_rewarded_as_conversations(
    tmp_path: Path,
) -> None:
    got: list[Any] = []

    def reward(prompts: Any, completions: Any, **_: Any) -> list[float]:
        got.extend(zip(prompts, completions, strict=True))
        return even_length([turns[-1]["content"] for turns in completions])

    rows = [
        {"messages": [{"role": "user", "content": f"{n} + 1?"},
                      {"role": "assistant", "content": str(n + 1)}]} for n in range(4)
    ]  # fmt: skip
    model, tokenizer = load_model("tiny", lora={"r": 4}, device="cpu")
    tokenizer.chat_template = TEMPLATE
    made = rollout_trainer(
        model, tokenizer, rows, DrGRPO(), reward, output_dir=tmp_path, num_generations=4,
        max_new_tokens=8, max_steps=1, per_device_train_batch_size=2, disable_tqdm=True,
    )  # fmt: skip
    made.train()
    asked, answered = got[0]
    assert [turn["role"] for turn in asked] == ["user"]
    assert [turn["role"] for turn in answered] == ["assistant"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": SFT()}, "does not learn from a model's own attempts"),
        ({"reward": "final_answer"}, "reward_by_name makes one from its name"),
        ({"num_generations": 1}, "needs 2 or more"),
        ({"rows": list(ROWS)[:1]}, "1 prompts are fewer than the 2 of one optimiser step"),
        ({"max_new_tokens": 2000}, "leaves no room for a prompt"),
        ({"max_length": 40}, "no prompt is left; dropped: 12 with a prompt of more than 29"),
        ({"num_iterations": 0}, "num_iterations=0"),
        ({"eval_rows": []}, "eval"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, **given)


def test_a_checkpoint_keeps_the_attempts_of_its_step(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_steps=1, num_iterations=2)
    made.train()
    kept = json.loads((tmp_path / "checkpoint-1" / "attempts-0.json").read_text())
    assert [row["input_ids"] for row in kept["rows"]] == [
        [[*group.prompt_ids, *one.input_ids] for one in group.completions]
        for group in made.last_attempts
    ]


def test_rows_on_disk_are_asked_too(tmp_path: Path) -> None:
    assert isinstance(ROWS, Dataset)
    made = trainer(tmp_path, rows=ROWS.select(range(4)), max_steps=1)
    made.train()
    assert {group.row for group in made.last_attempts} <= set(range(4))


@pytest.mark.parametrize(
    "row", [{"prompt": "1 + 1 =", "answer": "2"}, {"prompt": [{"role": "user", "content": "1?"}]},
            {"messages": [{"role": "user", "content": "1?"}]}],
)  # fmt: skip
def test_a_prompt_needs_no_answer(tmp_path: Path, row: dict[str, Any]) -> None:
    model, tokenizer = load_model("tiny", lora={"r": 4}, device="cpu")
    tokenizer.chat_template = TEMPLATE
    made = rollout_trainer(
        model, tokenizer, [row] * 2, DrGRPO(), lambda completions, **_: [1.0] * len(completions),
        output_dir=tmp_path, num_generations=2, max_new_tokens=4, max_steps=1,
        per_device_train_batch_size=2, disable_tqdm=True,
    )  # fmt: skip
    made.train()
    text = tokenizer.decode(made.last_attempts[0].prompt_ids)
    assert text == ("1 + 1 =" if "answer" in row else "<|user|>1?<|endoftext|><|assistant|>")
