"""The peak of tensor allocations on a CPU, counted by PyTorch's profiler."""

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback


class PeakMemory(TrainerCallback):
    """``bytes``: the peak allocated during a training run, above the level before it."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._profile.__enter__()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._profile.__exit__(None, None, None)
        self.bytes = _peak(self._profile)


def peak_of(work: Callable[[], Any]) -> int:
    """The peak in bytes that the work allocates, above the level before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    return _peak(profiled)


def _peak(profiled: Any) -> int:
    events = profiled.profiler.kineto_results.events()
    now = peak = 0
    for event in sorted(
        (e for e in events if e.name() == "[memory]"), key=lambda e: int(e.start_ns())
    ):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
