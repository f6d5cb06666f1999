"""How an optimiser step is divided into batches: by numbers, or by ``auto``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mathsft.checks import at_least, check_number
from mathsft.objectives.base import Objective
from mathsft.objectives.groupwise import Policy
from mathsft.processes import in_first, processes, say

BATCH, STEPS, ROWS = "per_device_train_batch_size", "gradient_accumulation_steps", "step_rows"
AUTO = "auto"


@dataclass(frozen=True)
class Batch:
    """A division of an optimiser step, and the reason for it in one line (``why``)."""

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    why: str

    @property
    def settings(self) -> dict[str, int]:
        """The two numbers, as keys of a recipe and arguments of `make_trainer`."""
        return {BATCH: self.per_device_train_batch_size, STEPS: self.gradient_accumulation_steps}

    def __str__(self) -> str:
        return self.why


class FindsBatch(Protocol):
    """A training run that finds its largest batch (`mathsft.training.sizing.TrainingSize`)."""

    def largest_batch(self, rows: int, *, processes: int = 1) -> Batch: ...


def divisors(number: int) -> list[int]:
    """All divisors, the largest first."""
    return [one for one in range(number, 0, -1) if number % one == 0]


def check_divisible(rows: int, processes: int) -> int:
    """The rows of a step in each process; ValueError if some would have more than others."""
    check_number(ROWS, rows, at_least(1))
    if rows % processes:
        raise ValueError(
            f"{ROWS}={rows}: give a multiple of the {processes} processes, so that each has the "
            "same number of rows"
        )
    return rows // processes


def divided(
    settings: Mapping[str, Any],
    objective: type[Objective],
    *,
    processes: int,
    choose: Callable[[int], Batch],
) -> dict[str, Any]:
    """The settings with numbers for the batch and the accumulation, and without ``step_rows``.

    Args:
        settings: of a training run. ``step_rows`` is the number of rows in an optimiser step, in
            all processes together. Without a batch, the largest that divides them is taken, but
            no larger than the objective's default.
        objective: what is trained.
        processes: how many there are.
        choose: makes the batch from ``step_rows`` if the batch is "auto".

    Raises ValueError if "auto" has no ``step_rows``, or comes with a number of accumulation steps;
    if the numbers do not agree; or if "auto" would change the training: an objective whose loss
    depends on the division (`Objective.divisible`), or one that samples answers, for which the
    estimate of memory does not hold.
    """
    found = dict(settings)
    rows, batch, steps = found.pop(ROWS, None), found.get(BATCH), found.get(STEPS)
    if batch != AUTO:
        if rows is None:
            return found
        each = check_divisible(rows, processes)
        if batch is None:
            usual = objective.defaults.get(BATCH, 4) if steps is None else each // steps
            batch = next((n for n in divisors(each) if n <= usual), 1)
        if each % batch or (steps is not None and steps * batch != each):
            there = f"{BATCH}={batch}" + (f" and {STEPS}={steps}" if steps is not None else "")
            of = f" in each of {processes} processes" if processes > 1 else ""
            raise ValueError(
                f"{ROWS}={rows} does not agree with {there}{of}: give only {ROWS} and a batch that "
                f"divides it, or {BATCH}: auto"
            )
        return {**found, BATCH: batch, STEPS: each // batch}
    name = objective.name
    if issubclass(objective, Policy):
        raise ValueError(
            f"{BATCH}: auto: {name} may sample answers, and the estimate of memory leaves that "
            "out: give a number"
        )
    if not objective.divisible:
        raise ValueError(
            f"{BATCH}: auto: the loss of {name} depends on the batch, so the card would decide "
            "what is trained: give a number"
        )
    if rows is None:
        raise ValueError(
            f"{BATCH}: auto needs {ROWS}, the number of rows in an optimiser step, such as 16"
        )
    if steps is not None:
        raise ValueError(f"{BATCH}: auto also chooses {STEPS}: leave that out")
    return found | choose(rows).settings


def divided_here(
    settings: Mapping[str, Any],
    objective: type[Objective],
    *,
    device: Callable[[], str],
    sized: Callable[[int], FindsBatch],
) -> dict[str, Any]:
    """`divided` on this machine: all processes take the numbers of the first, and a line says why.

    Args:
        settings: of a training run.
        objective: what is trained.
        device: gives the type of the model's device.
        sized: the training run by its sizes, from the number of shards; called for "auto" alone.
    """
    if settings.get(ROWS) is None and settings.get(BATCH) != AUTO:
        return {key: value for key, value in settings.items() if key != ROWS}
    timeout, backend = settings.get("ddp_timeout"), settings.get("ddp_backend")
    home = device()
    number = processes(home, timeout=timeout, backend=backend).num_processes

    def choose(rows: int) -> Batch:
        batch = sized(number if settings.get("fsdp") else 1).largest_batch(rows, processes=number)
        say(batch.why)
        return batch

    def numbers() -> dict[str, Any]:
        found = divided(settings, objective, processes=number, choose=choose)
        return {key: found[key] for key in (BATCH, STEPS)}

    found = {**settings, **in_first(numbers, device=home)}
    del found[ROWS]
    return found
