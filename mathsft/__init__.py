"""mathsft: making a small language model better at maths, with honest numbers.

Names are imported when first used, so that ``import mathsft`` takes milliseconds and
pulls in neither torch nor transformers.
"""

import logging
from importlib import import_module
from typing import Any

# On CPUs with bfloat16 units bitsandbytes misses, when imported, a package it can do without.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

_HOME = {
    "describe": "mathsft.device",
    "policy": "mathsft.device",
    "load_settings": "mathsft.settings",
    "quiet": "mathsft.settings",
    "run_dir": "mathsft.settings",
    "tracker": "mathsft.settings",
    "load_recipe": "mathsft.recipes",
    "load_problems": "mathsft.data.problems",
    "kind_of": "mathsft.data.rows",
    "add_choices": "mathsft.data.choices",
    "mix": "mathsft.data.mixtures",
    "training_plan": "mathsft.data.mixtures",
    "overlap": "mathsft.data.overlap",
    "without_test_rows": "mathsft.data.overlap",
    "extract_answer": "mathsft.data.answers",
    "same_answer": "mathsft.data.answers",
    "load_model": "mathsft.models.loading",
    "save_model": "mathsft.models.saving",
    "freeze": "mathsft.models.freezing",
    "add_adapter": "mathsft.models.adapters",
    "save_adapter": "mathsft.models.adapters",
    "load_adapter": "mathsft.models.adapters",
    "merge_adapter": "mathsft.models.adapters",
    "memory_gb": "mathsft.models.memory",
    "free": "mathsft.models.memory",
    "estimate_memory": "mathsft.recipes.estimate",
    "TokenForest": "mathsft.models.forest",
    "choice_logprobs": "mathsft.models.likelihood",
    "option_logprobs": "mathsft.models.likelihood",
    "pack": "mathsft.models.packing",
    "forest_mask": "mathsft.models.attention",
    "make_trainer": "mathsft.training.make",
    "SFT": "mathsft.objectives.sft",
    "MultipleChoice": "mathsft.objectives.multiple_choice",
    "DPO": "mathsft.objectives.preference",
    "sequence_logprobs": "mathsft.models.logprobs",
    "sft_trainer": "mathsft.training.make",
    "multiple_choice_trainer": "mathsft.training.make",
    "stop_after_turns": "mathsft.objectives.conversations",
    "show_samples": "mathsft.training.samples",
    "persist": "mathsft.training.persist",
    "keep_folder": "mathsft.training.persist",
    "worked_answers": "mathsft.evaluation.worked",
    "evaluate": "mathsft.evaluation.run",
    "load_results": "mathsft.evaluation.results",
    "compare": "mathsft.evaluation.compare",
    "compare_all": "mathsft.evaluation.compare",
    "accuracy_by": "mathsft.evaluation.results",
    "template_labels": "mathsft.evaluation.results",
    "reading_labels": "mathsft.evaluation.results",
    "results_table": "mathsft.evaluation.tables",
    "pairs_table": "mathsft.evaluation.tables",
    "write_csv": "mathsft.evaluation.tables",
    "report": "mathsft.evaluation.report",
    "watch": "mathsft.evaluation.watch",
    "check_tuned": "mathsft.evaluation.guards",
    "wilson": "mathsft.evaluation.intervals",
    "plot_accuracy": "mathsft.evaluation.plots",
    "plot_curves": "mathsft.evaluation.plots",
    "plot_intervals": "mathsft.evaluation.plots",
    "plot_loss": "mathsft.evaluation.plots",
    "plot_mask": "mathsft.evaluation.plots",
    "plot_packing": "mathsft.evaluation.plots",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mathsft' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
