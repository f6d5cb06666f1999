"""mathsft: making a small language model better at maths, with honest numbers.

Names are imported when first used, so that ``import mathsft`` takes milliseconds and
pulls in neither torch nor transformers.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "describe": "mathsft.device",
    "policy": "mathsft.device",
    "load_settings": "mathsft.settings",
    "quiet": "mathsft.settings",
    "run_dir": "mathsft.settings",
    "load_recipe": "mathsft.recipes",
    "load_problems": "mathsft.data.problems",
    "extract_answer": "mathsft.data.answers",
    "same_answer": "mathsft.data.answers",
    "load_model": "mathsft.models.loading",
    "add_adapter": "mathsft.models.adapters",
    "save_adapter": "mathsft.models.adapters",
    "load_adapter": "mathsft.models.adapters",
    "merge_adapter": "mathsft.models.adapters",
    "memory_gb": "mathsft.models.memory",
    "choice_logprobs": "mathsft.models.likelihood",
    "pack": "mathsft.training.packing",
    "forest_mask": "mathsft.training.packing",
    "sft_trainer": "mathsft.training.sft",
    "worked_answers": "mathsft.evaluation.worked",
    "check_tuned": "mathsft.evaluation.guards",
    "wilson": "mathsft.evaluation.intervals",
    "plot_accuracy": "mathsft.evaluation.plots",
    "plot_loss": "mathsft.evaluation.plots",
    "plot_packing": "mathsft.evaluation.plots",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mathsft' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
