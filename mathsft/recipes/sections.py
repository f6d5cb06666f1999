"""The sections of a recipe: each has the arguments of a function, or the fields of a dataclass.

The functions are imported only when needed: a recipe configures almost the whole package.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Literal

from mathsft.options import Option, options_of

NOT_KEYS = {
    "model", "tokenizer", "problems", "rows", "eval_rows", "objective", "test", "output_dir",
    "run_dir", "callbacks", "prompt", "prompts", "hub_token", "parallelism_config", "server",
}  # fmt: skip
# What peft itself writes into a LoraConfig.
_PEFTS_OWN = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path",
    "revision", "inference_mode", "runtime_config",
}  # fmt: skip


@cache
def recipe_sections() -> dict[str, dict[str, Option]]:
    """All sections, each with its options."""
    from peft import LoraConfig

    from mathsft.data.choices import add_choices
    from mathsft.data.mixtures import mix_datasets
    from mathsft.data.problems import load_problems
    from mathsft.evaluation.worked import worked_answers
    from mathsft.generation.rewards import REWARDS
    from mathsft.generation.rollouts import sample_groups
    from mathsft.generation.server import Server
    from mathsft.models.adapters import add_adapter
    from mathsft.models.loading import load_model
    from mathsft.models.trained_weights import freeze
    from mathsft.training.callbacks import show_samples
    from mathsft.training.make import make_trainer
    from mathsft.training.make_rollouts import rollout_trainer
    from mathsft.training.persist import persist

    functions: dict[str, Any] = {
        "model": load_model, "freeze": freeze, "train": load_problems,
        "test": load_problems, "choices_train": load_problems, "choices": load_problems,
        "mix": mix_datasets, "add_choices": add_choices, "persist": persist,
        "show_samples": show_samples, "worked": worked_answers, "sample": sample_groups,
    }  # fmt: skip
    sections = {name: options_of(made, skip=NOT_KEYS) for name, made in functions.items()}
    for name in ("test", "choices"):
        split = sections[name]["split"]
        told = f"{split.help} Default here: ``test``; for a file, its only split"
        sections[name]["split"] = replace(split, default=None, help=told)
    lora = options_of(LoraConfig, skip=_PEFTS_OWN, defaults=False)
    lora |= options_of(add_adapter, skip={*NOT_KEYS, "config"})
    lora["init_lora_weights"] = replace(lora["init_lora_weights"], hint=bool | str)
    kind = bool | dict[str, Any]
    sections["model"]["lora"] = replace(
        sections["model"]["lora"], hint=kind, default=True, inside=lora
    )
    sections["mix"]["datasets"] = Option(
        dict[str, dict[str, Any]],
        help="how to read each name in parts: keys of load_problems",
        inside=sections["train"],
        named=True,
    )
    theirs = {*NOT_KEYS, "reward", "sampler", *options_of(make_trainer)}
    sections["rollout"] = options_of(rollout_trainer, skip=theirs)
    sections["server"] = options_of(Server)
    sections["reward_function"] = _reward_options(REWARDS)
    sections |= objective_sections()
    return {**sections, "mixing": sections["multiple_choice"]}


def _reward_options(rewards: Mapping[str, Any]) -> dict[str, Option]:
    """The settings of all rewards; `reward_by_name` says which of them a reward takes."""
    found = {
        "name": Option(Literal[tuple(rewards)], help="what judges the answers", required=True),
        "rewards": Option(list[Any], help="of weighted: names, or mappings with a name"),
    }
    for name, made in rewards.items():
        for key, one in options_of(made, defaults=False).items():
            told = f"{found[key].help}; of {name}" if key in found else f"of {name}: {one.help}"
            found[key] = replace(found.get(key, one), help=told, required=False)
    return found


def objective_names() -> list[str]:
    """The objectives that a model can be trained for."""
    return list(objective_sections())


@cache
def objective_sections() -> dict[str, dict[str, Option]]:
    """The section of each objective: its fields, and the arguments of `make_trainer`."""
    from transformers import EarlyStoppingCallback, TrainingArguments

    from mathsft.objectives import objective_classes
    from mathsft.training.arguments import refused_arguments
    from mathsft.training.make import DEFAULTS, make_trainer

    shared = options_of(make_trainer, skip={*NOT_KEYS, "teacher"})  # a loaded model
    theirs = options_of(TrainingArguments, skip=NOT_KEYS, defaults=False)
    theirs["fsdp"] = replace(theirs["fsdp"], hint=bool | str | None)  # transformers expects true
    batch = theirs["per_device_train_batch_size"]
    theirs["per_device_train_batch_size"] = replace(
        batch,
        hint=int | Literal["auto"],
        help=f"{batch.help} auto: the largest that fits, for the rows of step_rows",
    )
    stopping = options_of(EarlyStoppingCallback, defaults=False)
    refused = {name: Option(Any, refused=why) for name, why in refused_arguments().items()}
    found = {}
    for name, objective in objective_classes().items():
        usual = {**DEFAULTS, **objective.defaults}
        told = {key: replace(theirs[key], default=value) for key, value in usual.items()}
        own = options_of(objective)
        others = {**shared, **told, **stopping, **theirs}
        # TRL's loss_type says nothing to SFT, but it is a setting of DPO.
        others |= {key: option for key, option in refused.items() if key not in own}
        if taken := own.keys() & others.keys():
            raise ValueError(
                f"{objective.__name__}: {', '.join(taken)} is a setting of the trainer"
            )
        found[name] = {**own, **others}
        found[name] |= told
        if not objective.needs_reference:
            found[name]["reference"] = Option(Any, refused=f"{name} compares with no reference")
    return found
