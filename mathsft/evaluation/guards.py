"""Checks that a comparison compares what it says."""

from collections.abc import Sequence


def check_tuned(
    base_scores: Sequence[Sequence[float]], tuned_scores: Sequence[Sequence[float]]
) -> None:
    """Raise unless the tuned model's scores differ somewhere from those of its base.

    Both are what `choice_logprobs` gives for the same problems: one list of log-probabilities
    in nats for each problem. Training moves every weight of an adapter, so at least one score
    moves by more than nothing; scores that are all equal, to the last bit, are the base's own.

    Raises:
        ValueError: every score is equal, there is none, or the two do not hold the same number of
            problems and of choices in each.
    """
    if len(base_scores) != len(tuned_scores):
        raise ValueError(
            f"{len(base_scores)} problems were scored with the base, {len(tuned_scores)} with the "
            "tuned model: score the same problems with both"
        )
    for index, (base, tuned) in enumerate(zip(base_scores, tuned_scores, strict=True)):
        if len(base) != len(tuned):
            raise ValueError(
                f"problem {index} has {len(base)} scores of the base and {len(tuned)} of the tuned "
                "model: score the same problems with both"
            )
    count = sum(map(len, base_scores))
    if not count:
        raise ValueError("there is no score to compare")
    if all(list(b) == list(t) for b, t in zip(base_scores, tuned_scores, strict=True)):
        raise ValueError(
            f"all {count:,} scores of the tuned model are exactly those of the base, so what was "
            "scored is the base: the adapter was not in the model, or was never trained. It "
            "happens where peft only warns that an adapter's keys fit nothing (the model was "
            "wrapped twice: get_peft_model, or add_adapter's notebook cell, run again), or where "
            "the base was given twice. Train with one add_adapter on a freshly loaded base, save "
            "with save_adapter, and load with load_adapter, which checks the keys"
        )
