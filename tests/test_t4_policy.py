"""What a T4 would compute, checked on a CPU: the dtype of every operation, masks, scaler.

The kernels themselves need a GPU: see tests/gpu.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import TrainingArguments

from mathsft.data.problems import read_problems
from mathsft.device import device_defaults
from mathsft.evaluation.worked import worked_answers
from mathsft.models import likelihood
from mathsft.models.likelihood import choice_logprobs
from mathsft.models.loading import load_model
from mathsft.training.make import multiple_choice_trainer, sft_trainer

T4 = device_defaults((7, 5))


class Dtypes(TorchDispatchMode):
    """Record the dtype of every tensor that an operation returns, and the first such operation."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[torch.dtype, str] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.first.setdefault(leaf.dtype, str(operation))
        return result


def on_a_t4(objective: str, folder: Path) -> Any:
    """Return a trainer whose model follows the T4 policy: float16, 4 bits, with adapters."""
    model, tokenizer = load_model(
        "tiny", quantize=T4.quantisation == "nf4", lora=True, dtype=T4.dtype, device="cpu"
    )
    settings: Any = {"output_dir": folder, "max_length": 256, "per_device_train_batch_size": 4}
    if objective == "sft":
        return sft_trainer(model, tokenizer, read_problems("tiny-gsm", limit=20)[0], **settings)
    problems = read_problems("tiny-mathqa", limit=20)[0]
    return multiple_choice_trainer(model, tokenizer, problems, **settings)


def training_step(trainer: Any) -> None:
    """Run one batch forward and backward in float16 autocast, as accelerate does on a T4."""
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    trainer.model.train()
    with torch.autocast("cpu", dtype=T4.dtype):
        loss = trainer.loss_of(batch, wrapped=trainer.model).total
    loss.backward()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "multiple choice"])
def test_no_operation_of_a_training_step_gives_bfloat16(objective: str, tmp_path: Path) -> None:
    trainer = on_a_t4(objective, tmp_path)
    with Dtypes() as seen:
        training_step(trainer)
    assert torch.bfloat16 not in seen.first, seen.first
    assert torch.float16 in seen.first
    tensors = [*trainer.model.named_parameters(), *trainer.model.named_buffers()]
    assert {t.dtype for _, t in tensors} == {torch.float16, torch.float32, torch.uint8}
    trained = [p for _, p in tensors if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    assert {p.grad.dtype for p in trained} == {torch.float32}
    assert all(p.grad.isfinite().all() for p in trained)
    packed = [m for m in trainer.model.modules() if hasattr(m, "compute_dtype")]
    assert packed
    assert {m.compute_dtype for m in packed} == {torch.float16}


def test_a_step_that_does_give_bfloat16_is_seen() -> None:
    with Dtypes() as seen:
        torch.ones(2).to(torch.bfloat16)
    assert torch.bfloat16 in seen.first


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "multiple choice"])
def test_attention_always_gets_a_mask_so_that_the_fast_kernel_can_take_it(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below compute capability 8.0 there is no flash kernel. Without a mask, transformers requests
    grouped heads (enable_gqa), which the memory-efficient kernel lacks: the slow path is left."""
    real = functional.scaled_dot_product_attention
    calls: list[tuple[bool, bool]] = []

    def recorded(*args: Any, **kwargs: Any) -> Any:
        mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
        calls.append((mask is not None, bool(kwargs.get("enable_gqa"))))
        return real(*args, **kwargs)

    trainer = on_a_t4(objective, tmp_path)
    model, tokenizer = trainer.model, trainer.processing_class
    # Its two short passes over single sequences are the only passes without a mask.
    monkeypatch.setattr(likelihood, "check_isolation", lambda model: None)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", recorded)
    for work in (
        lambda: training_step(trainer),
        lambda: choice_logprobs(model, tokenizer, read_problems("tiny-mathqa", limit=6)[0]),
        # Prompts of several lengths, padded on the left, and the tokens written after them.
        lambda: worked_answers(
            model, tokenizer, read_problems("tiny-gsm", limit=6)[0], max_new_tokens=3
        ),
    ):
        calls.clear()
        work()
        assert set(calls) == {(True, False)}


def test_a_loss_scaler_is_requested_for_float16() -> None:
    arguments = TrainingArguments(output_dir="unused", **T4.trainer_arguments())
    assert (arguments.fp16, arguments.bf16, arguments.use_cpu) == (True, False, False)
    assert arguments.optim == "adamw_torch_fused"
    assert T4.attn_implementation == "sdpa"
