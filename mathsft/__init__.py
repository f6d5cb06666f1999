"""mathsft: make a small language model better at maths, with honest numbers.

Names are imported when first used, so that ``import mathsft`` takes milliseconds and
imports neither torch nor transformers.
"""

import logging
import warnings
from importlib import import_module
from typing import Any

# On CPUs with bfloat16 units, bitsandbytes warns of a missing package that it can do without.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

_HOME = {
    "describe": "mathsft.device",
    "exercise": "mathsft.notebook",
    "show_figure": "mathsft.notebook",
    "device_defaults": "mathsft.device",
    "default_profile": "mathsft.device",
    "load_settings": "mathsft.settings",
    "quiet": "mathsft.settings",
    "run_dir": "mathsft.settings",
    "tracker": "mathsft.settings",
    "load_recipe": "mathsft.recipes",
    "load_problems": "mathsft.data.problems",
    "kind_of": "mathsft.data.rows",
    "add_choices": "mathsft.data.choices",
    "mix_datasets": "mathsft.data.mixtures",
    "training_plan": "mathsft.data.mixtures",
    "overlap": "mathsft.data.contamination",
    "without_test_rows": "mathsft.data.contamination",
    "deduplicate": "mathsft.data.deduplication",
    "remove_questions": "mathsft.data.decontamination",
    "decontaminate": "mathsft.evaluation.decontamination",
    "extract_answer": "mathsft.data.answers",
    "same_answer": "mathsft.data.answers",
    "choice_context": "mathsft.data.prompts",
    "sft_prompt": "mathsft.data.prompts",
    "clean_choices": "mathsft.data.mathqa",
    "official_choices": "mathsft.data.mathqa",
    "formula_value": "mathsft.data.formulas",
    "formula_verdict": "mathsft.data.formulas",
    "question_template": "mathsft.data.questions",
    "read_rows": "mathsft.data.local_files",
    "write_rows": "mathsft.data.local_files",
    "pairs_from": "mathsft.data.pairs",
    "pairs_from_groups": "mathsft.data.group_pairs",
    "head_for": "mathsft.data.labelled",
    "load_model": "mathsft.models.loading",
    "load_reward_model": "mathsft.models.reward_head",
    "save_model": "mathsft.models.saving",
    "freeze": "mathsft.models.trained_weights",
    "add_adapter": "mathsft.models.adapters",
    "save_adapter": "mathsft.models.adapters",
    "load_adapter": "mathsft.models.adapters",
    "merge_adapter": "mathsft.models.adapters",
    "memory_gb": "mathsft.models.memory",
    "free_memory": "mathsft.models.memory",
    "estimate_memory": "mathsft.recipes.estimate",
    "largest_batch": "mathsft.recipes.estimate",
    "TokenForest": "mathsft.models.forest",
    "choice_logprobs": "mathsft.models.likelihood",
    "encode_choices": "mathsft.models.likelihood",
    "pack": "mathsft.models.forest",
    "forest_mask": "mathsft.models.attention",
    "attention_inputs": "mathsft.models.attention",
    "make_trainer": "mathsft.training.make",
    "SFT": "mathsft.objectives.sft",
    "tokenize_problems": "mathsft.objectives.sft",
    "MultipleChoice": "mathsft.objectives.multiple_choice",
    "DPO": "mathsft.objectives.preference",
    "CPO": "mathsft.objectives.preference",
    "SimPO": "mathsft.objectives.preference",
    "ORPO": "mathsft.objectives.preference",
    "SMPO": "mathsft.objectives.smpo",
    "KTO": "mathsft.objectives.kto",
    "Classification": "mathsft.objectives.classification",
    "RewardModel": "mathsft.objectives.reward",
    "micro_f1": "mathsft.objectives.classification",
    "Reinforce": "mathsft.objectives.policy",
    "GRPO": "mathsft.objectives.policy",
    "DrGRPO": "mathsft.objectives.policy",
    "DAPO": "mathsft.objectives.policy",
    "GSPO": "mathsft.objectives.policy",
    "CISPO": "mathsft.objectives.policy",
    "PPO": "mathsft.objectives.policy",
    "ReinforcePlusPlus": "mathsft.objectives.policy",
    "RLOO": "mathsft.objectives.policy",
    "GPO": "mathsft.objectives.gpo",
    "Distillation": "mathsft.objectives.distillation",
    "sequence_logprobs": "mathsft.models.logprobs",
    "sft_trainer": "mathsft.training.make",
    "multiple_choice_trainer": "mathsft.training.make",
    "rollout_trainer": "mathsft.training.make_rollouts",
    "store_teacher": "mathsft.training.teacher_store",
    "stop_after_turns": "mathsft.objectives.conversations",
    "show_samples": "mathsft.training.callbacks",
    "persist": "mathsft.training.persist",
    "keep_folder": "mathsft.training.persist",
    "generate": "mathsft.generation.generate",
    "sample_groups": "mathsft.generation.rollouts",
    "FinalAnswer": "mathsft.generation.rewards",
    "AnswerFormat": "mathsft.generation.rewards",
    "Length": "mathsft.generation.rewards",
    "soft_overlong": "mathsft.generation.rewards",
    "JudgedBy": "mathsft.generation.rewards",
    "reward_by_name": "mathsft.generation.rewards",
    "Weighted": "mathsft.generation.weighted",
    "call_reward": "mathsft.generation.reward_calls",
    "check_judge": "mathsft.generation.reward_checks",
    "known_completions": "mathsft.generation.reward_checks",
    "InstructionFollowing": "mathsft.generation.instruction_rewards",
    "score": "mathsft.generation.scoring",
    "best_of_n": "mathsft.generation.best_of_n",
    "rejection_sampling": "mathsft.generation.selection",
    "store_attempts": "mathsft.generation.stored_attempts",
    "search_prompt": "mathsft.generation.prompt_search",
    "Gumbel": "mathsft.generation.prompt_methods",
    "Swaps": "mathsft.generation.prompt_methods",
    "soft_prompt": "mathsft.generation.soft_prompt",
    "PromptCodebook": "mathsft.generation.prompt_codebook",
    "gumbel_noise": "mathsft.generation.prompt_codebook",
    "prompt_logprobs": "mathsft.generation.prompt_codebook",
    "places_of": "mathsft.generation.prompt_places",
    "generate_basket": "mathsft.generation.basket_client",
    "read_basket": "mathsft.generation.baskets",
    "basket_rows": "mathsft.generation.baskets",
    "served_groups": "mathsft.generation.served",
    "Server": "mathsft.generation.server",
    "wait_until_ready": "mathsft.generation.health",
    "serving": "mathsft.generation.serving",
    "logprob_mismatch": "mathsft.generation.mismatch",
    "check_mismatch": "mathsft.generation.mismatch",
    "worked_answers": "mathsft.evaluation.worked",
    "evaluate": "mathsft.evaluation.run",
    "load_results": "mathsft.evaluation.results",
    "compare": "mathsft.evaluation.compare",
    "compare_all": "mathsft.evaluation.compare",
    "detectable_difference": "mathsft.evaluation.compare",
    "accuracy_by": "mathsft.evaluation.results",
    "template_labels": "mathsft.evaluation.results",
    "reading_labels": "mathsft.evaluation.results",
    "results_table": "mathsft.evaluation.tables",
    "pairs_table": "mathsft.evaluation.tables",
    "write_csv": "mathsft.evaluation.tables",
    "write_report": "mathsft.evaluation.report",
    "watch": "mathsft.evaluation.watch",
    "check_tuned": "mathsft.evaluation.guards",
    "wilson_interval": "mathsft.evaluation.intervals",
    "plot_accuracy": "mathsft.evaluation.plots",
    "plot_curves": "mathsft.evaluation.plots",
    "plot_intervals": "mathsft.evaluation.plots",
    "plot_loss": "mathsft.evaluation.plots",
    "plot_mask": "mathsft.evaluation.plots",
    "plot_packing": "mathsft.evaluation.plots",
    "ForestLM": "mathsft.evaluation.harness",
    "quiet_harness": "mathsft.evaluation.requests",
    "train_by_recipe": "mathsft.training.by_recipe",
    "load_tuned": "mathsft.models.tuned",
    "merge_folder": "mathsft.models.tuned",
    "ask": "mathsft.generation.chat",
    "chat": "mathsft.generation.chat",
    "write_model_card": "mathsft.sharing.model_card",
    "share": "mathsft.sharing.upload",
    "worked_result": "mathsft.evaluation.worked",
    "capstone_recipe": "mathsft.evaluation.capstone",
    "submit": "mathsft.sharing.submit",
    "read_submission": "mathsft.sharing.submission",
    "mask_explorer": "mathsft.evaluation.mask_explorer",
}
__all__ = sorted(_HOME)
# Former names, which work for one more release.
_RENAMED = {
    "free": "free_memory",
    "mix": "mix_datasets",
    "option_logprobs": "sequence_logprobs",
    "policy": "device_defaults",
    "report": "write_report",
    "wilson": "wilson_interval",
}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        new = _RENAMED[name]
        if name == "option_logprobs":  # it returned only the sums
            new += "(model, batch).sum"
        warnings.warn(
            f"mathsft.{name} is now called mathsft.{new}; the next release removes the old name",
            DeprecationWarning,
            stacklevel=2,
        )
        function = getattr(import_module(_HOME[_RENAMED[name]]), _RENAMED[name])
        if name == "option_logprobs":
            return lambda *args, **kwargs: function(*args, **kwargs).sum
        return function
    if name not in _HOME:
        raise AttributeError(f"module 'mathsft' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
