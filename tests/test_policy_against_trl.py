"""TRL's GRPO and RLOO trainers are the reference: loss, advantages and every gradient.

Our trainer samples answers. TRL's trainer gets the same tokens and the same rewards, and computes
the rest itself: log-probabilities of the sampling, of the reference, and advantages. Then the same
noise moves both models, so that ratios leave the clipping range in both directions.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from pair_training import assert_same_gradients
from policy_training import (
    ASKED,
    NEW_TOKENS,
    REWARDS,
    given_rewards,
    moved,
    step_batches,
    step_gradients,
    trainer,
)
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from mathsft.models.loading import load_model
from mathsft.objectives.groupwise import Policy
from mathsft.objectives.policy import CISPO, DAPO, GRPO, GSPO, RLOO, DrGRPO

OLD_TRL = int(version("trl").split(".")[0]) < 1


def loaded() -> Any:
    """The packaged model in float32 with an adapter, without dropout; always the same weights."""
    torch.manual_seed(0)
    return load_model("tiny", lora={"r": 4, "lora_dropout": 0.0}, device="cpu")


def replaying(kind: Any, prompts: list[list[int]], answers: list[list[int]]) -> Any:
    """TRL's trainer, which "generates" the given answers."""

    class Replaying(kind):
        def _generate_single_turn(self, asked: Any, *_: Any) -> Any:
            if OLD_TRL:  # it gets texts, and tokenises them here
                more = (None, {}) if kind is GRPOTrainer else ()
                return (prompts, answers, *more)
            assert asked == prompts
            return (answers, None) if kind is GRPOTrainer else answers

    return Replaying


