"""From multiple-choice problems to batches: what is kept, and what a batch holds."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from mathsft.data.given import given_row
from mathsft.data.schemas import UnusableRowError
from mathsft.data.tally import not_read
from mathsft.models.forest import TokenForest
from mathsft.models.likelihood import encode_choices
from mathsft.processes import say
from mathsft.training.arguments import reasons


def multiple_choice_rows(
    problems: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    max_length: int = 512,
    positions: int | None = None,
    name: str = "train",
) -> Dataset:
    """Questions to train on, with one printed line: tokens passed, drops by reason.

    Columns ``input_ids, labels`` (a list for each choice: question and choice, the choice's
    tokens scored), ``characters`` (of each choice) and ``label`` (index of the right one).

    A question is dropped and counted where it has no choices or one, an empty choice, two
    equal ones, no known label, more than ``max_length`` tokens in the forest, or a choice that
    ends beyond the model's ``positions``; or where the row says not to train it
    (`mathsft.data.given`).
    Raises ValueError for a label that is none of the choices, for choices that are no list of
    texts, and where nothing is left.
    """
    dropped: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    usable = []
    for index, problem in enumerate(problems):
        counted: set[str] = set()
        try:
            if fault := _unusable(problem, index=index):
                raise UnusableRowError(fault)
            given_row(problem, where=f"problem {index}", counted=counted)
        except UnusableRowError as reason:
            dropped[str(reason)] += 1
            continue
        unread.update(counted)
        usable.append(problem)
    for line in not_read(unread):
        say(f"{name}: {line}")
    kept = []
    passed = separate = choices = 0
    for problem, group in zip(usable, encode_choices(tokenizer, usable), strict=True):
        if len({tuple(sequence["input_ids"]) for sequence in group}) < len(group):
            dropped["with two equal choices"] += 1  # as the tokenizer writes them
            continue
        tokens = TokenForest(group).tokens
        if tokens > max_length:
            dropped[f"longer than {max_length} tokens"] += 1
            continue
        longest = max(len(sequence["input_ids"]) for sequence in group)
        if positions is not None and longest - 1 > positions:  # the last is only predicted
            dropped[f"longer than the model's {positions:,} positions"] += 1
            continue
        passed += tokens
        separate += sum(len(sequence["input_ids"]) - 1 for sequence in group)
        choices += len(group)
        kept.append(
            {
                "input_ids": [sequence["input_ids"] for sequence in group],
                "labels": [sequence["labels"] for sequence in group],
                "characters": [len(choice) for choice in problem["choices"]],
                "label": problem["label"],
            }
        )
    if not kept:
        hint = ". add_choices makes choices for worked problems" * ("without choices" in dropped)
        raise ValueError(f"{name}: nothing to train on; dropped: {reasons(dropped)}{hint}")
    say(
        f"{name}: {len(kept):,} questions with {choices:,} choices, {passed:,} tokens in the "
        f"forest ({separate:,} with a pass for each choice, {separate / passed:.1f} times as "
        f"many); dropped: {reasons(dropped)}"
    )
    return Dataset.from_list(kept)


def _unusable(problem: Mapping[str, Any], *, index: int) -> str:
    """Why a question cannot be trained on, "" where it can."""
    choices, label = problem.get("choices"), problem.get("label")
    if problem.get("question") is None:
        raise ValueError(
            f"problem {index} is a conversation or a prompt, which has no choices to train: "
            f"sft_trainer takes it. Found {problem!r:.80}"
        )
    if (
        not isinstance(choices, list | tuple)
        or not all(isinstance(choice, str) for choice in choices)
        or not isinstance(label, int)
    ):
        raise ValueError(
            f"problem {index}: wanted choices, a list of texts, and label, a whole number; found "
            f"{choices!r:.60} and {label!r}: {problem.get('question')!r:.80}"
        )
    choices = [" ".join(choice.split()) for choice in choices]
    if not -1 <= label < max(1, len(choices)):
        raise ValueError(
            f"problem {index}: label {label}, but it has {len(choices)} choices (labels begin "
            f"at 0; -1 means unknown): {problem['question']!r:.80}"
        )
    if len(choices) < 2:
        return "with one choice" if choices else "without choices"
    if not all(choices):
        return "with an empty choice"
    if len(set(choices)) < len(choices):
        return "with two equal choices"
    return "without a label" if label < 0 else ""


def collate(
    questions: Sequence[Mapping[str, Any]], *, pad_token_id: int, max_length: int = 512
) -> dict[str, Tensor]:
    """A batch from rows of `multiple_choice_rows`: Q questions, S choices in all.

    ``labels`` (Q,); ``choice`` (Q, C), for each question the numbers of its choices, -1
    where it has fewer than C; ``tokens`` and ``characters`` (S,), each choice's length; and
    the tensors of the `TokenForest`.
    """
    groups = [
        [
            {"input_ids": ids, "labels": labels}
            for ids, labels in zip(question["input_ids"], question["labels"], strict=True)
        ]
        for question in questions
    ]
    forest = TokenForest.from_groups(groups, max_length=max_length)
    tensors = forest.tensors(pad_token_id=pad_token_id)
    numbers = iter(range(sum(map(len, groups))))
    most = max(map(len, groups))
    choice = [[next(numbers) for _ in group] + [-1] * (most - len(group)) for group in groups]
    return {
        "labels": torch.tensor([question["label"] for question in questions]),  # first: Trainer
        "choice": torch.tensor(choice),  # takes the batch's size from the first tensor
        "characters": torch.tensor([n for question in questions for n in question["characters"]]),
        "tokens": tensors["scored_tokens"].clamp(min=1),  # a filler's choice has none
        **tensors,
    }
