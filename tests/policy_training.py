"""Prompts for policy objectives, a trainer that answers them, and its gradients in one step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mathsft.objectives.groupwise import Policy
from mathsft.training.make_rollouts import rollout_trainer

# Prompts of unlike length.
ASKED = [
    {"prompt": f"Tom has {n} pens{' and a red pencil' * (n % 3)}.\n\n", "completion": "He writes."}
    for n in range(3, 7)
]
# The second group has no signal.
REWARDS = [[1.0, 0.0, 0.0, 1.0], [0.5] * 4, [0.2, 0.7, 0.0, 1.0], [0.0, 0.0, 0.0, 0.3]]
NEW_TOKENS = 12


def moved(model: Any, *, by: float, seed: int) -> Any:
    """Add noise to the adapter, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.default" in name:  # TRL keeps a copy of the adapter as "ref"
                parameter += by * torch.randn(parameter.shape, generator=generator)
    return model


def given_rewards(completions: list[str], **_: Any) -> list[float]:
    """The rewards in their order, whatever the answers are."""
    return [reward for group in REWARDS for reward in group][: len(completions)]


def trainer(model: Any, tokenizer: Any, objective: Policy, folder: Path, **arguments: Any) -> Any:
    """By default it takes the four prompts in one step, in two batches."""
    settings = {
        "num_generations": 4, "max_new_tokens": NEW_TOKENS, "disable_tqdm": True,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
    }  # fmt: skip
    settings |= arguments
    rows, reward = settings.pop("rows", ASKED), settings.pop("reward", given_rewards)
    return rollout_trainer(model, tokenizer, rows, objective, reward, output_dir=folder, **settings)


def step_batches(made: Any) -> tuple[Sequence[Any], Any]:
    """The batches of one optimiser step, sampled and judged, and the number of their items."""
    loader = iter(made.get_train_dataloader())
    found: tuple[Sequence[Any], Any] = made.get_batch_samples(
        loader, made.args.gradient_accumulation_steps, made.args.device
    )
    return found


def step_gradients(
    made: Any, batches: Sequence[Any], items: Any
) -> tuple[float, dict[str, Tensor]]:
    """The loss of an optimiser step, and the gradients that its backward passes sum up."""
    made.model.train()
    made.model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = made.compute_loss(made.model, batch, num_items_in_batch=items)
        loss.backward()
        total += loss.item()
    named = made.model.named_parameters()
    return total, {n: p.grad.clone() for n, p in named if p.grad is not None}
