"""A complete training run from a recipe, from reading to saving: what ``mathsft sft`` runs."""

from collections.abc import Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from peft import PeftModel
from transformers import set_seed

from mathsft.checks import check_numbers
from mathsft.compat import attention_of, commit_of
from mathsft.data.rows import kind_of
from mathsft.device import device_defaults
from mathsft.generation.rewards import reward_by_name
from mathsft.generation.server import Server
from mathsft.in_use import claimed
from mathsft.models.adapters import save_adapter
from mathsft.models.loading import load_model
from mathsft.models.model_files import check_folder
from mathsft.models.reward_head import load_reward_model, loading_line
from mathsft.models.saving import save_model
from mathsft.models.trained_weights import freeze
from mathsft.objectives import objective_class
from mathsft.objectives.groupwise import Policy
from mathsft.processes import first_before_others, in_first, processes, say
from mathsft.record import check_run, write_record
from mathsft.settings import check_trackers, run_folder, runs_folder
from mathsft.training.batch_size import BATCH, STEPS, divided_here
from mathsft.training.callbacks import early_stopping, show_samples
from mathsft.training.leftovers import nothing_left
from mathsft.training.make import make_trainer
from mathsft.training.make_rollouts import rollout_trainer
from mathsft.training.persist import persist
from mathsft.training.preview import preview, preview_memory, preview_prompts, tokenizer_of, usable
from mathsft.training.recipe_rows import Recipe, read_rows
from mathsft.training.runs import rows_hash
from mathsft.training.sized import sized

_COMMANDS = {"sft": "sft", "multiple_choice": "multiple-choice"}


def train_by_recipe(
    recipe: Recipe,
    objective: str = "sft",
    *,
    output_dir: str | Path | None = None,
    resume: bool = False,
    check: bool = False,
) -> Path:
    """Train as the sections of a recipe say (`mathsft.recipes`), and save the result.

    Args:
        recipe: sections by name. ``model`` is as for `load_model`, but with an adapter unless
            ``lora: false`` asks for full fine-tuning. Full fine-tuning is in float32 unless
            ``dtype`` says otherwise (half precision loses AdamW's small steps; the trainer
            still multiplies in half precision). ``mix`` replaces ``train`` or
            ``choices_train``. Rows that ask a question of the test are left out and counted;
            a mixture with such rows is refused.
        objective: what the model is trained to do (`mathsft.objectives`). Its settings are in the
            section of its name. It reads ``train`` and ``test``; "multiple_choice" reads
            ``choices_train`` and ``choices``. ``eval_strategy`` says when the test is evaluated;
            ``show_samples`` adds sample answers. A policy objective learns from rows with answers
            and rewards; if its rows are problems or prompts, the model answers them during
            training (sections ``rollout`` and ``reward_function``, by default "final_answer"), or
            a ``server`` does that has its weights.
        output_dir: the run's folder; default: the first free one of ``runs/sft-1``, … A folder
            that already holds a run is refused unless ``resume`` is given.
        resume: resume the run in ``output_dir`` from its newest complete checkpoint; if there is
            none yet, start from step 0.
        check: read the data, print the counts, the lengths, three rows token by token and an
            estimate of the memory, and stop: no weights are loaded and no run is started.

    Returns the folder, which then holds ``config.yaml`` and ``environment.json``
    (`mathsft.record`), ``trainer_state.json`` with the log, checkpoints, and ``adapter``, or
    ``model`` after full fine-tuning. If there are several processes, each must call it.

    Raises:
        ValueError, FileNotFoundError: what the functions of the sections raise; or if the folder
            holds another run. The data is read before the model is loaded, and nothing is
            written until the trainer has been made. Or if another training uses the folder: it is
            held from here on, before anything is loaded (`mathsft.in_use`).
    """
    with ExitStack() as held:
        return _train(held, recipe, objective, output_dir, resume=resume, check=check)


