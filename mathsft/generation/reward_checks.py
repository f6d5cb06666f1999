"""Test a judge before it trains a model: on completions that are known to be right or wrong."""

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any, Literal

from mathsft.checks import Rule, check_number, unknown_name
from mathsft.data.answers import reference_answer, split_final_line
from mathsft.data.given import check_column, check_rows
from mathsft.generation.reward_calls import call_reward, reward_name

_ALLOWED = Rule(lambda value: 0 <= value <= 1, "a share, 0 or more and at most 1")
_MARKED = {
    "hashes": "{work}\n#### {answer}",
    "boxed": "{work}\n\\boxed{{{answer}}}",
    "think": "<think>\n{work}\n</think>\n<answer>{answer}</answer>",
}


def known_completions(row: Mapping[str, Any], style: str = "hashes") -> dict[str, str]:
    """A right completion of a problem, and wrong ones with which models have fooled judges.

    "right" is the worked solution with its answer. The wrong ones: "wrong number" (1 more),
    "empty", "five answers" (the right one and four others, each marked), and "repeated" (the right
    one twice, with all its tags).

    Args:
        row: a problem with ``answer``, and its worked text in ``solution`` or in ``answer``.
        style: how the answer is marked; see `mathsft.generation.rewards.AnswerFormat`.

    Raises ValueError for an unknown style, and for an answer that is not one number.
    """
    if style not in _MARKED:
        raise ValueError(unknown_name("answer format", style, _MARKED))
    check_column(row, "answer", where="known_completions")
    answer = reference_answer(row["answer"])
    work = row.get("solution") or split_final_line(str(row["answer"]))[0] or "I calculate."
    others = [Fraction(answer) + more for more in range(1, 5)]

    def marked(given: Any) -> str:
        return _MARKED[style].format(work=work, answer=given)

    return {
        "right": marked(answer),
        "wrong number": marked(others[0]),
        "empty": "",
        "five answers": "\n".join(marked(given) for given in (answer, *others)),
        "repeated": "\n".join([marked(answer)] * 2),
    }


def check_judge(
    reward: Callable[..., Any],
    rows: Iterable[Mapping[str, Any]],
    *,
    style: Literal["hashes", "boxed", "think"] = "hashes",
    allowed: float = 0.0,
    tokenizer: Any = None,
) -> dict[str, float]:
    """Judge `known_completions`; return, for each wrong kind, the share that is not below right.

    Args:
        reward: what is to be tested: a reward of this package, or any with TRL's signature.
        rows: problems; all their columns are given to the reward.
        style: how the answers are marked.
        allowed: the largest share that passes. 0 for rules. A reward model makes mistakes: give 1
            to read its shares, and then decide.
        tokenizer: for rewards that need ``completion_ids``; its stop token is added to them.

    Raises ValueError if there are no rows, or if a share is above ``allowed``, with an example.
    """
    check_number("allowed", allowed, _ALLOWED)
    check_rows(rows, name="check_judge")
    cases = []
    for place, row in enumerate(rows):
        check_column(row, "answer", where=f"check_judge, row {place}")
        cases.append((row, known_completions(row, style)))
    if not cases:
        raise ValueError("check_judge: give at least one row")
    columns: dict[str, Any] = {key: [row[key] for row, _ in cases] for key in cases[0][0]}
    columns.update(prompts=columns.get("question"), ended=[True] * len(cases))
    rewards = {}
    for kind in cases[0][1]:
        completions = [texts[kind] for _, texts in cases]
        if tokenizer is not None:
            encoded = tokenizer(completions, add_special_tokens=False)["input_ids"]
            columns["completion_ids"] = [[*ids, tokenizer.eos_token_id] for ids in encoded]
        rewards[kind] = call_reward(reward, completions=completions, **columns)
    right = rewards.pop("right")
    shares = {}
    for kind, values in rewards.items():
        fooled = [n for n, value in enumerate(values) if value >= right[n]]
        shares[kind] = len(fooled) / len(cases)
        if shares[kind] > allowed:
            n = fooled[0]
            raise ValueError(
                f"the judge {reward_name(reward)!r} gives a wrong completion at least as much as "
                f"the right one, in {len(fooled)} of {len(cases)} rows of kind {kind!r}. Row {n}: "
                f"{values[n]:g} for {cases[n][1][kind]!r:.60}, {right[n]:g} for "
                f"{cases[n][1]['right']!r:.60}"
            )
    return shares
