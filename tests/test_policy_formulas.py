"""Advantages and policy losses by hand, token by token; and the settings that make no sense."""

import math
from pathlib import Path
from statistics import fmean, pstdev, stdev
from typing import Any

import pytest
import torch
from model_files import base
from policy_training import trainer
from torch import Tensor
from transformers import AutoTokenizer

from mathsft.models.adapters import add_adapter
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.objectives.advantages import advantages
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
from mathsft.objectives.sft import SFT
from mathsft.training.make import make_trainer


@pytest.fixture(scope="module")
def tokenizer(small_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(small_model_dir)


@pytest.fixture
def adapted(small_model_dir: Path) -> Any:
    torch.manual_seed(1)
    return add_adapter(base(small_model_dir), r=4, lora_dropout=0.0)


# Advantages.

UNEVEN = [[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5], [0.2, 0.8]]
EVERY = [reward for group in UNEVEN for reward in group]
BASELINES: dict[str, Any] = {
    "none": lambda group, place: 0.0,
    "group": lambda group, place: fmean(group),
    "leave_one_out": lambda group, place: fmean(group[:place] + group[place + 1 :]),
    "batch": lambda group, place: fmean(EVERY),
}
SCALES: dict[str, Any] = {
    "none": lambda group: 1.0,
    "group": lambda group: stdev(group) + 1e-4,
    "group_population": lambda group: pstdev(group) + 1e-4,
    "batch": lambda group: stdev(EVERY) + 1e-4,
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("baseline", BASELINES)
def test_an_advantage_is_its_formula(baseline: Any, scale: Any) -> None:
    found = advantages(UNEVEN, baseline=baseline, scale_rewards=scale)
    for group, own in zip(UNEVEN, found, strict=True):
        expected = [
            (reward - BASELINES[baseline](group, place)) / SCALES[scale](group)
            for place, reward in enumerate(group)
        ]
        assert own == pytest.approx(expected, rel=1e-12)


def test_advantages_by_hand() -> None:
    rewards = [[1.0, 0.0, 0.0, 0.0]]
    (own,) = advantages(rewards, baseline="leave_one_out", scale_rewards="none")
    assert own == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    (own,) = advantages(rewards, baseline="group", scale_rewards="group")
    assert own == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3])


@pytest.mark.parametrize("baseline", ["group", "leave_one_out"])
@pytest.mark.parametrize("reward", [0.1, 1 / 3, 0.7])
def test_equal_rewards_have_an_advantage_of_exactly_0(baseline: Any, reward: float) -> None:
    (own,) = advantages([[reward] * 7], baseline=baseline, scale_rewards="group")
    assert own == [0.0] * 7


# Tensors.


def scored(*answers: list[float], **more: Any) -> SequenceLogprobs:
    """Log-probabilities of answers by token; ``reference`` and ``old`` in the same form."""
    values = torch.tensor([value for answer in answers for value in answer], requires_grad=True)
    sequence = torch.tensor([n for n, answer in enumerate(answers) for _ in answer])
    tokens = torch.tensor([len(answer) for answer in answers])
    return SequenceLogprobs(
        values, sequence, tokens, **{name: scored(*given) for name, given in more.items()}
    )


NOW = [-1.0, -0.5], [-2.0, -0.2, -0.3], [-0.7]
OLD = [-1.5, -0.5], [-1.0, -0.2, -0.4], [-0.6]
BEFORE = [-1.1, -0.9], [-2.5, -0.2, -0.1], [-0.4]
WEIGHTS = [1.0, -0.5, 2.0]


def batch_of(*weights: float, group: Any = (0, 0, 1)) -> dict[str, Tensor]:
    return {"advantages": torch.tensor(weights), "group": torch.tensor(group)}