def _train(
    held: ExitStack, recipe: Recipe, objective: str, output_dir: str | Path | None, *, resume: bool,
    check: bool,
) -> Path:  # fmt: skip
    if output_dir is None and resume:
        raise ValueError("which run should be resumed? give its --output_dir")
    given = {name: dict(arguments) for name, arguments in recipe.items()}
    for name, arguments in given.items():
        check_numbers(arguments, where=f"{name}.")
    for name, arguments in (given.get("mix", {}).get("datasets") or {}).items():
        check_numbers(arguments, where=f"mix.datasets.{name}.")
    check_trackers(given.get(objective, {}).get("report_to"))
    kind = objective_class(objective)
    settings = deepcopy(given.get(objective, {}))  # transformers writes into fsdp_config
    own = {field.name for field in fields(kind)} & settings.keys()
    target = kind(**{name: settings.pop(name) for name in sorted(own)})
    seed = int(settings.get("seed", 0))
    model_keys = given.get("model", {})
    device = "cpu" if model_keys.get("device") == "cpu" else device_defaults().device
    timeout, backend = settings.get("ddp_timeout"), settings.get("ddp_backend")
    state = processes(device, timeout=timeout, backend=backend)
    settings = divided_here(
        settings,
        kind,
        device=lambda: device,
        sized=lambda shards: sized(
            given, objective, kind, device="cpu" if device == "cpu" else None, shards=shards,
            free=True,
        ),
    )  # fmt: skip
    numbers = {key: settings[key] for key in (BATCH, STEPS) if key in settings}
    given[objective] = {**given.get(objective, {}), **numbers}
    same_step = (objective,) if kind.divisible else ()
    choose = partial(run_folder, output_dir, objective, make=not check)
    folder, made = in_first(choose, device=device)
    if not check:
        held.enter_context(claimed(folder, device=device, remove_empty=made))
    look = partial(check_run, folder, given, resume=resume, same_step=same_step)
    in_first(look, device=device)
    # What would be found out only after training.
    saved: Literal["adapter", "model"] = "adapter" if model_keys.get("lora", True) else "model"
    in_first(partial(check_folder, folder / saved, holds=saved), device=device)
    evaluates = settings.get("eval_strategy", "no") != "no"
    reward = None
    if issubclass(kind, Policy) or "reward_function" in given:
        reward = reward_by_name(**given.get("reward_function", {"name": "final_answer"}))
    callbacks: list[Any] = [persist(folder, **given.get("persist", {}))]
    # Process 0 downloads and converts; the others find the result on disk.
    train, test = first_before_others(partial(read_rows, given, objective), device=device)
    compared = target.attempts == "compared"
    online = compared or (issubclass(kind, Policy) and kind_of(train[0]).name not in kind.kinds)
    if online and not compared:
        say(f"{objective}: the rows have no answers with rewards, so the model answers them itself")
    callbacks += early_stopping(
        settings, objective, evaluates=evaluates, best="reward" if online and reward else "loss"
    )
    asks = "eval_strategy" if evaluates else "eval_on_start" * bool(settings.get("eval_on_start"))
    evaluated = test if asks else None
    if asks and test is None:
        where = f"give {kind.sections[1]}.source"
        raise ValueError(f"{objective}.{asks} needs rows to evaluate: {where}")
    if "show_samples" in given and not kind.writes:
        raise ValueError(f"show_samples: {objective} does not train the model to write text")
    if "show_samples" in given and evaluated is None:
        raise ValueError(
            "show_samples needs rows to evaluate: give the section test, and "
            f"{objective}.eval_strategy (such as steps, with eval_steps)"
        )
    if check:
        length = settings.get("max_length", 512)
        if online:
            preview_prompts(train, reward, model=model_keys)
        else:
            preview(train, evaluated, target, model=model_keys, max_length=length)
        preview_memory(given, objective, kind)
        say("\nno weights were loaded, and no run was started")
        return folder
    if not online:
        usable(train, tokenizer_of(model_keys), target)  # refuses rows of another kind now
    set_seed(seed)  # for the adapter's first weights; the trainer sets its own seed
    load = partial(load_reward_model, **target.head(train)) if kind.needs_hidden else load_model
    model, tokenizer = load(**_model_arguments(model_keys))
    if "freeze" in given:
        freeze(model, **given["freeze"])
    if "show_samples" in given:
        callbacks.append(show_samples(tokenizer, evaluated or (), **given["show_samples"]))
    if online:
        settings |= given.get("rollout", {})
        if "server" in given:
            settings["sampler"] = Server(**given["server"])
    make: Any = partial(rollout_trainer, reward=reward) if online else make_trainer
    trainer = make(
        model,
        tokenizer,
        train,
        target,
        output_dir=folder,
        eval_rows=evaluated,
        callbacks=callbacks,
        **settings,
    )
    # Only now, when the trainer is made: a mistake must not leave a run's folder behind.
    record = partial(
        write_record,
        folder,
        given,
        command=_COMMANDS.get(objective, f"train --objective {objective}"),
        seed=seed,
        processes=state.num_processes,
        resolved=_resolved(trainer),
    )
    with nothing_left(folder, begun=trainer.has_begun):
        callbacks[0].check(trainer.args)
        in_first(record, device=device)
        say(f"{folder}: config.yaml and environment.json record how this run was made")
        trainer.train(resume_from_checkpoint=resume)
    trainer.save_state()
    if isinstance(model, PeftModel):
        kept = save_adapter(model, folder / "adapter", tokenizer=tokenizer)
    else:
        kept = save_model(model, tokenizer, folder / "model")
    say(f"trained for {trainer.state.global_step:,} steps; saved in {kept}")
    name, revision = model_keys.get("name", "tiny"), model_keys.get("revision")
    if kind.needs_hidden:
        outputs = int(model.config.num_labels or 1)
        line = loading_line(name, kept, num_labels=outputs, revision=revision)
        say(f"next, in Python: {line}")
        return folder
    base = f"--model {name}" + (f" --revision {revision}" if revision else "")
    scored = f"{base} --peft {kept}" if kept.name == "adapter" else f"--model {kept}"
    task = "mathqa_tiny" if name == "tiny" else "mathqa"
    results = runs_folder() / "results"
    say(f"next: mathsft evaluate {scored} --tasks {task} --folder {results}")
    return folder


def _model_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {"lora": True, **given}
    if not arguments["lora"] and arguments.get("dtype") is None:
        arguments["dtype"] = "float32"
    return arguments


def _resolved(trainer: Any) -> dict[str, Any]:
    """The values that the recipe left open, such as those of the device and the hub."""
    config, arguments = trainer.model.config, trainer.args
    return {
        "dtype": str(trainer.model.dtype).removeprefix("torch."),
        "attn_implementation": attention_of(config),
        "model_commit": commit_of(config),
        "optim": str(getattr(arguments.optim, "value", arguments.optim)),
        "bf16": bool(arguments.bf16),
        "fp16": bool(arguments.fp16),
        "weight_decay": arguments.weight_decay,
        "training_rows": len(trainer.train_dataset),
        "training_rows_sha256": rows_hash(trainer.train_dataset),
    }
