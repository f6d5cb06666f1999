"""Ending a training when the test gets no better, with all that transformers needs for it."""

from typing import Any

from transformers import EarlyStoppingCallback

from mathsft.processes import say


def early_stopping(
    settings: dict[str, Any], objective: str, *, evaluates: bool
) -> list[EarlyStoppingCallback]:
    """transformers' callback if it is asked for; its keys leave ``settings``, its needs go in.

    Needed are evaluations, which only the user can choose, and the best checkpoint: the loss of
    the test decides unless ``metric_for_best_model`` says otherwise, and what is evaluated is
    saved.
    """
    patience = settings.pop("early_stopping_patience", None)
    threshold = settings.pop("early_stopping_threshold", None)
    if patience is None:
        if threshold is not None:
            raise ValueError(f"{objective}.early_stopping_threshold wants early_stopping_patience")
        return []
    if not evaluates:
        raise ValueError(
            f"{objective}.early_stopping_patience counts evaluations: give {objective}."
            "eval_strategy (steps, with eval_steps, or epoch)"
        )
    strategy = settings["eval_strategy"]
    if settings.get("save_strategy", "no") == "no":
        settings["save_strategy"] = strategy
        if strategy == "steps":
            every = settings.get("eval_steps") or settings.get("logging_steps", 10)
            settings["save_steps"] = every
    settings.setdefault("load_best_model_at_end", True)
    settings.setdefault("metric_for_best_model", "loss")
    settings.setdefault("restore_callback_states_from_checkpoint", True)  # the count so far
    say(
        f"early stopping: after {patience} evaluations without a better "
        f"{settings['metric_for_best_model']} of the test"
        + "; the best checkpoint is what is kept"
        * settings["load_best_model_at_end"]
    )
    return [EarlyStoppingCallback(patience, threshold or 0.0)]
