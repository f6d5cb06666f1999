"""The teacher of a training run: a second model, the model without its adapter, or a store."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from mathsft.models.adapters import load_adapter
from mathsft.models.attention import position_limit
from mathsft.models.computation import tensors_hash
from mathsft.models.loading import load_model
from mathsft.models.logprobs import SequenceLogprobs, sequence_logprobs
from mathsft.models.modes import evaluating
from mathsft.models.same_words import check_same_words
from mathsft.objectives.base import Objective
from mathsft.objectives.distillation import BASE
from mathsft.processes import say
from mathsft.training.batches import OF_TEACHER
from mathsft.training.reference import reference_model, trains_its_base
from mathsft.training.stored_teacher import StoredTeacher


@dataclass(frozen=True)
class Teacher:
    """A model that is asked in each step, without gradients, and stays as it is.

    ``model``: None stands for the trained model with its adapter switched off. ``identity`` is a
    part of a run's (`mathsft.training.runs`): its weights, or what else it is.
    """

    model: Any | None
    identity: str

    def logprobs(
        self, batch: Mapping[str, Tensor], *, trainer: Any, wrapped: Any
    ) -> SequenceLogprobs:
        """Its hidden states at the batch's scored tokens, to be read with `over_logits`."""
        own = {
            name.removeprefix(OF_TEACHER): tensor
            for name, tensor in batch.items()
            if name.startswith(OF_TEACHER)
        }
        if self.model is None:
            if own:
                own = trainer.shaped(own)
            with reference_model(trainer.model):
                return sequence_logprobs(trainer.model, own or batch, wrapped=wrapped, values=False)
        with evaluating(self.model), torch.no_grad():
            return sequence_logprobs(self.model, own or batch, values=False)


def teacher_of(
    objective: Objective,
    model: Any,
    tokenizer: Any,
    given: Any = None,
    *,
    max_length: int,
) -> Teacher | StoredTeacher | None:
    """The teacher that an objective asks for, checked against the model; None if it needs none.

    Args:
        objective: with ``teacher`` and ``teacher_adapter`` if it needs one.
        model: the model that is trained.
        tokenizer: the model's own.
        given: a loaded model, or a pair of a model and its tokenizer, in place of
            ``objective.teacher``.
        max_length: of a row; the teacher must be able to read it.

    Raises ValueError for a teacher with other words (`check_same_words`) or on another device, for
    one that would change during training, and for a store that does not fit (`StoredTeacher.of`);
    also what `load_model` and `load_adapter` raise.
    """
    if not objective.needs_teacher:
        if given is not None:
            raise ValueError(f"teacher: {objective.name} compares with no teacher")
        return None
    settings: Any = objective
    name, adapter = settings.teacher, settings.teacher_adapter
    if given is not None:
        if name != BASE or adapter:
            raise ValueError(
                "teacher: given twice, as a loaded model and by its name in the objective"
            )
        other, theirs = given if isinstance(given, tuple) else (given, None)
        return _live(other, theirs, model, tokenizer, max_length)
    if name == BASE:
        if adapter:
            raise ValueError("teacher_adapter: teacher='base' has no adapter: name its model too")
        if not isinstance(model, PeftModel) or trains_its_base(model):
            raise ValueError(
                "teacher='base': the teacher is the model with its adapter switched off, but "
                "weights of the base are trained here. Train an adapter (load_model(..., "
                "lora=True)), or name another model as the teacher"
            )
        say("teacher: the model with its adapter switched off")
        return Teacher(None, BASE)
    if Path(name).suffix == ".safetensors":
        if adapter:
            raise ValueError(f"teacher_adapter: {name} is a store, which has no adapter")
        return StoredTeacher.of(name, settings, model, tokenizer)
    return _live(*loaded_teacher(name, adapter, device=model.device), model, tokenizer, max_length)


def loaded_teacher(name: str, adapter: str | None, *, device: Any = None) -> tuple[Any, Any]:
    """A model by its folder or hub name, with an adapter if one is named, and its tokenizer."""
    loaded, tokenizer = load_model(name, device=device)
    return load_adapter(loaded, adapter) if adapter else loaded, tokenizer


def _live(teacher: Any, theirs: Any, model: Any, tokenizer: Any, max_length: int) -> Teacher:
    """A loaded teacher, checked."""
    if not hasattr(teacher, "get_output_embeddings"):
        raise ValueError(
            "teacher: expected a model, or a pair of a model and its tokenizer as load_model "
            f"returns it, found {teacher!r:.60}"
        )
    check_same_words(model, tokenizer, teacher, theirs)
    trained = {p.data_ptr() for p in model.parameters() if p.requires_grad}
    if any(p.data_ptr() in trained for p in teacher.parameters()):
        raise ValueError(
            "teacher: it shares weights with the model that is trained, so it would change. Load "
            "it again; teacher='base' is the model without its adapter"
        )
    if teacher.device != model.device:
        raise ValueError(
            f"teacher: it is on {teacher.device}, the model on {model.device}: move it there"
        )
    limit = position_limit(teacher.config)
    if limit is not None and limit < max_length - 1:
        raise ValueError(
            f"teacher: it reads {limit:,} positions, but a row may have {max_length:,} tokens: "
            f"give max_length={limit + 1}"
        )
    name = teacher.config.name_or_path or type(teacher).__name__
    count = sum(parameter.numel() for parameter in teacher.parameters())
    say(f"teacher: {name}, {count:,} parameters, asked in each step without gradients")
    return Teacher(teacher, tensors_hash(teacher.state_dict().items()))