@pytest.mark.parametrize(
    ("estimator", "formula"),
    [("k3", lambda d: math.exp(d) - d - 1), ("k2", lambda d: d * d / 2)],
)
def test_k2_and_k3_are_added_to_the_loss_of_each_token(estimator: Any, formula: Any) -> None:
    logprobs, batch = scored(*NOW, reference=BEFORE, old=OLD), batch_of(*WEIGHTS)
    total = {
        beta: DAPO(beta=beta, kl_estimator=estimator).loss(logprobs, batch).total.item()
        for beta in (0.0, 0.3)
    }
    kl = [
        formula(before - now)
        for answers in zip(NOW, BEFORE, strict=True)
        for now, before in zip(*answers, strict=True)
    ]
    # Without beta the trainer gives no reference: here the weight alone is 0.
    assert total[0.3] - total[0.0] == pytest.approx(0.3 * sum(kl), rel=1e-5)


def test_the_kl_that_is_logged_is_the_mean_log_ratio() -> None:
    found = GRPO(beta=0.3).loss(scored(*NOW, reference=BEFORE), batch_of(*WEIGHTS))
    differences = [0.1, 0.4, 0.5, 0.0, -0.2, -0.3]
    assert found.metrics["kl"].tolist() == pytest.approx(differences, abs=1e-6)


