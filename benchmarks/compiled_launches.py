"""What compiling the decoder layers changes in a step: its launches, its losses, recompilations.

The model is narrow and real: the number of operations does not depend on the width.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
import torch._dynamo.utils
import torch._inductor.config
import torch._inductor.metrics
from common import SHAPES, random_base
from launch_counts import profiled_launches
from packing_rivals import QUIET
from transformers.modeling_layers import GradientCheckpointingLayer

from mathsft.models.adapters import add_adapter
from mathsft.models.lean_adapters import lean_adapters
from mathsft.training.compiling import compiled, padded
from mathsft.training.make import multiple_choice_trainer, sft_trainer

STEPS, LAYERS = 50, 4
SIZES = {"sft": 2, "choices": 8}  # rows or questions of a batch


def narrow_trainer(kind: str, rows: Any, tokenizer: Any, dtype: torch.dtype) -> Any:
    """A trainer of a narrow model, without dropout, so that losses compare."""
    SHAPES["narrow"] = {**SHAPES["tiny"], "num_hidden_layers": LAYERS, "vocab_size": 8000}
    model = add_adapter(random_base("narrow").to(dtype), lora_dropout=0.0)
    make = sft_trainer if kind == "sft" else multiple_choice_trainer
    return make(
        model, tokenizer, rows, output_dir=tempfile.mkdtemp(), use_cpu=True, max_length=256,
        bf16=dtype == torch.bfloat16, per_device_train_batch_size=SIZES[kind],
        **QUIET,
    )  # fmt: skip


def compiled_counts(kind: str, rows: Any, tokenizer: Any) -> dict[str, Any]:
    """Launches before and after, kernels made, recompilations in 50 steps, losses' differences."""
    torch._inductor.config.cpp.enable_kernel_profile = True  # so that the profiler sees kernels
    trainer = narrow_trainer(kind, rows, tokenizer, torch.bfloat16)
    model = trainer.accelerator.prepare(trainer.model)
    model.train()
    batches = _batches(trainer)
    blocks = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]

    def step(batch: dict[str, Any]) -> None:
        trainer.loss_of(batch, wrapped=model).total.backward()
        model.zero_grad()

    with lean_adapters(model):
        before = profiled_launches(lambda: step(batches[0]))
        made = torch._inductor.metrics.generated_kernel_count
        with compiled(blocks):
            graphs = []
            for batch in batches:
                step(batch)
                graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
            after = profiled_launches(lambda: step(batches[0]))
    return {
        "launches": before,
        "launches_compiled": after,
        "ratio": round(after / before, 3),
        "generated_kernels": torch._inductor.metrics.generated_kernel_count - made,
        "shapes_of_50_batches": len({tuple(b["input_ids"].shape) for b in batches}),
        "recompilations_after_5_steps": graphs[-1] - graphs[4],
        "loss_difference_bfloat16": _largest_difference(trainer, batches[:8], blocks),
        "loss_difference_float32": _in_float32(kind, rows, tokenizer),
    }


def _batches(trainer: Any) -> list[dict[str, Any]]:
    """The first `STEPS` batches, of as many epochs as that takes; rows are padded."""
    found: list[dict[str, Any]] = []
    while len(found) < STEPS:
        found += map(padded, trainer.get_train_dataloader())
    return found[:STEPS]


def _in_float32(kind: str, rows: Any, tokenizer: Any) -> float:
    trainer = narrow_trainer(kind, rows, tokenizer, torch.float32)
    blocks = [m for m in trainer.model.modules() if isinstance(m, GradientCheckpointingLayer)]
    return _largest_difference(trainer, _batches(trainer)[:8], blocks)


def _largest_difference(trainer: Any, batches: Sequence[Any], layers: Sequence[Any]) -> float:
    """The largest relative difference of a loss, compiled or not, at the same weights."""
    worst = 0.0
    for batch in batches:
        with torch.no_grad(), trainer.accelerator.autocast():
            plain = float(trainer.loss_of(batch, wrapped=trainer.model).total)
            with compiled(layers):
                fused = float(trainer.loss_of(batch, wrapped=trainer.model).total)
        worst = max(worst, abs(fused - plain) / abs(plain))
    return worst
