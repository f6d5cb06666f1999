"""What the sections of `gpu.py` share: the model, the rows, the clocks, the card's memory."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from common import (
    SHAPES,
    grade_school_problems,
    multiple_choice_problems,
    random_base,
    random_model,
    raw_choice_rows,
    tokenizer_for,
)
from transformers import PrinterCallback, TrainerCallback

Measures = Iterator[tuple[str, float | str]]


@dataclass
class Bench:
    """One device at one shape. ``rate``: its matrix products, in operations a second."""

    shape: str
    device: torch.device
    rate: float = float("nan")

    @property
    def tiny(self) -> bool:
        return self.shape == "tiny"

    @property
    def dtype(self) -> torch.dtype:
        """bfloat16, or float16 on a card without it; float32 on a CPU."""
        if self.device.type == "cpu":
            return torch.float32
        capable = torch.cuda.get_device_capability(self.device) >= (8, 0)
        return torch.bfloat16 if capable else torch.float16

    @property
    def precision(self) -> dict[str, Any]:
        """The training arguments that go with it, for TRL."""
        return {
            "use_cpu": self.device.type == "cpu",
            "bf16": self.dtype == torch.bfloat16,
            "fp16": self.dtype == torch.float16,
        }

    @cached_property
    def problems(self) -> Any:
        return grade_school_problems()[0].shuffle(seed=0)

    @cached_property
    def questions(self) -> Any:
        return multiple_choice_problems()[0].shuffle(seed=0)

    @cached_property
    def raw_questions(self) -> Any:
        return raw_choice_rows()[0]

    @cached_property
    def tokenizer(self) -> Any:
        return tokenizer_for(self.problems, vocab_size=SHAPES[self.shape]["vocab_size"])

    def base(self) -> Any:
        return random_base(self.shape).to(self.device, self.dtype).eval()

    def adapted(self) -> Any:
        """With LoRA; its adapters stay in float32."""
        model = random_model(self.shape).to(self.device)
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(self.dtype)
        return model

    def autocast(self) -> Any:
        if self.device.type == "cpu":
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def clear(self) -> None:
        """Forget the peak so far, and give free memory back to the card."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float:
        """The most memory that tensors took since `clear`; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() / 1e9 if self.device.type == "cuda" else 0.0

    def seconds(
        self, step: Callable[[], Any], *, rounds: int, warm: int = 2
    ) -> tuple[float, float]:
        """Seconds of a step, and of the host until its launches have returned."""
        for _ in range(warm):
            step()
        self.wait()
        began, host = time.perf_counter(), 0.0
        for _ in range(rounds):
            start = time.perf_counter()
            step()
            host += time.perf_counter() - start
        self.wait()
        return (time.perf_counter() - began) / rounds, host / rounds


class Clock(TrainerCallback):
    """Times a trainer's steps after the first ``warm``, waiting for the card only at both ends."""

    def __init__(self, bench: Bench, *, warm: int) -> None:
        self._bench, self._warm, self._steps = bench, warm, 0
        self.host = self.seconds = 0.0
        self.first = 0.0  # seconds of the first step: what compilation costs
        self.measured = 0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if self._steps in (0, self._warm):
            self._bench.wait()
            self._began = time.perf_counter()
        self._start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if self._steps == 0:
            self._bench.wait()
            self.first = time.perf_counter() - self._began
        self._steps += 1
        if self._steps > self._warm:
            self.host += time.perf_counter() - self._start
            self.measured += 1

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._bench.wait()
        self.seconds = time.perf_counter() - self._began


def timed(bench: Bench, trainer: Any, count: Callable[[Any], int], *, warm: int) -> dict[str, Any]:
    """Train; ``count`` counts the tokens or questions of a batch.

    Returns ``per_second``, ``step_ms``, ``host_ms``, ``first_step_s``, ``positions_per_second``
    and ``peak_gb`` of the steps after the first ``warm``.
    """
    clock, counts, positions = Clock(bench, warm=warm), [], []
    collate = trainer.data_collator

    def counting(rows: Any) -> Any:
        batch = collate(rows)
        counts.append(count(batch))
        positions.append(batch["input_ids"].numel())
        return batch

    trainer.data_collator = counting
    trainer.add_callback(clock)
    trainer.remove_callback(PrinterCallback)
    bench.clear()
    trainer.train()
    if not clock.measured:
        raise RuntimeError(f"there were at most {warm} steps: too few rows")
    measured = slice(warm, warm + clock.measured)  # a loader may have made one batch more
    return {
        "per_second": sum(counts[measured]) / clock.seconds,
        "positions_per_second": sum(positions[measured]) / clock.seconds,
        "step_ms": 1000 * clock.seconds / clock.measured,
        "host_ms": 1000 * clock.host / clock.measured,
        "first_step_s": clock.first,
        "peak_gb": bench.peak_gb(),
    }


def layer_weights(model: Any) -> int:
    """The weights of the matrix products in the layers, without adapters and head."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and "lora_" not in name and "embed" not in name
        if "lm_head" not in name
    )
