"""A training run by its sizes: whether it fits the memory that is there, and the largest batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mathsft.device import Capability, device_defaults
from mathsft.objectives.base import Objective
from mathsft.training.batch_size import BATCH, ROWS, STEPS, Batch, check_divisible, divisors
from mathsft.training.footprint import MemoryEstimate, Shapes, footprint

_SPARE = 0.15  # of a GPU: estimates are within 15 % of the peak
_OF_A_CPU = 0.25  # of the free memory: other programs need the rest
_QUARTER = "a quarter of the free memory, since a CPU gains little by a larger batch"


class DoesNotFitError(ValueError):
    """Not even a batch of one row fits: ``size`` is that training run, ``verdict`` the advice."""

    def __init__(self, size: "TrainingSize", verdict: str) -> None:
        super().__init__(f"{BATCH}: auto: the model {verdict}")
        self.size, self.verdict = size, verdict


@dataclass(frozen=True)
class TrainingSize:
    """A training run whose memory can be estimated, and the memory that is there for it.

    ``room``: available GB; ``where``: what it is, in words; ``cautious``: whether it is the free
    memory of a CPU. ``arguments``: those of `footprint` that the recipe's section (``settings``)
    does not have.
    """

    shapes: Shapes
    objective: type[Objective]
    settings: Mapping[str, Any]
    capability: Capability | None
    room: float
    where: str
    arguments: Mapping[str, Any] = field(repr=False)
    cautious: bool = False

    def with_settings(self, settings: Mapping[str, Any]) -> "TrainingSize":
        """The same run with other settings."""
        return replace(self, settings=training_settings(settings, self.objective))

    def estimate(self, **changes: Any) -> MemoryEstimate:
        """The parts of the peak, for the settings with these changes."""
        lora = self.arguments["lora"]
        usual = device_defaults(self.capability, adapter=lora).optim
        found = {**self.arguments, **self.settings, **changes}
        return footprint(self.shapes, **{**found, "optim": found.get("optim") or usual})

    def verdict(self, *, room: float | None = None, spare: str = "") -> str:
        """Whether it fits; else the first change, or the first few together, that makes it fit."""
        room, where = room or self.room, f"{self.where}{spare}"
        if self.estimate().total <= room:
            return f"fits {where}"
        together: dict[str, Any] = {}
        said: list[str] = []
        changes = self._changes()
        for change, words in changes:
            if (total := self.estimate(**change).total) <= room:
                return f"does not fit {where}; with {words} it would ({total:.1f} GB)"
        for change, words in changes:
            said = [w for w in said if not (w.startswith("per_") and words.startswith("per_"))]
            together, said = {**together, **change}, [*said, words]
            if (total := self.estimate(**together).total) <= room:
                return f"does not fit {where}; with {', '.join(said)} it would ({total:.1f} GB)"
        return (
            f"does not fit {where}, whatever is changed here: take a smaller model or a larger GPU"
        )

    def _changes(self) -> list[tuple[dict[str, Any], str]]:
        """Changes that save memory, from the one that costs least, each in words."""
        lora = self.arguments["lora"]
        found: list[tuple[dict[str, Any], str]] = []
        if not lora:
            found.append(({"lora": True}, "lora: true"))
        elif not self.arguments["quantize"]:
            found.append(({"quantize": True}, "quantize: true"))
        if not self.settings.get("gradient_checkpointing"):
            found.append(({"gradient_checkpointing": True}, "gradient_checkpointing: true"))
        optim = self.settings.get("optim") or "adamw_torch"
        one_gpu = self.capability is not None and self.arguments["shards"] == 1
        if one_gpu and not lora and "8bit" not in optim:
            found.append(({"optim": "adamw_bnb_8bit"}, "optim: adamw_bnb_8bit"))
        batch, steps = self.settings.get(BATCH, 4), self.settings.get(STEPS) or 1
        while batch > 1:
            batch, steps = batch // 2, steps * 2
            found.append(({BATCH: batch, STEPS: steps}, f"{BATCH}: {batch}, {STEPS}: {steps}"))
        return found

    def largest_batch(self, rows: int, *, processes: int = 1) -> Batch:
        """The largest batch that fits, for a step with so many rows in all processes.

        15 % of a GPU are left free. On a CPU a quarter of the free memory is the limit. Several
        processes without shards each have DDP's buckets as well, as large as the gradients.

        Raises DoesNotFitError, with the advice of `verdict`, if not even a batch of one row fits.
        """
        each = check_divisible(rows, processes)
        share = _OF_A_CPU if self.cautious else 1 - _SPARE
        limit, too_large = share * self.room, ""
        trained = self.shapes.adapted if self.arguments["lora"] else self.shapes.total
        buckets = 4 * trained / 1e9 * (processes > 1 and self.arguments["shards"] == 1)
        for batch in divisors(each):
            division = {BATCH: batch, STEPS: each // batch}
            found = self.estimate(**division)
            total = found.total + buckets
            if total <= limit:
                break
            too_large = f"; {batch} would need {_gb(total)}"
        else:
            spare = f" with {_SPARE:.0%} to spare".replace("%", " %")
            if self.cautious:
                spare = " of free memory with three quarters to spare"
            smallest = self.with_settings({**self.settings, **division})
            raise DoesNotFitError(smallest, smallest.verdict(room=limit, spare=spare))
        limits = _QUARTER if self.cautious else f"{_SPARE:.0%} are left free".replace("%", " %")
        often = f", {each // batch} times" if each > batch else ""
        where = f" in each of {processes} processes" if processes > 1 else ""
        line = (
            f"batch: {batch} row{'s' * (batch > 1)} at once{where}{often}, for the {rows} rows of "
            f"a step: {_gb(total)} estimated, of {_gb(self.room)} ({limits}{too_large})"
        )
        return Batch(batch, each // batch, why=line)


def training_settings(given: Mapping[str, Any], objective: type[Objective]) -> dict[str, Any]:
    """A recipe's section with the objective's defaults, in the names that `footprint` knows."""
    settings = {**objective.defaults, **given}
    if settings.pop("activation_checkpointing", None):  # transformers' newer name for it
        settings["gradient_checkpointing"] = True
    settings.pop(ROWS, None)
    return settings


def _gb(number: float) -> str:
    return f"{number:.1f} GB" if number >= 1 else f"{number:.2g} GB"
