"""A trainer from a model, rows and an objective, checked before the first step."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mathsft.checks import check_numbers
from mathsft.models.attention import position_limit
from mathsft.models.encoding import pad_token
from mathsft.objectives import check_objective
from mathsft.objectives.base import Objective
from mathsft.objectives.multiple_choice import MultipleChoice, Normalization
from mathsft.objectives.sft import SFT
from mathsft.processes import first_before_others
from mathsft.training.argument_checks import check_evaluation, trainer_arguments
from mathsft.training.arguments import refuse_arguments, renaming_notices_off, training_arguments
from mathsft.training.batches import Collator
from mathsft.training.compiling import Compile, check_compile
from mathsft.training.leftovers import nothing_left
from mathsft.training.reference import Reference
from mathsft.training.rows import training_rows
from mathsft.training.sized import divided_for
from mathsft.training.stored_teacher import StoredTeacher
from mathsft.training.teachers import teacher_of
from mathsft.training.trainer import ForestTrainer

Rows = Iterable[Mapping[str, Any]]
# For `transformers.TrainingArguments`, unless an objective has its own.
DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "learning_rate": 2e-4,
    "num_train_epochs": 1.0,
    "warmup_steps": 0.03,
    "logging_steps": 10,
    "save_strategy": "no",
    "report_to": "none",
    "seed": 0,
}


def make_trainer(
    model: Any,
    tokenizer: Any,
    rows: Rows,
    objective: Objective,
    *,
    output_dir: str | Path,
    eval_rows: Rows | Mapping[str, Rows] | None = None,
    max_length: int = 512,
    step_rows: int | None = None,
    reference: Reference | None = None,
    teacher: Any = None,
    compile: Compile = "auto",
    callbacks: list[Any] | None = None,
    **arguments: Any,
) -> ForestTrainer:
    """A trainer for any objective, ready for ``.train()``.

    Args:
        model: with its adapter (`load_model(..., lora=True)`), or without one: then all of it is
            trained, in float32, except for what `freeze` has frozen.
        tokenizer: the model's own.
        rows: rows of `load_problems` of a kind that the objective reads.
        objective: such as ``SFT()``, ``MultipleChoice(temperature=4.0)`` or ``DPO(beta=0.2)``.
        output_dir: the folder for checkpoints, logs and samples.
        eval_rows: the rows that ``.evaluate()`` uses, and that ``eval_strategy="steps"`` evaluates
            every ``eval_steps``; or several sets of rows by name.
        max_length: tokens of a row. Anything longer is dropped and counted, never cut; so is
            anything longer than the model's positions.
        step_rows: rows of an optimiser step, in all processes together. The number of accumulation
            steps follows from it and the batch. With ``per_device_train_batch_size="auto"`` the
            batch follows as well: the largest that divides these rows and fits the memory, by
            estimate, with 15 % of a GPU to spare (a CPU takes a quarter of its free memory); a
            line says which and why. Default: batch × accumulation × processes, as given.
        reference: for objectives that compare with the model as it was before training.
            "adapter_off": the model without its adapter, in each step. "before_training":
            log-probabilities that are computed once, now, and kept with the rows. Default:
            "adapter_off" if the adapter is fresh (it changes nothing yet), otherwise
            "before_training"; a line says which.
        teacher: for `Distillation`: a loaded model, or the pair that `load_model` returns, in place
            of the objective's ``teacher``. It gets no gradient, and is no part of checkpoints.
        compile: fuse the decoder layers' small operations with `torch.compile` in training steps.
            "auto": on a CUDA device, if the run has at least 500 passes; a line says what it costs.
            Losses then differ by rounding.
        callbacks: such as `persist` and `show_samples`.
        arguments: fields of `transformers.TrainingArguments`. The defaults, unless you or the
            objective (``defaults``) set others: ``learning_rate`` 2e-4, QLoRA's (Dettmers et al.
            2023, appendix B); one epoch; ``warmup_steps`` 0.03 of all steps; a log line every 10
            steps; no checkpoints (`persist` saves by the clock); no tracker; seed 0; and the
            optimiser for the model's device (`mathsft.device.device_defaults`).

    The logged ``loss`` is per item of the objective, and ``nan`` if it is not finite;
    ``tokens_per_second`` does not count padding, nor the time of evaluation and saving.
    The same seed and data give the same adapters bit for bit on a CPU.

    Raises ValueError if ``objective`` is not one (`mathsft.objectives.check_objective`), if the
    model has nothing to train, if no row is left, or if the attention implementation is not known
    to keep sequences apart; also for an argument that would change nothing
    (`mathsft.training.arguments.refused_arguments`), or a number that makes no sense, such as
    -1 epochs (`mathsft.checks`).
    """
    check_objective(objective)
    refuse_arguments(arguments)
    check_evaluation(arguments, rows=eval_rows)
    check_compile(compile)
    check_numbers({"max_length": max_length, "step_rows": step_rows})
    settings = {**DEFAULTS, **objective.defaults, **arguments}
    settings = divided_for(
        model, objective, settings, given=arguments, step_rows=step_rows, max_length=max_length
    )
    args = training_arguments(model, output_dir=str(output_dir), **settings)
    checked = trainer_arguments(model, args)
    if getattr(objective, "on_policy", False):
        raise ValueError(
            f"{objective.name}: on_policy lets the model write the texts: use rollout_trainer"
        )
    asked = teacher_of(objective, model, tokenizer, teacher, max_length=max_length)

    def read(rows: Rows, name: str) -> Any:
        encode = partial(
            training_rows,
            rows,
            tokenizer,
            objective,
            max_length=max_length,
            positions=position_limit(model.config),
            name=name,
        )
        if not getattr(rows, "cache_files", None):
            made = encode()  # not on disk, so other processes could not find it
        else:
            made = first_before_others(encode, device=next(model.parameters()).device.type)
        return asked.with_places(made) if isinstance(asked, StoredTeacher) else made

    train_dataset = read(rows, "train")
    eval_dataset: Any = None
    if isinstance(eval_rows, Mapping):  # several tests, each with a name in the log
        eval_dataset = {name: read(part, f"eval {name}") for name, part in eval_rows.items()}
    elif eval_rows is not None:
        eval_dataset = read(eval_rows, "eval")
    collate = Collator(objective, pad_token_id=pad_token(tokenizer), max_length=max_length)
    with nothing_left(output_dir), renaming_notices_off():
        return ForestTrainer(
            model,
            objective,
            collate=collate,
            reference=reference,
            teacher=asked,
            compile=compile,
            args=checked,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            callbacks=callbacks,
        )


def sft_trainer(
    model: Any,
    tokenizer: Any,
    problems: Rows,
    *,
    output_dir: str | Path,
    eval_problems: Rows | None = None,
    max_length: int = 512,
    packing: bool = True,
    train_on_prompt: bool = False,
    callbacks: list[Any] | None = None,
    **arguments: Any,
) -> ForestTrainer:
    """`make_trainer` for `SFT`: trains worked solutions, conversations and prompts.

    Args:
        model: with or without an adapter (`make_trainer`).
        tokenizer: the model's own.
        problems: rows of `load_problems`: problems, conversations or prompts.
        output_dir: the folder for checkpoints, logs and samples.
        eval_problems: the rows that ``.evaluate()`` uses.
        max_length: tokens of a row; anything longer is dropped and counted, never cut.
        packing: put several documents into a row, isolated from each other; False: one per row.
        train_on_prompt: put a loss on the question as well.
        callbacks: such as `persist` and `show_samples`.
        arguments: fields of `transformers.TrainingArguments`. Defaults besides those of
            `make_trainer`: ``per_device_train_batch_size`` 4, ``lr_scheduler_type`` "cosine",
            ``max_grad_norm`` 0.3 (QLoRA's).

    The logged ``loss`` is per trained token. Raises what `make_trainer` raises.
    """
    return make_trainer(
        model,
        tokenizer,
        problems,
        SFT(packing=packing, train_on_prompt=train_on_prompt),
        output_dir=output_dir,
        eval_rows=eval_problems,
        max_length=max_length,
        callbacks=callbacks,
        **arguments,
    )


def multiple_choice_trainer(
    model: Any,
    tokenizer: Any,
    problems: Rows,
    *,
    output_dir: str | Path,
    eval_problems: Rows | None = None,
    max_length: int = 512,
    normalization: Normalization = "none",
    temperature: float = 1.0,
    callbacks: list[Any] | None = None,
    **arguments: Any,
) -> ForestTrainer:
    """`make_trainer` for `MultipleChoice`: trains the choices' log-likelihoods.

    Args:
        model: with or without an adapter (`make_trainer`).
        tokenizer: the model's own.
        problems: rows of `load_problems` with ``choices``, 2 or more, and a ``label``.
        output_dir: the folder for checkpoints and logs.
        eval_problems: the rows that ``.evaluate()`` uses for ``eval_loss`` and ``eval_accuracy``.
        max_length: tokens of a row, which several questions share; a longer question is dropped
            and counted.
        normalization: divide a choice's log-probability by its number of "tokens", or of
            "characters" as the harness's ``acc_norm`` does. The default "none" compares sums, as
            the harness's ``acc`` does.
        temperature: of the softmax over choices. Above 1, a question is still trained when the
            model answers it correctly by a wide margin.
        callbacks: such as `persist`.
        arguments: fields of `transformers.TrainingArguments`. Defaults besides those of
            `make_trainer`: ``per_device_train_batch_size`` 16, questions with all their choices;
            ``lr_scheduler_type`` "linear"; ``max_grad_norm`` 1.0.

    The loss is per question; for five choices, a loss of ln 5 = 1.61 is chance. Raises what
    `make_trainer` and `MultipleChoice` raise.
    """
    return make_trainer(
        model,
        tokenizer,
        problems,
        MultipleChoice(normalization=normalization, temperature=temperature),
        output_dir=output_dir,
        eval_rows=eval_problems,
        max_length=max_length,
        callbacks=callbacks,
        **arguments,
    )
