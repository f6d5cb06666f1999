"""A loss or gradient that is not finite stops training before it reaches the weights."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mathsft.data.problems import load_problems
from mathsft.models.loading import load_model
from mathsft.objectives.base import Loss
from mathsft.training.make import multiple_choice_trainer, sft_trainer
from mathsft.training.step_sums import FiniteCheck


@pytest.fixture
def loaded(small_model_dir: Path) -> Any:
    return load_model(small_model_dir, lora={"r": 4, "lora_dropout": 0.0}, device="cpu")


def test_weights_that_are_not_finite_stop_the_first_step_and_are_named(
    loaded: Any, tmp_path: Path
) -> None:
    model, tokenizer = loaded
    with torch.no_grad():
        model.get_base_model().model.norm.weight[0] = torch.nan
    problems = load_problems("tiny-gsm", split="train", limit=6)
    trainer = sft_trainer(model, tokenizer, problems, output_dir=tmp_path, max_steps=2)
    with pytest.raises(FloatingPointError, match=r"step 1: the loss .* weights of the model"):
        trainer.train()


def test_a_loss_that_blows_up_stops_before_the_weights_and_names_the_rate(
    loaded: Any, tmp_path: Path
) -> None:
    model, tokenizer = loaded
    problems = load_problems("tiny-mathqa", split="train", limit=40)
    trainer = multiple_choice_trainer(
        model, tokenizer, problems, output_dir=tmp_path, learning_rate=3e37, warmup_steps=0,
        max_grad_norm=0.0, per_device_train_batch_size=4, max_steps=9, max_length=256,
    )  # fmt: skip
    with pytest.raises(FloatingPointError, match=r"learning_rate=3e\+37 is too high") as stopped:
        trainer.train()
    step = trainer.state.global_step
    assert f"optimiser step {step + 1}" in str(stopped.value)
    assert f"those of step {step}, but the same settings" in str(stopped.value)
    assert step >= 1
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_gradient_alone_stops_too_and_accumulated_losses_all_count(
    loaded: Any, tmp_path: Path
) -> None:
    model, tokenizer = loaded
    problems = load_problems("tiny-gsm", split="train", limit=12)
    before = copy.deepcopy({n: p for n, p in model.named_parameters() if p.requires_grad})

    class Spoiled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return gradient * torch.inf

    trainer = sft_trainer(
        model, tokenizer, problems, output_dir=tmp_path, max_steps=2, max_length=256,
        per_device_train_batch_size=1, gradient_accumulation_steps=2,
    )  # fmt: skip
    honest = trainer.loss_of

    def changed(change: Any) -> Any:
        return lambda *a, **k: Loss(change(honest(*a, **k).total))

    trainer.loss_of = changed(Spoiled.apply)  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError, match="the gradient is not finite"):
        trainer.train()
    # One bad batch of two is enough: the sum over the step is checked.
    losses = iter([torch.tensor(torch.inf), torch.tensor(1.0)])
    trainer.loss_of = changed(lambda loss: loss * next(losses))  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError, match="the loss is not finite"):
        trainer.train()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("scale", [None, 1.0, 2.0])
def test_float16_may_overflow_while_its_scale_comes_down_but_not_for_ever(
    scale: float | None,
) -> None:
    """Only the decision is tested; GradScaler itself needs a GPU (tests/gpu)."""
    weight = torch.nn.Parameter(torch.ones(2))
    model = torch.nn.Module()
    model.register_parameter("weight", weight)
    scaler = None if scale is None else SimpleNamespace(get_scale=lambda: scale)
    check = FiniteCheck(SimpleNamespace(model=model, accelerator=SimpleNamespace(scaler=scaler)))
    args = SimpleNamespace(learning_rate=1e-3, fp16=True, world_size=1)

    def step(gradient: float, loss: float = 1.0) -> None:
        weight.grad = torch.full((2,), gradient)
        check.add(torch.tensor(loss))
        check.on_pre_optimizer_step(args, SimpleNamespace(global_step=3), None)

    step(1.0)
    if scale == 2.0:
        step(torch.inf)
    else:
        with pytest.raises(FloatingPointError, match=r"gradient is not finite.*float16"):
            step(torch.inf)
    with pytest.raises(FloatingPointError, match="loss is not finite"):
        step(1.0, loss=torch.nan)
