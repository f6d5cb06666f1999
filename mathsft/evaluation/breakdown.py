"""Where a model is right: accuracy by a property of the questions."""

from collections.abc import Sequence

from mathsft.data.overlap import Problems, overlap
from mathsft.evaluation.intervals import Accuracy, wilson
from mathsft.evaluation.results import Result

SEEN, UNSEEN = "template seen in training", "template not seen"
READ_ALIKE, GARBLED = "read alike", "garbled by the official reading"


def accuracy_by(
    result: Result, labels: Sequence[str] | None = None, *, metric: str = "acc"
) -> dict[str, Accuracy]:
    """Accuracy with its interval for each label, in the order of first appearance.

    ``metric`` is "acc" or "acc_norm". ``labels`` has one for each question; default: the
    questions' category (MathQA's are general, physics, gain, geometry, probability, other).
    What is left empty is "none".

    Raises ValueError where labels and questions differ in number.
    """
    if labels is None:
        labels = [question["category"] or "none" for question in result.questions]
    correct = result.correct(metric)
    if len(labels) != len(correct):
        raise ValueError(f"{len(labels):,} labels for {len(correct):,} questions of {result.name}")
    by_label: dict[str, list[bool]] = {}
    for label, right in zip(labels, correct, strict=True):
        by_label.setdefault(label, []).append(right)
    return {label: wilson(rights) for label, rights in by_label.items()}


def template_labels(result: Result, train: Problems) -> list[str]:
    """For each question whether a training row equals it but for its numbers: `SEEN`, `UNSEEN`.

    ``train`` is what the model was trained on: rows with a ``question`` (`load_problems`).
    """
    questions = [{"question": question["question"]} for question in result.questions]
    touched = overlap(train, questions).touched("template")
    return [SEEN if yes else UNSEEN for yes in touched]


def reading_labels(result: Result, clean: Result) -> list[str]:
    """For each question of a ``mathqa`` result whether both readings gave the same choices.

    ``clean`` is a result of the clean task over the same rows (any model's). What it left out,
    since nobody can read it, counts as garbled.
    """
    choices = {question["id"]: question["choices"] for question in clean.questions}
    return [
        READ_ALIKE if choices.get(question["id"]) == question["choices"] else GARBLED
        for question in result.questions
    ]
