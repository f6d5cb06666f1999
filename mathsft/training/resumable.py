"""transformers' Trainer with checkpoints that are complete, of this run, and found again."""

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import Trainer, TrainerState
from transformers.trainer_utils import TrainOutput

from mathsft.compat import optimizer_overrides_released, use_plain_cpu
from mathsft.files import write_whole
from mathsft.in_use import claimed
from mathsft.models.adapter_checks import check_restored
from mathsft.models.model_files import ADAPTER_WEIGHTS
from mathsft.processes import in_first, say
from mathsft.told import advice
from mathsft.training.checkpoints import (
    STATE,
    checkpoint_problem,
    checkpoints_in,
    newest_checkpoint,
    rotate,
    run_of,
)
from mathsft.training.leftovers import nothing_left
from mathsft.training.marks import Mark, mark_of, set_mark, trained_already
from mathsft.training.persist import Persistence
from mathsft.training.runs import run_differences, run_identity, start_hash
from mathsft.training.writing import repair_checkpoints, written


class ResumableTrainer(Trainer):
    """Its checkpoints record which run they belong to, and a manifest of their files.

    ``save_total_limit`` removes older ones of the run when the new one is complete. If another
    run's checkpoint already has the new one's name, it is kept in a folder ``run-…`` beside it.
    """

    def __init__(self, model: Any, *, args: Any, **arguments: Any) -> None:
        self._made_folder = not Path(args.output_dir).exists()  # transformers makes it now
        super().__init__(model, args=args, **arguments)

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """transformers' ``train``, except for ``resume_from_checkpoint``.

        True resumes from the newest complete checkpoint of this run, in ``output_dir`` or among
        the copies of `persist`. If there is none, training starts from step 0. A line says
        which, unless there was nothing to choose from. (transformers takes the highest number,
        half-written or not, and raises if there is none.) A path is used directly, if its
        checkpoint is complete. A run that had ended is not trained again: its weights and its
        log are loaded.

        Raises ValueError if the checkpoint of a path is not complete, FloatingPointError if a
        loss or a gradient is not finite, and OSError if a checkpoint cannot be written. Raises
        ValueError if another training uses ``output_dir`` (`mathsft.in_use`). If training fails
        before its first step, a folder that was made for it is removed.
        """
        device = self.args.device.type
        tidy = nothing_left(self._folder, made=self._made_folder, begun=self.has_begun)
        with tidy, claimed(self._folder, device=device):
            in_first(lambda: [*map(repair_checkpoints, self._places())], device=device)
            return self._trained(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def has_begun(self) -> bool:
        """Whether an optimiser step was made: there is something to lose."""
        return self.state.global_step > 0

    def _trained(self, resume: str | Path | bool | None, *arguments: Any) -> TrainOutput:
        self._run = run_identity(self)
        model: Any = self.model
        now = self._run["start"]
        mark = mark_of(model, now)
        found = self._resume_point(resume)
        if not found and mark and mark.steps + mark.before:
            say(trained_already(mark))
        done = False
        try:
            if found and self._had_ended(found):
                output = TrainOutput(self.state.global_step, float("nan"), {})
            else:
                start = str(found) if found else None
                with optimizer_overrides_released(model):
                    output = super().train(start, *arguments)
            done = True
        finally:  # record the weights before and after, in case this model is trained again
            # All processes hash shards together: one that failed alone would wait for the others.
            if done or self.args.world_size == 1:
                self._mark(mark, now, found)
        return output

    def _mark(self, former: Mark | None, now: str, found: Path | None) -> None:
        """Mark the model with its training from the weights ``now``, or from a checkpoint."""
        reached, start = start_hash(self.model), self._run["start"]  # type: ignore[arg-type]
        if former and reached == now:
            return  # no step was made
        before = 0
        if former and former.start == start:
            before = former.before
        elif former and not found:
            before = former.before + former.steps
        mark = Mark(
            start=start,
            reached=reached,
            folder=self._folder,
            reference=self._run["settings"].get("reference"),
            steps=0 if reached == start else self.state.global_step,
            before=before,
        )
        set_mark(self.model, mark)

    def _resume_point(self, given: str | Path | bool | None) -> Path | None:
        """The checkpoint to resume from, with a printed line; None to start from step 0."""
        if not given:
            return None
        if given is True:
            # Only one looks, so that all take the same checkpoint and the same start.
            found, self._run["start"] = in_first(
                lambda: (self._newest(), self._run["start"]), device=self.args.device.type
            )
            return found
        if problem := checkpoint_problem(Path(given)):
            raise ValueError(f"{given} is not a complete checkpoint: {problem}")
        if run := run_of(Path(given)):
            self._run["start"] = run["start"]
        return Path(given)

    def _newest(self) -> Path | None:
        folders = self._places()
        # If a cell is interrupted and run again, it makes a new trainer around changed weights.
        # Their mark identifies them; they count as the weights that they were trained from.
        now = self._run["start"]
        if mark := mark_of(self.model, now):
            self._run["start"] = mark.start
        found = newest_checkpoint(folders, of_this_run=lambda run: run_differences(run, self._run))
        if found is None:
            self._run["start"] = now
            if checkpoints_in(folders):
                say("training starts again from step 0, with the weights that the model has now")
        return found

    def _former_reference(self) -> str | None:
        """The reference of an earlier training of this adapter into the same folder.

        Its cell may have been interrupted and run again. The adapter then has an effect, but the
        reference is still the model without it.
        """
        model: Any = self.model
        mark = mark_of(model, start_hash(model))
        if mark and mark.folder == self._folder and mark.reference == "adapter_off":
            return mark.reference
        return None

    def _had_ended(self, checkpoint: Path) -> bool:
        """Whether nothing is left to train; if so, the final weights and state are loaded.

        transformers would start one more epoch then, and with ``max_steps`` take one more step.
        """
        try:
            state = TrainerState.load_from_json(str(checkpoint / STATE))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{checkpoint / STATE}: not a trainer's state ({error})") from None
        steps = f"step {state.global_step:,} of {state.max_steps:,}, from {checkpoint}"
        run = run_of(checkpoint)
        same = run is not None and not run_differences(run, self._run)
        # It may have stopped before its last step (EarlyStoppingCallback).
        control: Any = (state.stateful_callbacks or {}).get("TrainerControl", {})
        stopped = control.get("args", {}).get("should_training_stop", False)
        ended = same and (state.global_step >= state.max_steps or stopped)
        if not in_first(lambda: ended, device=self.args.device.type):
            say(f"training resumes after {steps}")
            return False
        say(
            f"training had ended: its weights and its log are loaded, {steps}. "
            + advice(
                python="To train it again, call train() without resume_from_checkpoint",
                line="To train it again, give another --output_dir",
            )
        )
        self._load_from_checkpoint(str(checkpoint))
        state.is_world_process_zero = self.is_world_process_zero()
        state.is_local_process_zero = self.is_local_process_zero()
        self.state = state
        if self.args.load_best_model_at_end and state.best_model_checkpoint:
            best = checkpoint.parent / Path(state.best_model_checkpoint).name
            if not best.is_dir():
                raise ValueError(f"{checkpoint} names a best checkpoint that is missing: {best}")
            state.best_model_checkpoint = str(best)
            self._load_best_model()
        return True

    def _places(self) -> list[Path]:
        """Where checkpoints of this run may be: its folder, and the copies of `persist`."""
        copies = [c.mirror for c in self.callback_handler.callbacks if isinstance(c, Persistence)]
        return [self._folder, *(folder for folder in copies if folder)]

    def save_state(self) -> None:
        """transformers' ``save_state``, which replaces the former file as a whole."""
        if self.is_world_process_zero():
            with tempfile.TemporaryDirectory() as folder:
                self.state.save_to_json(str(Path(folder) / STATE))
                write_whole(self._folder / STATE, (Path(folder) / STATE).read_bytes())

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        use_plain_cpu(self.args)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        weights = Path(resume_from_checkpoint) / ADAPTER_WEIGHTS
        if weights.is_file():  # peft only warns about missing or unused keys
            adapter: Any = self.model
            check_restored(adapter, load_file(weights), str(weights))

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        checkpoint = self._folder / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            new = written(checkpoint, self._run) if self.args.should_save else nullcontext()
            with new:
                # Every process writes its part into the folder that one of them has made.
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(*args, **kwargs)
                self.accelerator.wait_for_everyone()
        finally:
            self.args.save_total_limit = limit
        if limit and self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate(self._folder, keep=limit, newest=checkpoint, protect=best)
