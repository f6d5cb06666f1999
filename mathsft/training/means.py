"""Losses and metrics of many batches as one mean each, whatever the batches' sizes."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import Tensor

from mathsft.objectives.base import Loss


class Means:
    """Sums of losses and metrics over batches, and of the items that they are of."""

    def __init__(self) -> None:
        self._sums: dict[str, Any] = defaultdict(int)
        self._items: dict[str, int] = defaultdict(int)

    def add(self, loss: Loss, *, items: int) -> None:
        """Nothing is read from the device."""
        for name, values in {"loss": loss.total, **loss.metrics}.items():
            self._sums[name] = self._sums[name] + values.detach().double().sum()
            self._items[name] += items if name == "loss" else len(values)

    def taken(self, summed: Callable[..., Tensor]) -> dict[str, float]:
        """The means over all processes (`ForestTrainer.summed`), which begin again afterwards."""
        totals = {
            name: (float(summed(self._sums[name])), int(summed(self._items[name])))
            for name in self._sums
        }
        self.__init__()  # type: ignore[misc]
        return {name: total / items for name, (total, items) in totals.items() if items}
