"""The progress of training in a notebook: one line, in place of transformers' table of losses.

The table stays in the kept notebook without its script, so it is empty on a page; `plot_loss`
draws the losses.
"""

from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from mathsft.bars import in_notebook, progress


class TrainingLine(TrainerCallback):
    """Steps, time, time left and the last loss, in one line that is updated."""

    def __init__(self) -> None:
        self._training: Any = None
        self._evaluating: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        first = state.is_world_process_zero
        self._training = progress(
            desc="training", total=state.max_steps, delay=-1, disable=not first
        )
        self._training.update(state.global_step)  # of a run that is resumed

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._training is not None:
            self._training.update(state.global_step - self._training.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        found = {name: logs[name] for name in ("loss", "eval_loss") if name in (logs or {})}
        if self._training is not None and found:
            self._training.set_postfix(found, refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._training is not None:
            self._training.close()
        self._training = None

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if self._evaluating is None:
            total = len(eval_dataloader) if has_length(eval_dataloader) else None
            first = state.is_world_process_zero
            self._evaluating = progress(desc="evaluating", total=total, disable=not first)
        self._evaluating.update()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._evaluating is not None:
            self._evaluating.close()
        self._evaluating = None


def use_training_line(trainer: Any) -> None:
    """In a notebook, take the table of losses off this trainer and give it a line of progress."""
    if not in_notebook() or trainer.args.disable_tqdm:
        return
    from transformers.utils.notebook import NotebookProgressCallback

    for kind in (NotebookProgressCallback, TrainingLine):
        trainer.remove_callback(kind)
    trainer.add_callback(TrainingLine())


def lines_for_all_trainers() -> None:
    """In a notebook, give trainers of other libraries the line as well, such as TRL's."""
    from transformers import trainer

    trainer.DEFAULT_PROGRESS_CALLBACK = TrainingLine  # type: ignore[assignment]