def theirs_of(kind: Any, groups: Any, options: dict[str, Any], folder: Path) -> Any:
    """TRL's trainer with the sampling model's weights, and its batch of the groups' answers."""
    model, tokenizer = loaded()
    each = [(ASKED[group.row]["prompt"], group.prompt_ids, one)
            for group in groups for one in group.completions]  # fmt: skip
    replay = replaying(kind, [ids for _, ids, _ in each], [one.input_ids for *_, one in each])
    config = GRPOConfig if kind is GRPOTrainer else RLOOConfig
    if kind is GRPOTrainer:
        # Two iterations: it computes the log-probabilities of the sampling. TRL 1 multiplies k3 by
        # the ratio unless it is told not to.
        options = {"num_iterations": 2, "use_bias_correction_kl": False, **options}
    args = config(
        str(folder), bf16=False, gradient_checkpointing=False, report_to="none", use_cpu=True,
        per_device_train_batch_size=len(each), num_generations=len(groups[0].completions),
        max_completion_length=NEW_TOKENS, **options,
    )  # fmt: skip
    rows = [{"prompt": prompt} for prompt, *_ in each]
    made = replay(
        model, reward_funcs=given_rewards, args=args, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    made.current_gradient_accumulation_steps = 1
    moved(model, by=0.02, seed=1)
    made.model.train()
    return made, made._generate_and_score_completions(rows)


def theirs_step(made: Any, batch: Any) -> tuple[float, dict[str, Tensor]]:
    made.model.train()
    made.model.zero_grad()
    loss = made._compute_loss(made.model, batch)
    loss.backward()
    named = made.model.named_parameters()
    return loss.item(), {n: p.grad for n, p in named if p.grad is not None}


def told(made: Any, name: str) -> float:
    return float(made._metrics["train"][name][-1])


GROUPED: dict[str, tuple[Policy, dict[str, Any]]] = {
    "grpo": (GRPO(), {"loss_type": "grpo"}),
    "grpo, one-sided room": (
        GRPO(epsilon=0.1, epsilon_high=0.3),
        {"loss_type": "grpo", "epsilon": 0.1, "epsilon_high": 0.3},
    ),
    "grpo, not scaled": (
        GRPO(scale_rewards="none"), {"loss_type": "grpo", "scale_rewards": "none"},
    ),
    "grpo, scaled by the batch": (
        GRPO(scale_rewards="batch"), {"loss_type": "grpo", "scale_rewards": "batch"},
    ),
    "grpo with KL": (GRPO(beta=0.1), {"loss_type": "grpo", "beta": 0.1}),
    "grpo, truncated left out": (
        GRPO(mask_truncated_completions=True),
        {"loss_type": "grpo", "mask_truncated_completions": True},
    ),
    "grpo with KL, truncated left out": (
        GRPO(beta=0.1, mask_truncated_completions=True),
        {"loss_type": "grpo", "beta": 0.1, "mask_truncated_completions": True},
    ),
    "grpo at 0.7": (GRPO(temperature=0.7), {"loss_type": "grpo", "temperature": 0.7}),
    "grpo with KL at 1.3": (
        GRPO(temperature=1.3, beta=0.1), {"loss_type": "grpo", "temperature": 1.3, "beta": 0.1},
    ),
    "dr_grpo": (DrGRPO(), {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "dapo": (DAPO(), {"loss_type": "dapo", "epsilon_high": 0.28}),
    "dapo with KL": (DAPO(beta=0.1), {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.1}),
    "dapo, truncated left out": (
        DAPO(mask_truncated_completions=True),
        {"loss_type": "dapo", "epsilon_high": 0.28, "mask_truncated_completions": True},
    ),
    "cispo": (CISPO(epsilon_high=1.2), {"loss_type": "cispo", "epsilon_high": 1.2}),
    "gspo": (
        GSPO(),
        {
            "loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4,
            "epsilon_high": 4e-4,
        },
    ),
    "gspo with KL": (
        GSPO(beta=0.1, epsilon=0.02, epsilon_high=0.02),
        {
            "loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02,
            "beta": 0.1,
        },
    ),
    "gspo by token": (
        GSPO(loss_type="dapo"),
        {
            "loss_type": "dapo", "importance_sampling_level": "sequence", "epsilon": 3e-4,
            "epsilon_high": 4e-4,
        },
    ),
}  # fmt: skip


ALONE: dict[str, tuple[Policy, dict[str, Any]]] = {
    "rloo": (RLOO(), {"beta": 0.0}),
    "rloo with KL in the reward": (RLOO(beta=0.05), {"beta": 0.05}),
    "rloo with KL at 0.7": (RLOO(beta=0.3, temperature=0.7), {"beta": 0.3, "temperature": 0.7}),
    "rloo, truncated left out": (
        RLOO(mask_truncated_completions=True), {"beta": 0.0, "mask_truncated_completions": True},
    ),
    "rloo, much room": (RLOO(epsilon=0.9), {"beta": 0.0, "epsilon": 0.9}),
}  # fmt: skip


def both(kind: Any, objective: Policy, options: dict[str, Any], folder: Path) -> Any:
    """(trainer, batches, items), ours and TRL's, after the weights have moved on; and the groups.

    The adapter is fresh when the trainers are made: the model without it is the reference.
    """
    model, tokenizer = loaded()
    ours = trainer(model, tokenizer, objective, folder)
    moved(model, by=0.02, seed=1)
    batches, items = step_batches(ours)
    theirs, batch = theirs_of(kind, ours.last_attempts, options, folder)
    # k3 is an exponential: after a larger step it amplifies what float32 rounds.
    by = 0.02 if objective.beta else 0.03
    moved(model, by=by, seed=5)
    moved(theirs.model, by=by, seed=5)
    return (ours, batches, items), (theirs, batch), ours.last_attempts


def assert_equal_step(ours: Any, theirs: Any) -> None:
    # A mean of terms of about 0.3 with both signs.
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5, abs=3e-6)
    assert max(float(gradient.abs().max()) for gradient in theirs[1].values()) > 1e-4
    assert_same_gradients(ours[1], theirs[1])


def assert_clipped_on_both_sides(theirs: Any) -> None:
    assert told(theirs, "clip_ratio/low_mean") > 0
    assert told(theirs, "clip_ratio/high_mean") > 0


SLOW = ["grpo, one-sided room", "grpo, not scaled", "grpo with KL, truncated left out", "dapo",
        "grpo at 0.7", "dapo with KL", "gspo with KL", "gspo by token",
        "rloo with KL in the reward", "rloo, much room"]  # fmt: skip


def cases(table: Any) -> list[Any]:
    """Each takes a second; a few that combine what others check are for the slow run."""
    marks: dict[bool, list[Any]] = {True: [pytest.mark.slow], False: []}
    return [pytest.param(name, id=name, marks=marks[name in SLOW]) for name in table]


@pytest.mark.parametrize("name", cases(GROUPED))
def test_a_loss_over_groups_is_that_of_trls_grpo_trainer(name: str, tmp_path: Path) -> None:
    objective, options = GROUPED[name]
    ours, (theirs, batch), groups = both(GRPOTrainer, objective, options, tmp_path)
    answers = [one for group in groups for one in group.completions]
    assert len({len(one.input_ids) for one in answers}) > 2
    assert {one.ended for one in answers} == {True, False}
    flat = [value for own in objective.advantages(REWARDS) for value in own]
    torch.testing.assert_close(batch["advantages"], torch.tensor(flat), rtol=1e-5, atol=1e-6)
    for one, row in zip(answers, batch["old_per_token_logps"], strict=True):
        if one.ended or not objective.mask_truncated_completions:  # else TRL masks its attention
            own = torch.tensor(one.logprobs)
            torch.testing.assert_close(own, row[: len(own)], rtol=1e-5, atol=5e-5)
    loss, gradients = theirs_step(theirs, batch)
    if name == "cispo":
        assert 0 < told(theirs, "cispo_clip_ratio") < 0.5
    else:
        assert_clipped_on_both_sides(theirs)
    if OLD_TRL and name == "dapo, truncated left out":
        # It also divides by the tokens that are left out.
        share = batch["completion_mask"].sum().item() / batch["num_items_in_batch"].item()
        loss, gradients = loss / share, {n: g / share for n, g in gradients.items()}
    assert_equal_step(step_gradients(*ours), (loss, gradients))


@pytest.mark.parametrize("name", cases(ALONE))
def test_a_loss_over_whole_answers_is_that_of_trls_rloo_trainer(name: str, tmp_path: Path) -> None:
    objective, options = ALONE[name]
    ours, (theirs, batch), groups = both(RLOOTrainer, objective, options, tmp_path)
    if not objective.beta:  # else TRL's advantages have the KL already
        flat = [value for own in objective.advantages(REWARDS) for value in own]
        torch.testing.assert_close(batch["advantages"], torch.tensor(flat), rtol=1e-5, atol=1e-6)
    loss, gradients = theirs_step(theirs, batch)
    assert_clipped_on_both_sides(theirs)
    if objective.mask_truncated_completions:
        # TRL keeps -A of an answer that is left out, a constant. Ours has no loss for it.
        ended = torch.tensor([one.ended for group in groups for one in group.completions])
        loss += (batch["advantages"] * ~ended).mean().item()
    assert_equal_step(step_gradients(*ours), (loss, gradients))
