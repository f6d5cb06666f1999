"""Show what a recipe's rows become, token by token, before a model is loaded."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from statistics import median
from typing import Any

from datasets import Dataset

from mathsft.data.given import check_rows
from mathsft.data.rows import PROBLEM, kind_of
from mathsft.generation.reward_checks import check_judge
from mathsft.models.attention import position_limit
from mathsft.models.chat_template import set_chat_template
from mathsft.models.forest import IGNORE
from mathsft.models.model_files import checked_source
from mathsft.models.pretrained import load_tokenizer, model_config
from mathsft.objectives.asked import asked
from mathsft.objectives.base import Group, Objective
from mathsft.processes import say
from mathsft.training.rows import training_rows
from mathsft.training.sized import sized

_LOOKED_AT = 200  # rows
# Not trained, and trained: two shades each, to show where a token ends.
_COLOURS = {False: ("\x1b[0m", "\x1b[2m"), True: ("\x1b[30;42m", "\x1b[30;102m")}


def tokenizer_of(model: Mapping[str, Any]) -> Any:
    """The tokenizer that `load_model` gives for these arguments, without its model."""
    revision = model.get("revision")
    tokenizer = load_tokenizer(checked_source(model.get("name", "tiny"), revision), revision)
    if model.get("chat_template_path") is not None:
        set_chat_template(tokenizer, model["chat_template_path"])
    return tokenizer


def usable(rows: Any, tokenizer: Any, objective: Objective) -> list[tuple[int, Group]]:
    """Those of the first 200 rows that can be trained on, with their places.

    Raises what the objective raises for a row, such as one of another kind.
    """
    first = list(islice(rows, _LOOKED_AT))
    arrow = isinstance(rows, Dataset)
    groups = objective.groups(first, tokenizer, first=0, arrow=arrow)
    return [(place, group) for place, group in enumerate(groups) if not group.dropped]


def preview(
    rows: Any,
    test: Any,
    objective: Objective,
    *,
    model: Mapping[str, Any],
    max_length: int = 512,
    shown: int = 3,
) -> None:
    """Print the counts of the rows, and which tokens of the first rows are trained.

    Args:
        rows: what would be trained on.
        test: what would be evaluated, or None.
        objective: what the model would be trained for.
        model: the arguments of `load_model`. Its tokenizer is loaded, and its configuration, but
            none of its weights.
        max_length: tokens of a row.
        shown: how many rows are shown.

    On a terminal, trained tokens are green. Elsewhere, or if ``NO_COLOR`` is set, they are in
    ⟦ ⟧, with ``|`` between the others. What a sequence shares with the one before it is shown once.

    Raises what the objective and `load_tokenizer` raise.
    """
    check_rows(rows, name="preview")
    tokenizer = tokenizer_of(model)
    positions = position_limit(model_config(model.get("name", "tiny"), model.get("revision")))
    for part, given in (("train", rows), ("eval", test)):
        if given is not None:
            training_rows(
                given, tokenizer, objective, max_length=max_length, positions=positions, name=part
            )
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    say("trained tokens are " + ("green" if colour else "in ⟦ ⟧, others between |"))
    found = usable(rows, tokenizer, objective)
    objective.drop_long([group for _, group in found], max_length=max_length, positions=positions)
    if lengths := [group.length for _, group in found if group.length]:
        say(
            f"tokens of a row, in the first {len(lengths)}: {min(lengths)} to {max(lengths)}, "
            f"median {median(lengths):.0f}; max_length is {max_length}"
        )
    for place, group in [one for one in found if not one[1].dropped][:shown]:
        several = f", {len(group.sequences)} {objective.nouns[1]}" * (len(group.sequences) > 1)
        told = {key: v for key, v in group.columns.items() if key not in objective.unshown}
        about = "".join(f", {key} {value}" for key, value in told.items())
        say(f"\nrow {place + 1}{several}{about}")
        before: Sequence[int] = ()
        for sequence in group.sequences:
            ids = sequence["input_ids"]
            same = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), 0)
            say(("… " if same else "") + coloured(sequence, tokenizer, start=same, colour=colour))
            before = ids


def preview_memory(recipe: Mapping[str, Any], section: str, objective: type[Objective]) -> None:
    """Print an estimate of the memory of a training run, by parts.

    Args:
        recipe: sections by name.
        section: that of the training run.
        objective: of this section.

    A model whose configuration the arithmetic does not know gets a line that says so.
    """
    try:
        estimate = sized(recipe, section, objective, free=True)
        say(
            f"\nmemory, as an estimate:\n{replace(estimate.estimate(), verdict=estimate.verdict())}"
        )
    except ValueError as error:
        say(f"\nmemory: no estimate ({error})")


def preview_prompts(rows: Any, reward: Any, *, model: Mapping[str, Any], shown: int = 3) -> None:
    """Print the first prompts of a run that learns from its own attempts, and test the judge.

    Args:
        rows: what would be asked.
        reward: the judge, or None. If the rows are problems, it must tell right answers from wrong
            ones (`check_judge`).
        model: the arguments of `load_model`. Only its tokenizer is loaded.
        shown: how many prompts are shown.

    Raises what `asked` and `check_judge` raise.
    """
    tokenizer = tokenizer_of(model)
    first = list(islice(rows, _LOOKED_AT))
    for place, row in enumerate(first):
        found = asked(row, tokenizer, where=f"row {place + 1}", unanswered=True)
        if place < shown:
            text = tokenizer.decode(found["input_ids"])
            say(f"\nrow {place + 1}, {len(found['input_ids'])} tokens\n{text}")
    if reward is not None and first and kind_of(first[0]) is PROBLEM:
        check_judge(reward, first, tokenizer=tokenizer)
        say(f"the judge tells right answers to {len(first)} problems from wrong ones")


def coloured(
    sequence: Mapping[str, Sequence[int]], tokenizer: Any, *, start: int = 0, colour: bool
) -> str:
    """The tokens of a sequence from ``start`` on, as text that shows which are trained.

    The first token of a sequence is never trained: nothing comes before it.
    """
    pieces = []
    trained = [place > 0 and label != IGNORE for place, label in enumerate(sequence["labels"])]
    for place in range(start, len(trained)):
        text = _printable(tokenizer.decode([sequence["input_ids"][place]]))
        if colour:
            text = f"{_COLOURS[trained[place]][place % 2]}{text}\x1b[0m"
        elif trained[place]:
            text = f"⟦{text}⟧"
        pieces.append(text)
    if colour:
        return "".join(pieces)
    marks = ["" if a or b else "|" for a, b in pairwise(trained[start:])]
    return "".join(piece + mark for piece, mark in zip(pieces, [*marks, ""], strict=True))


def _printable(text: str) -> str:
    """Write out unprintable characters, so a row cannot move the cursor or change colours."""
    return "".join(c if c.isprintable() else "↵" if c == "\n" else repr(c)[1:-1] for c in text)
