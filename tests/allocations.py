"""The peak of tensor allocations on a CPU, counted by PyTorch's profiler."""

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
        events = self._profile.profiler.kineto_results.events()  # type: ignore[union-attr]
        now = self.bytes = 0
        for event in sorted(
            (e for e in events if e.name() == "[memory]"), key=lambda e: int(e.start_ns())
        ):
            now += event.nbytes()
            self.bytes = max(self.bytes, now)
