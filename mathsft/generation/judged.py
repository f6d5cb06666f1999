"""Sampled and judged answers to many rows, written to a file while they are made.

If the work is interrupted, the same call continues with the rows that are not there yet, and the
file becomes the same to the byte: a sample depends on the seed, its row's number and its place
among the row's samples (`mathsft.generation.rollouts.sample_groups`), and the batches are the same.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mathsft.bars import progress
from mathsft.data.given import check_row, check_rows, reading_advice
from mathsft.data.prompts import sft_prompt
from mathsft.generation.journal import add_lines, open_journal, unique_id
from mathsft.generation.reward_calls import call_reward, reward_name
from mathsft.generation.rollouts import Completion, sample_groups
from mathsft.in_use import claimed_file
from mathsft.models.computation import (
    adapter_layers,
    base_and_adapter,
    config_values,
    json_hash,
    plain,
    tensors_hash,
)
from mathsft.models.encoding import tokenizer_values
from mathsft.processes import in_first, processes

Line = Callable[[Sequence[Completion], Sequence[float]], Mapping[str, Any]]
# A reward gets these under TRL's names.
_NOT_COLUMNS = {"prompt", "prompts", "completion", "completions", "completion_ids", "ended"}
_Row = tuple[Any, str, Mapping[str, Any]]  # its id, its prompt, and all cells


@dataclass(frozen=True)
class Judged:
    """``lines``: one for each row, in their order. ``others``: lines of the file for other rows.

    ``repaired``: 1 if a half last line was removed from the file, else 0.
    """

    lines: list[dict[str, Any]]
    others: int
    repaired: int


def judged_lines(
    model: Any,
    tokenizer: Any,
    rows: Any,
    reward: Callable[..., list[float]],
    line: Line,
    *,
    kind: str,
    output: str | Path,
    settings: Mapping[str, Any],
    batch_size: int,
    **sampling: Any,
) -> Judged:
    """Sample answers to each row's prompt, judge them, and write ``line`` of them to a file.

    Args:
        rows: problems (the prompt is `sft_prompt` of ``question``), or rows with a ``prompt`` as
            text. An ``id`` (text or whole number) identifies a row in the file; default: the
            row's number.
        reward: scores answers (`mathsft.generation.reward_calls`), a block of rows at a time.
        line: from a row's answers and their rewards, what the file keeps besides ``id``,
            ``prompt`` and ``rewards``.
        kind: which work the file belongs to (`mathsft.generation.journal`).
        settings: what the lines depend on besides the model and the sampling: the reward, at least
            (`reward_about`).
        sampling: the other arguments of `sample_groups`.

    In several processes (torchrun), call it in each. Raises ValueError for rows without a prompt,
    or two with the same id; a file that is in use, is broken, is of another kind, or has another
    setting or another prompt for an id. An error of the reward is raised as it is; the rows before
    its block are in the file.
    """
    name = kind.replace(" ", "_")
    check_rows(rows, name=name)
    path, given = Path(output), _given(rows)
    if not given:
        raise ValueError(f"{name}: there are no rows")
    settings = {
        **sampling, **settings, "model": model_hash(model),
        "tokenizer": json_hash(tokenizer_values(tokenizer))[:16],
    }  # fmt: skip
    device = model.device.type
    with claimed_file(path, device=device):
        begin = partial(open_journal, path, settings, kind=kind)
        done, repaired, _ = in_first(begin, device=device)
        for key, prompt, _ in given:
            if (there := done.get(key, {}).get("prompt", prompt)) != prompt:
                raise ValueError(
                    f"{path}: the row with id {key!r} has another prompt there: {there!r:.60}, now "
                    f"{prompt!r:.60}. Give another output"
                )
        state = processes(device)
        each = sampling["num_generations"]
        starts = range(0, len(given), max(1, batch_size * state.num_processes // each))
        for start in progress(starts, desc="blocks", disable=not state.is_main_process):
            block = given[start : start + starts.step]
            if all(key in done for key, _, _ in block):
                continue
            # The whole block, even if some of its rows are there: other batches round differently.
            groups = sample_groups(
                model,
                tokenizer,
                [prompt for _, prompt, _ in block],
                batch_size=batch_size,
                numbers=range(start, start + len(block)),
                **sampling,
            )
            lines = in_first(partial(_judged, block, groups, reward, line), device=device)
            new = {made["id"]: made for made in lines if made["id"] not in done}
            in_first(partial(add_lines, path, [*new.values()]), device=device)
            done |= new
    return Judged([done[key] for key, _, _ in given], len(done) - len(given), repaired)


def reward_about(reward: Callable[..., Any]) -> str:
    """A reward's name, and its settings if it is a dataclass, as rewards of this package are."""
    return reward_name(reward) + (f" {json.dumps(plain(reward))}" if is_dataclass(reward) else "")


def model_hash(model: Any) -> str:
    """Return 16 letters that differ if a model's weights, adapter or configuration differ."""
    tensors = [tensors_hash(part.items()) for part in base_and_adapter(model)]
    return json_hash([config_values(model.config), adapter_layers(model), tensors])[:16]


def _given(rows: Any) -> list[_Row]:
    """Return each row's id, its prompt and the row itself."""
    found: list[_Row] = []
    places: dict[Any, int] = {}
    for number, row in enumerate(rows):
        check_row(row, where=f"row {number}")
        key = unique_id(row.get("id"), number, places)
        name = "question" if row.get("question") is not None else "prompt"
        text = row.get(name)
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"row {number}: expected a text in 'question' or 'prompt', found {text!r:.40}. "
                f"Render messages with apply_chat_template(…, tokenize=False){reading_advice(row)}"
            )
        found.append((key, sft_prompt(text) if name == "question" else text, row))
    return found


def _judged(
    block: Sequence[_Row],
    groups: Sequence[Sequence[Completion]],
    reward: Callable[..., Any],
    line: Line,
) -> list[dict[str, Any]]:
    """Return the block's lines for the file."""
    pairs = zip(block, groups, strict=True)
    every = [(prompt, row, answer) for (_, prompt, row), group in pairs for answer in group]
    names = dict.fromkeys(name for _, _, row in block for name in row if name not in _NOT_COLUMNS)
    columns: dict[str, Any] = {name: [row.get(name) for _, row, _ in every] for name in names}
    scores = call_reward(
        reward,
        prompts=[prompt for prompt, _, _ in every],
        completions=[answer.text for _, _, answer in every],
        completion_ids=[answer.input_ids for _, _, answer in every],
        ended=[answer.ended for _, _, answer in every],
        **columns,
    )
    lines = []
    for (key, prompt, _), group in zip(block, groups, strict=True):
        own, scores = scores[: len(group)], scores[len(group) :]
        made = {"id": key, "prompt": prompt, "rewards": own}
        lines.append({**made, **line(group, own)})
    return lines
