"""Rejection sampling: from several samples per prompt, the best and the worst one as a pair.

The results are written to a file of JSON lines while they are made: for each row its pair, or the
reason why it has none (`mathsft.generation.journal`). If the work is interrupted, the same call
continues with the rows that are not there yet, and the file becomes the same to the byte: a
sample depends on the seed, its row's number and its place among the row's samples
(`mathsft.generation.rollouts.sample_groups`), and the batches are the same.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mathsft.checks import AT_LEAST_0, at_least, check_number
from mathsft.data.given import check_row, check_rows, reading_advice
from mathsft.data.pairs import pairs_from
from mathsft.data.prompts import sft_prompt
from mathsft.generation.journal import add_lines, open_journal
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
from mathsft.processes import in_first, processes, say

TIE = "all rewards are equal"
SMALL = "the best reward is above the worst by at most min_gap"
DISPUTED = "equal answers have different rewards"
FEW = "fewer than two answers are whole"
_PAIR_COLUMNS = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected", "id")
# A reward gets these under TRL's names.
_NOT_COLUMNS = {"prompt", "prompts", "completion", "completions", "completion_ids", "ended"}
_Row = tuple[Any, str, Mapping[str, Any]]  # its id, its prompt, and all cells


@dataclass(frozen=True)
class Selection:
    """Preference rows, which `DPO` can train on, and how many rows and answers became what.

    ``counts``: "rows" that were given, "pairs", each reason why a row has no pair, "answers cut"
    and "answers empty" (they take no part), "lines repaired" in this call, and "other rows in the
    file" (not given to this call). Except for the first two, a count of 0 is left out.
    """

    rows: list[dict[str, Any]]
    counts: dict[str, int]


def rejection_sampling(
    model: Any,
    tokenizer: Any,
    rows: Any,
    reward: Callable[..., list[float]],
    *,
    output: str | Path,
    num_generations: int = 8,
    min_gap: float = 0.0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    batch_size: int = 512,
    seed: int = 0,
) -> Selection:
    """Sample answers to each row's prompt, and pair the best with the worst one.

    Args:
        model: writes the answers.
        tokenizer: the model's tokenizer.
        rows: problems (the prompt is `sft_prompt` of ``question``), or rows with a ``prompt`` as
            text. An ``id`` (text or whole number) identifies a row in the file; default: the
            row's number.
        reward: scores answers, as in TRL (`mathsft.generation.reward_calls`). It gets the rows'
            other columns too, of a block of rows at a time: it must not depend on other rows.
        output: the file of JSON lines, such as ``pairs.jsonl``; missing folders are created.
        num_generations: answers per row, 2 or more.
        min_gap: the best reward must be above the worst by more than this, as in `pairs_from`.
        temperature: as in `sample_groups`. 1 gives the most different answers.
        top_p: as in `sample_groups`.
        max_new_tokens: as in `sample_groups`. An answer that is cut takes no part in a pair,
            because training would add a stop token to it.
        batch_size: answers that are written at once; it does not change them.
        seed: the same seed and rows give the same answers.

    Each line has ``id``, ``prompt``, all ``rewards``, and how many answers were ``cut`` or
    ``empty``; then ``chosen``, ``rejected`` and their scores, or ``skipped``, the reason why there
    is no pair. Of equal rewards the earlier answer is taken.

    If the file exists, its rows are kept and the others are sampled; a half last line is removed.
    In several processes (torchrun), call it in each.

    Raises ValueError for an impossible number; rows without a prompt, or two with the same id; a
    file that is in use, is broken elsewhere, was not written by this function, or has another
    setting (reward, weights and tokenizer count too) or another prompt for an id. An error of the
    reward is raised as it is; the rows before its block are in the file.
    """
    check_number("num_generations", num_generations, at_least(2))
    check_number("min_gap", min_gap, AT_LEAST_0)
    check_rows(rows, name="rejection_sampling")
    path, given = Path(output), _given(rows)
    if not given:
        raise ValueError("rejection_sampling: there are no rows")
    sampling: dict[str, Any] = {
        "num_generations": num_generations, "temperature": temperature, "top_p": top_p,
        "max_new_tokens": max_new_tokens, "seed": seed,
    }  # fmt: skip
    settings = {
        **sampling, "min_gap": min_gap, "reward": reward_about(reward), "model": model_hash(model),
        "tokenizer": json_hash(tokenizer_values(tokenizer))[:16],
    }  # fmt: skip
    device = model.device.type
    with claimed_file(path, device=device):
        begin = partial(open_journal, path, settings, kind="rejection sampling")
        done, repaired = in_first(begin, device=device)
        for key, prompt, _ in given:
            if (there := done.get(key, {}).get("prompt", prompt)) != prompt:
                raise ValueError(
                    f"{path}: the row with id {key!r} has another prompt there: {there!r:.60}, now "
                    f"{prompt!r:.60}. Give another output"
                )
        state = processes(device)
        starts = range(0, len(given), max(1, batch_size * state.num_processes // num_generations))
        for start in tqdm(starts, desc="blocks", leave=False, disable=not state.is_main_process):
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
            lines = in_first(partial(_judged, block, groups, reward, min_gap), device=device)
            new = {line["id"]: line for line in lines if line["id"] not in done}
            in_first(partial(add_lines, path, [*new.values()]), device=device)
            done |= new
    found = _selection(given, done, repaired)
    say(f"rejection sampling: {', '.join(f'{n:,} {name}' for name, n in found.counts.items())}")
    return found


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
        key = number if row.get("id") is None else row["id"]
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise ValueError(
                f"row {number}, column 'id': expected text or a whole number, found {key!r:.40}"
            )
        if key in places:
            raise ValueError(
                f"rows {places[key]} and {number} have the same id, {key!r}: each row needs its own"
            )
        name = "question" if row.get("question") is not None else "prompt"
        text = row.get(name)
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"row {number}: expected a text in 'question' or 'prompt', found {text!r:.40}. "
                f"Render messages with apply_chat_template(…, tokenize=False){reading_advice(row)}"
            )
        places[key] = number
        found.append((key, sft_prompt(text) if name == "question" else text, row))
    return found


def _judged(
    block: Sequence[_Row],
    groups: Sequence[Sequence[Completion]],
    reward: Callable[..., Any],
    min_gap: float,
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
        lines.append(made | _pair(group, own, min_gap))
    return lines


def _pair(group: Sequence[Completion], rewards: Sequence[float], min_gap: float) -> dict[str, Any]:
    """The best and the worst answer with their rewards, or the reason why there is no pair."""
    scored = [(answer, score) for answer, score in zip(group, rewards, strict=True) if answer.ended]
    whole = [(answer.text, score) for answer, score in scored if answer.text.strip()]
    texts, scores = [text for text, _ in whole], [score for _, score in whole]
    made: dict[str, Any] = {"cut": len(group) - len(scored), "empty": len(scored) - len(whole)}
    if len(whole) < 2:
        return {**made, "skipped": FEW}
    if max(scores) == min(scores):
        return {**made, "skipped": TIE}
    pairs = pairs_from(texts, scores, keep=1, min_gap=min_gap)
    if not pairs:
        return {**made, "skipped": SMALL if pairs_from(texts, scores, keep=1) else DISPUTED}
    given = {f"score_{side}": scores[texts.index(text)] for side, text in pairs[0].items()}
    return made | pairs[0] | given


def _selection(given: Sequence[_Row], done: Mapping[Any, Any], repaired: int) -> Selection:
    lines = [done[key] for key, _, _ in given]
    rows = [{name: line[name] for name in _PAIR_COLUMNS} for line in lines if "chosen" in line]
    maybe = {
        **Counter(line["skipped"] for line in lines if "skipped" in line),
        "answers cut": sum(line["cut"] for line in lines),
        "answers empty": sum(line["empty"] for line in lines),
        "lines repaired": repaired,
        "other rows in the file": len(done) - len(lines),
    }
    counts = {name: n for name, n in maybe.items() if n}
    return Selection(rows, {"rows": len(lines), "pairs": len(rows), **counts})