@pytest.mark.parametrize(
    ("objective", "penalties"),
    [
        (Reinforce(beta=0.3, kl_estimator="k1"), [0.0, 1.2, -0.2]),
        (PPO(beta=0.3, kl_estimator="k1"), [0.0, 1.2, -0.2]),
        (GRPO(beta=0.3, kl_estimator="k1"), [-0.6, 0.6, 0.0]),
        (RLOO(beta=0.3), [-1.2, 1.2, 0.0]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_k1_lowers_the_reward_of_an_answer_that_moved_away(objective: Any, penalties: Any) -> None:
    """s_old - s_ref is 0, 1.2 and -0.2. A baseline over a group applies to it as well."""
    by_hand = [sum(old) - sum(before) for old, before in zip(OLD, BEFORE, strict=True)]
    assert by_hand == pytest.approx([0.0, 1.2, -0.2])
    found = objective.loss(scored(*NOW, reference=BEFORE, old=OLD), batch_of(*WEIGHTS)).total
    instead = [weight - 0.3 * kl for weight, kl in zip(WEIGHTS, penalties, strict=True)]
    expected = objective.loss(scored(*NOW, old=OLD), batch_of(*instead)).total
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_clipped_token_has_no_gradient_and_is_counted() -> None:
    """Ratios: e^0.5, 1; e^-1, 1, e^0.1; e^-0.1. Clipped: the first, up, with A = 1; and e^-1."""
    logprobs = scored(*NOW, old=OLD)
    found = DAPO().loss(logprobs, batch_of(1.0, -0.5, 2.0))
    found.total.backward()
    gradient = logprobs.values.grad
    assert gradient is not None
    expected = [0.0, -1.0, 0.0, 0.5, 0.5 * math.exp(0.1), -2 * math.exp(-0.1)]
    assert gradient.tolist() == pytest.approx(expected, rel=1e-5)
    assert found.metrics["clip_ratio/region_mean"].tolist() == [1, 0, 1, 0, 0, 0]
    other = scored(*NOW, old=OLD)
    DAPO().loss(other, batch_of(-1.0, 0.5, 2.0)).total.backward()  # the other way: not clipped
    assert other.values.grad is not None
    assert other.values.grad[0].item() == pytest.approx(math.exp(0.5), rel=1e-5)
    assert other.values.grad[2].item() == pytest.approx(-0.5 * math.exp(-1), rel=1e-5)


@pytest.mark.parametrize(
    ("objective", "counts"),
    [
        (Reinforce(), [1, 1, 1]),
        (GRPO(), [2, 3, 1]),
        (DrGRPO(max_completion_length=10), [10, 10, 10]),
        (DAPO(), [1, 1, 1]),
        (GSPO(), [2, 3, 1]),
        (CISPO(), [1, 1, 1]),
        (PPO(), [1, 1, 1]),
        (ReinforcePlusPlus(), [1, 1, 1]),
        (RLOO(), [1, 1, 1]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_in_the_first_step_the_gradient_is_minus_the_advantage(objective: Any, counts: Any) -> None:
    """Divided by what the loss type divides an answer's tokens by."""
    logprobs = scored(*NOW, old=NOW)
    objective.loss(logprobs, batch_of(*WEIGHTS)).total.backward()
    gradient = logprobs.values.grad
    assert gradient is not None
    expected = [
        -weight / count
        for answer, weight, count in zip(NOW, WEIGHTS, counts, strict=True)
        for _ in answer
    ]
    assert gradient.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("objective", [Reinforce(), GRPO(), DAPO(), CISPO()], ids=lambda o: o.name)
def test_an_importance_weight_multiplies_the_loss_of_its_token(objective: Any) -> None:
    found, plain = scored(*NOW, old=NOW), scored(*NOW, old=NOW)
    weight = torch.tensor([0.5, 1.0, 2.0, 1.0, 0.1, 0.3])
    objective.loss(found, {**batch_of(*WEIGHTS), "importance_weight": weight}).total.backward()
    objective.loss(plain, batch_of(*WEIGHTS)).total.backward()
    assert found.values.grad is not None
    torch.testing.assert_close(found.values.grad, plain.values.grad * weight)


# Settings.


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        (GRPO, {"beta": -0.1}, "beta=-0.1"),
        (GRPO, {"epsilon": 1.0}, "epsilon=1.0"),
        (GRPO, {"epsilon_high": 0.0}, "epsilon_high=0.0"),
        (GRPO, {"temperature": 0.0}, "temperature=0.0"),
        (GRPO, {"loss_type": "bnpo"}, "loss_type='bnpo': give grpo, dr_grpo, dapo or cispo"),
        (GRPO, {"loss_type": "cispo"}, "'cispo' needs epsilon_high"),
        (GRPO, {"importance_sampling_level": "answer"}, "give token or sequence"),
        (GRPO, {"max_completion_length": 0}, "max_completion_length=0"),
        (GRPO, {"kl_estimator": "k4"}, "kl_estimator='k4': give k1, k2 or k3"),
        (RLOO, {"baseline": "mean"}, "baseline='mean': give none, group, leave_one_out or batch"),
        (RLOO, {"scale_rewards": True}, "scale_rewards=True"),
        (RLOO, {"epsilon": -0.2}, "epsilon=-0.2"),
    ],
)
def test_an_impossible_setting_is_named(kind: Any, settings: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        kind(**settings)


@pytest.mark.parametrize(
    ("objective", "arguments", "told"),
    [
        (SFT(), {}, "sft does not learn from a model's own attempts"),
        (GRPO(), {"num_generations": 1}, "needs 2 or more"),
        (RLOO(), {"num_generations": 1}, "needs 2 or more"),
        (GRPO(), {"per_device_train_batch_size": 3}, "fewer than the 6 of one optimiser step"),
        (GRPO(), {"max_new_tokens": 1024}, "no prompt is left"),
        (GRPO(), {"max_new_tokens": 1025}, "leaves no room for a prompt"),
        (GRPO(), {"top_p": 0.0}, "top_p=0.0"),
        (GRPO(), {"num_iterations": 0}, "num_iterations=0"),
        (GRPO(), {"resample": -1}, "resample=-1"),
        (GRPO(), {"reference": "adapter_off"}, "uses no reference"),
    ],
)
def test_an_impossible_trainer_is_refused(
    adapted: Any, tokenizer: Any, tmp_path: Path, objective: Any, arguments: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        trainer(adapted, tokenizer, objective, tmp_path, **arguments)


def test_dr_grpo_on_stored_answers_needs_a_length(
    adapted: Any, tokenizer: Any, tmp_path: Path
) -> None:
    row = {"prompt": "How many?", "completions": ["1", "2"], "rewards": [1.0, 0.0]}
    with pytest.raises(ValueError, match="give max_completion_length"):
        make_trainer(adapted, tokenizer, [row], DrGRPO(), output_dir=tmp_path)
