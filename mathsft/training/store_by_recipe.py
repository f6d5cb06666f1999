"""A teacher asked once about a recipe's rows: what ``mathsft store-teacher`` runs."""

from dataclasses import fields
from pathlib import Path

from mathsft.models.same_words import check_same_tokens
from mathsft.objectives.distillation import BASE, Distillation
from mathsft.training.preview import tokenizer_of
from mathsft.training.recipe_rows import Recipe, read_rows
from mathsft.training.teacher_store import store_teacher
from mathsft.training.teachers import loaded_teacher


def store_by_recipe(recipe: Recipe, path: str | Path) -> Path:
    """Store what the teacher of a recipe says about its rows, for ``teacher: FILE.safetensors``.

    Args:
        recipe: sections by name: ``model`` (only its tokenizer is loaded), ``train`` or ``mix``,
            ``test`` if the run evaluates, and ``distillation`` with ``teacher`` and ``top_k``.
            "base" is the model of the section ``model`` itself.
        path: the file to write, which ends with .safetensors.

    Raises what `store_teacher`, `load_model` and `load_problems` raise.
    """
    settings = recipe.get("distillation", {})
    own = {field.name for field in fields(Distillation)} & settings.keys()
    objective = Distillation(**{name: settings[name] for name in sorted(own)})
    model = recipe.get("model", {})
    train, test = read_rows(recipe, "distillation")
    tokenizer = tokenizer_of(model)
    name = model.get("name", "tiny") if objective.teacher == BASE else objective.teacher
    teacher, other = loaded_teacher(name, objective.teacher_adapter)
    check_same_tokens(tokenizer, other)
    rows = [*train, *(test or ())]
    return store_teacher(
        rows, tokenizer, teacher, path, objective=objective,
        max_length=settings.get("max_length", 512),
    )  # fmt: skip
