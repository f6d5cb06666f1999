"""How much better an answer is than others: what policy losses weigh it with."""

import math
from collections.abc import Sequence
from statistics import fmean, pstdev, stdev
from typing import Literal

Baseline = Literal["none", "group", "leave_one_out", "batch"]
Scale = Literal["none", "group", "group_population", "batch"]
_WITHIN = {"group": stdev, "group_population": pstdev}


def fewest_answers(baseline: Baseline, scale_rewards: Scale) -> int:
    """How many answers a group must have: one cannot be compared with itself."""
    return 2 if baseline in ("group", "leave_one_out") or scale_rewards in _WITHIN else 1


def advantages(
    rewards: Sequence[Sequence[float]], *, baseline: Baseline, scale_rewards: Scale
) -> list[list[float]]:
    """How much better each answer is than its baseline: (r - baseline) / scale, group by group.

    Args:
        rewards: for each prompt the rewards of its answers.
        baseline: "none": 0; "group": the mean of the answer's group; "leave_one_out": the mean of
            the *other* answers in its group; "batch": the mean of all rewards here.
        scale_rewards: "none": 1; "group": the standard deviation of the group, with n - 1 in the
            denominator; "group_population": the same with n; "batch": that of all rewards here,
            with n - 1. As in TRL, 1e-4 is added to it.

    Raises ValueError if a group is too small for its baseline or its scale.
    """
    every = [reward for group in rewards for reward in group]
    least = fewest_answers(baseline, scale_rewards)
    for index, group in enumerate(rewards):
        if len(group) < least:
            raise ValueError(
                f"group {index} has {len(group)} answers: baseline={baseline!r} with scale_rewards="
                f"{scale_rewards!r} compares the answers of a group, and needs 2 or more"
            )
    overall = fmean(every) if baseline == "batch" and every else 0.0
    spread = stdev(every) if scale_rewards == "batch" and len(every) > 1 else 0.0
    found = []
    for group in rewards:
        mean = {"none": 0.0, "batch": overall}.get(baseline, fmean(group))
        scale = 1.0
        if scale_rewards != "none":
            within = _WITHIN.get(scale_rewards)
            scale = (spread if within is None else within(group)) + 1e-4
        if baseline == "leave_one_out":  # r - mean of the others
            scale *= (len(group) - 1) / len(group)
        same = baseline in ("group", "leave_one_out") and min(group) == max(group)
        # The mean of equal numbers may be off in the last digit.
        found.append([0.0 if same else (reward - mean) / scale for reward in group])
    return found


def has_signal(rewards: Sequence[float]) -> bool:
    """Whether the answers of a group have different rewards, so that it teaches something."""
    return not math.isclose(min(rewards), max(rewards), rel_tol=0, abs_tol=1e-9)
