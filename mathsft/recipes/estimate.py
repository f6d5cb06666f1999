"""Estimate the memory of a training run before anything is loaded."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import LoraConfig

from mathsft.checks import unknown_name
from mathsft.objectives import objective_classes
from mathsft.objectives.base import Objective
from mathsft.recipes import load_recipe
from mathsft.training.batch_size import AUTO, BATCH, ROWS, STEPS, Batch, divided
from mathsft.training.footprint import MemoryEstimate
from mathsft.training.sized import sized
from mathsft.training.sizing import DoesNotFitError

_DEVICES = {  # of the shipped recipes
    "tiny": "cpu", "t4": "t4", "a100": "a100", "a100-8": "a100", "cluster": "a100-80gb",
}  # fmt: skip


def estimate_memory(
    recipe: Mapping[str, Any] | str | Path | None = None,
    section: str = "sft",
    *,
    device: str | None = None,
    memory: float | None = None,
    quantize: bool | None = None,
    lora: bool | Mapping[str, Any] | LoraConfig | None = None,
    shards: int = 1,
    processes: int | None = None,
    question_tokens: int | None = None,
    trained_share: float | None = None,
) -> MemoryEstimate:
    """Estimate the peak memory of training by a recipe, by parts; only config.json is read.

    Args:
        recipe: what `load_recipe` returns or takes: "t4", a file, or None for this machine's.
        section: which training run: an objective's name, or "mixing".
        device: "cpu", "t4", "a100" (40 GB; also "a100-40gb"), "a100-80gb" or "h100" (80 GB);
            default: that of a shipped recipe given by name, else this machine.
        memory: available GB; default: the device's memory, or on a CPU what is free now.
        quantize: 4-bit weights (NF4); default: the recipe's model section.
        lora: settings of `add_adapter` that differ from its defaults, such as ``{"r": 8}``, or
            a `LoraConfig`; False for full fine-tuning of float32 weights
            (``load_model(..., dtype="float32")``), with autocast on a GPU; default: the recipe's
            model section, else True.
        shards: number of processes that FSDP2 divides the model over. The estimate is for one of
            them, with its own card. 1: the whole model is in every process, as with DDP; if the
            recipe has ``fsdp``, the verdict says so.
        processes: number of processes that share the rows of a step, if the recipe has
            ``step_rows``; default: ``shards``.
        question_tokens: tokens of a question with all its choices, or of a pair with both its
            answers, in the forest; default: the objective's ``group_tokens``, 100 for multiple
            choice, else ``max_length``.
        trained_share: the share of a batch's positions that predict a trained token; default: the
            objective's ``scored_share``, 0.2 for multiple choice, else 0.6. (With the embedded
            tokenizer it is a half for GSM8K and an eighth for MathQA.)

    `footprint` (mathsft/training/footprint.py) explains the arithmetic.

    Not included: CUDA's own half GB (it is subtracted from the card's memory), loading and
    generating, fragmentation, and DDP's buckets, which are as large as the gradients. A test
    compares the estimate with the peak of real allocations, within 15 %, in one process on a CPU;
    ``shards`` is arithmetic alone.

    Raises ValueError for an unknown section, device or LoRA setting, for an impossible number
    (`mathsft.checks`), also in the recipe, and for 4-bit weights without an adapter; also what
    `load_recipe` and loading a configuration raise.
    """
    found, kind, device = _training(recipe, section, device)
    size = sized(
        found, section, kind, device=device, memory=memory, quantize=quantize, lora=lora,
        shards=shards, question_tokens=question_tokens, trained_share=trained_share,
    )  # fmt: skip
    more = ""

    def choose(rows: int) -> Batch:
        nonlocal more
        batch = size.largest_batch(rows, processes=processes or shards)
        more = f"; {batch.why}"
        return batch

    try:
        settings = divided(found[section], kind, processes=processes or shards, choose=choose)
    except DoesNotFitError as error:
        return replace(error.size.estimate(), verdict=error.verdict)
    size = size.with_settings(settings)
    verdict = size.verdict() + more
    if settings.get("fsdp") and shards == 1:
        verdict += "; the recipe shards the model (fsdp): give shards, the number of processes"
    return replace(size.estimate(), verdict=verdict)


def largest_batch(
    recipe: str | Path | Mapping[str, Any] | None = None,
    section: str = "sft",
    *,
    step_rows: int | None = None,
    device: str | None = None,
    memory: float | None = None,
    processes: int = 1,
    shards: int = 1,
) -> Batch:
    """The largest batch that fits, before anything is loaded: what ``auto`` chooses.

    The optimiser step keeps its rows: the batch divides them, and the gradients of several batches
    are added up if one does not fit. For `make_trainer`, give it ``**largest_batch(...).settings``.

    Args:
        recipe, section: as for `estimate_memory`.
        step_rows: rows of an optimiser step, in all processes; default: the recipe's
            ``step_rows``, else its batch × accumulation steps × processes.
        device: as for `estimate_memory`; default: this machine, with the memory that is free now.
        memory: GB to use instead; as on a GPU, 15 % of it are left free.
        processes: number of processes that share the rows of a step, each with its own card.
        shards: as for `estimate_memory`.

    15 % of a GPU are left free, since an estimate may be off by as much. On a CPU a larger batch is
    hardly faster, so it takes a quarter of the free memory at most. The printed result says why.

    Raises ValueError, with the advice of `estimate_memory`, if a batch of one row does not fit, and
    what `estimate_memory` raises.
    """
    found, kind, _ = _training(recipe, section, device)
    settings = {**kind.defaults, **found[section]}
    if step_rows is None:
        step_rows = settings.get(ROWS)
    if step_rows is None and settings.get(BATCH) != AUTO:
        step_rows = settings.get(BATCH, 4) * (settings.get(STEPS) or 1) * processes
    size = sized(found, section, kind, device=device, memory=memory, shards=shards, free=True)
    chosen: list[Batch] = []

    def choose(rows: int) -> Batch:
        chosen.append(size.largest_batch(rows, processes=processes))
        return chosen[0]

    divided({BATCH: AUTO, ROWS: step_rows}, kind, processes=processes, choose=choose)
    return chosen[0]


def _training(
    recipe: Mapping[str, Any] | str | Path | None, section: str, device: str | None
) -> tuple[Mapping[str, Any], type[Objective], str | None]:
    """The recipe, the section's objective, and the device that the recipe's name stands for."""
    if recipe is None or isinstance(recipe, str | Path):
        device = device or _DEVICES.get(str(recipe))
        recipe = load_recipe(recipe)
    objectives = objective_classes()
    objectives["mixing"] = objectives["multiple_choice"]
    if section not in objectives or section not in recipe:
        trainings = [name for name in objectives if name in recipe]
        raise ValueError(unknown_name("section", section, trainings))
    return recipe, objectives[section], device
