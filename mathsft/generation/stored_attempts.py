"""A model's attempts in a file: sampled and judged once, learned from as often as one likes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mathsft.checks import at_least, check_number
from mathsft.generation.judged import judged_lines, reward_about
from mathsft.generation.rollouts import Completion
from mathsft.processes import say


def store_attempts(
    model: Any,
    tokenizer: Any,
    rows: Any,
    reward: Callable[..., list[float]],
    *,
    output: str | Path,
    num_generations: int = 8,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    batch_size: int = 512,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Sample answers to each row's prompt, judge them, and keep all of them: groups.

    The rows that it returns have ``id``, ``prompt``, ``completions``, ``rewards`` and ``ended``
    (whether an answer stopped by itself). `GPO`, `GRPO` and other policy objectives train on them;
    `mathsft.data.group_pairs.pairs_from_groups` makes pairs of them for `DPO`. The file holds the
    same: ``load_problems(output)`` reads it, and so does ``mathsft train --train.source``.

    Args:
        model: writes the answers.
        tokenizer: the model's tokenizer.
        rows: problems (the prompt is `sft_prompt` of ``question``), or rows with a ``prompt`` as
            text. An ``id`` (text or whole number) identifies a row in the file; default: the
            row's number.
        reward: scores answers, as in TRL (`mathsft.generation.reward_calls`). It gets the rows'
            other columns too, of a block of rows at a time: it must not depend on other rows.
        output: the file of JSON lines, such as ``attempts.jsonl``; missing folders are created.
        num_generations: answers per row.
        temperature: as in `sample_groups`. 1 samples from the model itself.
        top_p: as in `sample_groups`.
        max_new_tokens: as in `sample_groups`. An answer that is cut is kept, with ``ended`` false.
        batch_size: answers that are written at once; it does not change them.
        seed: the same seed and rows give the same answers.

    If the file exists, its rows are kept and the others are sampled; a half last line is removed.
    In several processes (torchrun), call it in each.

    Raises what `rejection_sampling` raises.
    """
    check_number("num_generations", num_generations, at_least(1))
    judged = judged_lines(
        model, tokenizer, rows, reward, _answers, kind="stored attempts", output=output,
        settings={"reward": reward_about(reward)}, num_generations=num_generations,
        temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    answers = sum(len(line["completions"]) for line in judged.lines)
    cut = sum(line["ended"].count(False) for line in judged.lines)
    equal = sum(min(line["rewards"]) == max(line["rewards"]) for line in judged.lines)
    told = f"stored attempts: {len(judged.lines):,} groups, {answers:,} answers, {cut:,} cut; "
    told += f"{equal:,} groups with equal rewards"
    told += f"; {judged.repaired:,} lines repaired" * bool(judged.repaired)
    say(told + f"; {judged.others:,} other rows in the file" * bool(judged.others))
    return judged.lines


def _answers(group: Sequence[Completion], rewards: Sequence[float]) -> dict[str, Any]:
    return {
        "completions": [answer.text for answer in group],
        "ended": [answer.ended for answer in group],
    }
