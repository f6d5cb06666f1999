"""Pairs, a trainer for them, and the plain forward passes that it is compared with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mathsft.training.make import make_trainer

PAIRS = [
    {
        "prompt": f"Tom has {n} apples and eats {n - 1}. How many are left?\n\n",
        "chosen": "He has 1 left.",
        "rejected": f"He has {n} apples left." * (1 + n % 2),
    }
    for n in range(3, 10)
]


def moved(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def trainer(model: Any, tokenizer: Any, folder: Path, objective: Any, **arguments: Any) -> Any:
    settings = {"disable_tqdm": True, "per_device_train_batch_size": 3, "max_length": 200}
    rows = arguments.pop("rows", PAIRS)
    return make_trainer(
        model, tokenizer, rows, objective, output_dir=folder, **{**settings, **arguments}
    )


def plain_sum(model: Any, tokenizer: Any, prompt: str, answer: str) -> Tensor:
    """Return log p(answer and stop | prompt), computed by a plain forward pass."""
    ids = tokenizer(prompt).input_ids
    whole = [*tokenizer(prompt + answer).input_ids, tokenizer.eos_token_id]
    logits = model(input_ids=torch.tensor([whole[:-1]])).logits[0].float().log_softmax(-1)
    picked = logits[range(len(whole) - 1), whole[1:]]
    return picked[len(ids) - 1 :].sum()


def plain_dpo(model: Any, reference: Any, tokenizer: Any, rows: Any, beta: float) -> Tensor:
    losses = []
    for row in rows:
        ratios = []
        for side in ("chosen", "rejected"):
            ours = plain_sum(model, tokenizer, row["prompt"], row[side])
            with torch.no_grad():
                theirs = plain_sum(reference, tokenizer, row["prompt"], row[side])
            ratios.append(ours - theirs)
        losses.append(-logsigmoid(beta * (ratios[0] - ratios[1])))
    return torch.stack(losses).mean()


def gradients(loss: Tensor, model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name in theirs:
        assert float((ours[name] - theirs[name]).abs().max()) <= 1e-5 * largest, name


def first_loss(made: Any) -> Tensor:
    made.model.train()
    loss: Tensor = made.compute_loss(made.model, made.collate(list(made.train_dataset)))
    return loss
