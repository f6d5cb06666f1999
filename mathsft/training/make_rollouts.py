"""A trainer for learning from a model's own attempts, checked before the first step."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mathsft.checks import ABOVE_0, AT_LEAST_0, SHARE, at_least, check_number, check_numbers
from mathsft.models.attention import position_limit
from mathsft.models.encoding import pad_token
from mathsft.models.sharding import check_not_sharded
from mathsft.objectives import check_objective
from mathsft.objectives.base import Objective
from mathsft.objectives.groupwise import Policy
from mathsft.objectives.policy import GRPO
from mathsft.training.argument_checks import check_evaluation, trainer_arguments
from mathsft.training.arguments import refuse_arguments, renaming_notices_off, training_arguments
from mathsft.training.batches import Collator
from mathsft.training.compiling import Compile, check_compile
from mathsft.training.judging import Reward, Sampler, Sampling
from mathsft.training.leftovers import nothing_left
from mathsft.training.make import DEFAULTS
from mathsft.training.prompts import Prompts
from mathsft.training.reference import Reference
from mathsft.training.rollout_trainer import RolloutTrainer
from mathsft.training.sized import divided_for
from mathsft.training.teachers import teacher_of

Rows = Iterable[Mapping[str, Any]]


def rollout_trainer(
    model: Any,
    tokenizer: Any,
    rows: Rows,
    objective: Objective,
    reward: Reward | None = None,
    *,
    output_dir: str | Path,
    eval_rows: Rows | None = None,
    num_generations: int = 8,
    max_new_tokens: int = 256,
    top_p: float = 1.0,
    batch_size: int = 512,
    num_iterations: int = 1,
    resample: int = 0,
    max_length: int = 1024,
    step_rows: int | None = None,
    importance_sampling_cap: float = 2.0,
    sampler: Sampler | None = None,
    reference: Reference | None = None,
    teacher: Any = None,
    compile: Compile = "auto",
    callbacks: list[Any] | None = None,
    **arguments: Any,
) -> RolloutTrainer:
    """A trainer that learns from the model's own answers, ready for ``.train()``.

    In each optimiser step the model answers the next prompts ``num_generations`` times each, the
    reward judges every answer, and the objective learns from the groups.

    Args:
        model: with its adapter, or without one (`make_trainer`).
        tokenizer: the model's own.
        rows: problems, prompts or conversations of `load_problems`. A problem is asked by its
            training prompt, a conversation up to its last assistant turn.
        objective: a policy objective, such as ``DrGRPO()`` or ``GRPO(beta=0.04)``; its
            ``temperature`` is that of the sampling. Or ``Distillation(on_policy=True)``, with its
            ``sampling_temperature``: a teacher says what each token should have been.
        reward: such as ``reward_by_name("final_answer")``, or any function for TRL's GRPOTrainer:
            it is called with ``prompts``, ``completions``, ``completion_ids``, ``ended`` and the
            columns of the rows, and returns one number for each completion. With `Distillation` it
            is only logged, and may be left out.
        output_dir: the folder for checkpoints and logs.
        eval_rows: the rows that ``.evaluate()`` asks, each ``num_generations`` times.
        num_generations: answers per prompt.
        max_new_tokens: an answer is cut after this many tokens. For `DrGRPO` it is also the
            length that the loss is divided by.
        top_p: sample only from the likeliest tokens with this probability together. Below 1 the
            answers are no longer the model's own distribution.
        batch_size: answers that are written at once.
        num_iterations: optimiser steps for the same attempts, as in TRL. Above 1 the ratio moves
            away from 1, and clipping begins to matter.
        resample: groups whose rewards are all equal teach nothing. Replace them by answers to
            other prompts, drawn at random, up to so many times (DAPO's dynamic sampling).
        max_length: tokens of a row in the forest. A larger group is divided into several rows.
        step_rows: prompts of an optimiser step, in all processes together. The accumulation follows
            from it and the batch.
        importance_sampling_cap: the largest weight of a token if sampling and training round
            differently, in half precision or with a server (`mathsft.training.correction`).
        sampler: writes the answers in place of `sample_groups`, with its arguments.
        reference: as for `make_trainer`, for objectives with ``beta`` above 0. "before_training"
            keeps a copy of the trained weights.
        teacher: as for `make_trainer`.
        compile: as for `make_trainer`; the answers are written without it.
        callbacks: such as `persist` and `show_samples`.
        arguments: fields of `transformers.TrainingArguments`. ``per_device_train_batch_size``
            counts prompts, and defaults to 8; ``learning_rate`` to 1e-5, TRL's advice for
            adapters; ``logging_steps`` to 1; the others as for `make_trainer`.

    Raises ValueError for an objective that does not learn from groups, an impossible number, fewer
    prompts than one optimiser step takes, a model that is sharded over several processes, and what
    `make_trainer` raises. Training raises RewardError if the reward raises, with the row. It stops
    with a message if for three steps no answer was rewarded, or none ended.
    """
    check_objective(objective)
    if not objective.attempts:
        raise ValueError(
            f"objective: {objective.name} does not learn from a model's own attempts; give a "
            "policy objective, such as DrGRPO() or RLOO(), or Distillation(on_policy=True)"
        )
    compared = objective.attempts == "compared"
    if not (callable(reward) or (compared and reward is None)):
        raise ValueError(
            f"reward: expected a function, or one such as FinalAnswer(), found {reward!r:.60}; "
            "reward_by_name makes one from its name"
        )
    refuse_arguments(arguments)
    check_evaluation(arguments, rows=eval_rows)
    check_compile(compile)
    check_numbers({"max_length": max_length, "max_new_tokens": max_new_tokens})
    check_number("num_generations", num_generations, at_least(1))
    check_number("top_p", top_p, SHARE)
    check_number("num_iterations", num_iterations, at_least(1))
    check_number("resample", resample, AT_LEAST_0)
    check_number("importance_sampling_cap", importance_sampling_cap, ABOVE_0)
    if isinstance(objective, Policy):
        objective.advantages([[0.0] * num_generations])  # too few to compare?
    elif resample:
        raise ValueError(
            f"resample={resample}: {objective.name} learns from every answer, so none is replaced"
        )
    check_not_sharded(model)
    if isinstance(objective, GRPO) and objective.max_completion_length is None:
        objective = replace(objective, max_completion_length=max_new_tokens)
    # A batch is a list of prompts until they are answered: there is nothing to lay out before.
    usual = {"logging_steps": 1, "dataloader_num_workers": 0}
    settings = {**DEFAULTS, **usual, **objective.defaults, **arguments}
    settings = divided_for(
        model, objective, settings, given=arguments, step_rows=step_rows, max_length=max_length
    )
    args = training_arguments(model, output_dir=str(output_dir), **settings)
    checked = trainer_arguments(model, args)
    limit = position_limit(model.config)
    longest = min(max_length, max_length if limit is None else limit) - max_new_tokens + 1
    if longest < 1:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt: max_length is "
            f"{max_length}, and the model has {limit or 'no limit of'} positions"
        )
    asked = teacher_of(objective, model, tokenizer, teacher, max_length=max_length)
    read = partial(Prompts.of, tokenizer=tokenizer, max_tokens=longest, taught=compared)
    train = read(rows, name="train")
    tests = None if eval_rows is None else read(eval_rows, name="eval")
    with nothing_left(output_dir), renaming_notices_off():
        return RolloutTrainer(
            model,
            objective,
            prompts=train,
            eval_prompts=tests,
            reward=reward,
            sampling=Sampling(
                num_generations=num_generations,
                max_new_tokens=max_new_tokens,
                top_p=top_p,
                batch_size=batch_size,
                num_iterations=num_iterations,
                resample=resample,
                importance_sampling_cap=importance_sampling_cap,
            ),
            sampler=sampler,
            collate=Collator(objective, pad_token_id=pad_token(tokenizer), max_length=max_length),
            reference=reference,
            teacher=asked,
            compile=compile,
            args=checked,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
