"""Policy losses of whole models against plain passes, however a batch is divided."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import base
from pair_training import assert_same_gradients, gradients
from policy_training import ASKED, REWARDS, moved, step_batches, step_gradients, trainer
from test_minimal import script
from torch import Tensor
from transformers import AutoTokenizer

from mathsft.generation.rollouts import Completion
from mathsft.models.adapters import add_adapter
from mathsft.models.forest import TokenForest
from mathsft.models.loading import load_model
from mathsft.objectives.base import sequences_of
from mathsft.objectives.groupwise import Policy
from mathsft.objectives.policy import (
    CISPO,
    DAPO,
    GRPO,
    GSPO,
    PPO,
    RLOO,
    DrGRPO,
    Reinforce,
    ReinforcePlusPlus,
)
from mathsft.training.batches import Collator
from mathsft.training.make import make_trainer

PLAIN = script("grpo")


@pytest.fixture(scope="module")
def tokenizer(small_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(small_model_dir)


@pytest.fixture
def adapted(small_model_dir: Path) -> Any:
    torch.manual_seed(1)
    return add_adapter(base(small_model_dir), r=4, lora_dropout=0.0)


# Models: against minimal/grpo.py.


def attempted(model: Any, tokenizer: Any, objective: Policy, folder: Path, **how: Any) -> Any:
    """A trainer whose model has moved on since it wrote the answers; its batches and answers."""
    made = trainer(moved(model, by=0.3, seed=1), tokenizer, objective, folder, **how)
    batches, items = step_batches(made)
    prompts = [g.prompt_ids for g in made.last_attempts for _ in g.completions]
    answers = [one.input_ids for g in made.last_attempts for one in g.completions]
    with torch.no_grad():
        old, mask = PLAIN.answer_logprobs(model, prompts, answers)
    moved(model, by=0.2, seed=2)
    now = PLAIN.answer_logprobs(model, prompts, answers)[0]
    return (made, batches, items), now, old, mask


def assert_same(step: Any, loss: Tensor) -> None:
    found = step_gradients(*step)
    assert found[0] == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    expected = gradients(loss, step[0].model)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3
    assert_same_gradients(found[1], expected)


@pytest.mark.parametrize("dr", [True, False])
@pytest.mark.parametrize("max_length", [1024, 60])
def test_grpo_is_that_of_the_script(
    adapted: Any, tokenizer: Any, tmp_path: Path, dr: bool, max_length: int
) -> None:
    """With a group that has no signal; and in rows that hold only a part of a group."""
    objective = DrGRPO() if dr else GRPO()
    step, now, old, mask = attempted(adapted, tokenizer, objective, tmp_path, max_length=max_length)
    rows = [len(batch["row_tokens"]) for batch in step[1]]
    assert rows == [1, 1] if max_length > 60 else max(rows) > 1
    weights = PLAIN.advantages(torch.tensor(REWARDS), dr=dr)
    ratio = (now - old).exp()[mask]
    assert ratio.min() < 0.8 < 1.2 < ratio.max()
    assert_same(step, PLAIN.policy_loss(now, old, mask, weights, dr=dr, most_tokens=12))


def per_token(objective: Any, now: Tensor, old: Tensor, mask: Tensor, group: Any) -> Tensor:
    """The mean over all tokens of the published losses that are not in the script."""
    every = torch.tensor([reward for rewards in group for reward in rewards])
    if objective.name == "reinforce":
        return (-every[:, None] * now * mask).sum() / mask.sum()
    weight = every - every.mean()
    if objective.name == "reinforce_pp":
        weight = weight / (every.std() + 1e-4)
    ratio = (now - old).exp()
    clipped = torch.where(ratio > 1.2, 1.2, torch.where(ratio < 0.8, 0.8, ratio))
    worse = torch.maximum(-weight[:, None] * ratio, -weight[:, None] * clipped)
    return (worse * mask).sum() / mask.sum()


@pytest.mark.parametrize(
    "objective", [Reinforce(), PPO(), ReinforcePlusPlus()], ids=lambda one: one.name
)
def test_a_loss_with_rewards_of_the_batch_is_its_formula(
    adapted: Any, tokenizer: Any, tmp_path: Path, objective: Any
) -> None:
    step, now, old, mask = attempted(adapted, tokenizer, objective, tmp_path)
    assert_same(step, per_token(objective, now, old, mask, REWARDS))


@pytest.mark.parametrize("quantize", [False, True])
def test_checkpointed_activations_and_4_bit_weights_give_the_same_gradients_as_plain_passes(
    small_model_dir: Path, tokenizer: Any, tmp_path: Path, quantize: bool
) -> None:
    torch.manual_seed(1)
    lora = {"r": 4, "lora_dropout": 0.0}
    model, _ = load_model(small_model_dir, quantize=quantize, lora=lora, device="cpu")
    step, now, old, mask = attempted(
        model, tokenizer, GRPO(), tmp_path, gradient_checkpointing=True
    )
    weights = PLAIN.advantages(torch.tensor(REWARDS), dr=False)
    assert_same(step, PLAIN.policy_loss(now, old, mask, weights, dr=False))


# Batches.


def test_answers_without_an_advantage_do_not_pass_and_are_counted(
    adapted: Any, tokenizer: Any, tmp_path: Path
) -> None:
    (made, batches, items), *_ = attempted(adapted, tokenizer, DAPO(), tmp_path)
    groups = made.last_attempts
    assert items == sum(len(one.input_ids) for group in groups for one in group.completions)
    loud = [group for group in groups if group.has_signal]
    assert len(loud) == 3
    passed = sum(TokenForest(list(sequences_of(group.as_row([0.0] * 4)))).tokens for group in loud)
    assert sum(int(batch["row_tokens"].sum()) for batch in batches) <= passed


def test_a_step_in_which_no_answer_has_an_advantage_changes_nothing(
    adapted: Any, tokenizer: Any, tmp_path: Path
) -> None:
    how = {"reward": lambda completions, **_: [0.3] * len(completions), "max_steps": 1}
    made = trainer(moved(adapted, by=0.3, seed=1), tokenizer, GRPO(), tmp_path, **how)
    before = {n: p.detach().clone() for n, p in adapted.named_parameters()}
    made.train()
    assert all(torch.equal(p, before[n]) for n, p in adapted.named_parameters())
    assert made.state.log_history[0]["loss"] == 0
    assert made.state.log_history[0]["frac_reward_zero_std"] == 1


OBJECTIVES = [
    GRPO(), DrGRPO(max_completion_length=9), DAPO(), GSPO(epsilon=0.1), CISPO(epsilon_high=1.1),
    RLOO(), Reinforce(),
]  # fmt: skip


@pytest.fixture(scope="module")
def divided(small_model_dir: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(1)
    model = add_adapter(base(small_model_dir), r=4, lora_dropout=0.0)
    made = attempted(model, tokenizer, GRPO(), tmp_path_factory.mktemp("divided"))[0][0]
    rows = [
        group.as_row([reward - 0.4 for reward in rewards])
        for group, rewards in zip(made.last_attempts, REWARDS, strict=True)
    ]
    return made, rows, {}


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    objective=st.sampled_from(OBJECTIVES),
    order=st.permutations(range(4)),
    cuts=st.sets(st.integers(1, 3)),
    max_length=st.integers(50, 400),
)
def test_a_step_has_the_same_gradient_however_it_is_divided(
    divided: Any, objective: Any, order: Any, cuts: Any, max_length: int
) -> None:
    """Into batches (accumulation), and into rows of any length, also within a group."""
    made, rows, known = divided
    made.objective = objective

    def gradient(parts: Any, max_length: int) -> Any:
        collate = Collator(objective, pad_token_id=0, max_length=max_length)
        batches = [collate(part) for part in parts]
        return step_gradients(made, batches, sum(len(batch["labels"]) for batch in batches))

    if objective not in known:
        known[objective] = gradient([rows], 1024)
    places = [0, *sorted(cuts), 4]
    parts = [[rows[place] for place in order[start:end]] for start, end in pairwise(places)]
    found, expected = gradient(parts, max_length), known[objective]
    assert found[0] == pytest.approx(expected[0], rel=1e-4, abs=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in expected[1].values())
    for name, value in expected[1].items():
        assert float((found[1][name] - value).abs().max()) <= 1e-5 * largest, name


def test_stored_groups_have_the_first_step_of_the_same_answers_when_sampled(
    adapted: Any, tokenizer: Any, tmp_path: Path
) -> None:
    texts = [
        [f"{4 * row + n} pens{' or more' * (n % 2)}." for n in range(4)]
        for row in range(len(ASKED))
    ]
    reward_of = {
        text: reward
        for own, rewards in zip(texts, REWARDS, strict=True)
        for text, reward in zip(own, rewards, strict=True)
    }
    rows = [
        {"prompt": row["prompt"], "completions": own, "rewards": rewards}
        for row, own, rewards in zip(ASKED, texts, REWARDS, strict=True)
    ]
    moved(adapted, by=0.3, seed=1)
    stored = make_trainer(adapted, tokenizer, rows, GRPO(), output_dir=tmp_path / "stored")
    whole = [stored.collate(list(stored.train_dataset))]
    expected = step_gradients(stored, whole, len(whole[0]["labels"]))

    def written(model: Any, tokenizer: Any, prompts: Any, *, numbers: Any, **_: Any) -> Any:
        groups = []
        for ids, number in zip(prompts, numbers, strict=True):
            answers = [
                [*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts[number]
            ]
            with torch.no_grad():
                values, mask = PLAIN.answer_logprobs(model, [ids] * 4, answers)
            groups.append([
                Completion(answer, text, True, value[where].tolist())
                for answer, text, value, where in zip(
                    answers, texts[number], values, mask, strict=True
                )
            ])  # fmt: skip
        return groups

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [reward_of[text] for text in completions]

    made = trainer(
        adapted, tokenizer, GRPO(), tmp_path, sampler=written, reward=reward, max_new_tokens=40
    )
    found = step_gradients(made, *step_batches(made))
    assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    assert_same_gradients(found[1], expected[1])
