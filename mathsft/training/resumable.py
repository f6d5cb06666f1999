"""transformers' Trainer with checkpoints that are complete, of this run, and found again."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import Trainer, TrainerState
from transformers.trainer_utils import TrainOutput

from mathsft.compat import optimizer_overrides_released, use_plain_cpu
from mathsft.models.adapter_checks import check_restored
from mathsft.models.model_files import ADAPTER_WEIGHTS
from mathsft.processes import in_first, say
from mathsft.training.checkpoints import (
    RUN,
    STATE,
    checkpoint_problem,
    checkpoints_in,
    newest_checkpoint,
    rotate,
    set_aside,
    write_manifest,
)
from mathsft.training.persist import Persistence
from mathsft.training.runs import run_differences, run_identity, start_hash

# On a model: hashes of its weights before and after training, the run's folder and reference.
_MARK = "_mathsft_trained"


class ResumableTrainer(Trainer):
    """Its checkpoints record which run they belong to, and a manifest of their files.

    ``save_total_limit`` removes older ones of the run when the new one is complete. If another
    run's checkpoint already has the new one's name, it is kept in a folder ``run-…`` beside it.
    """

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
        loss or a gradient is not finite, and OSError if a checkpoint cannot be written.
        """
        self._run = run_identity(self)
        found = self._resume_point(resume_from_checkpoint)
        model: Any = self.model
        done = False
        try:
            if found and self._had_ended(found):
                output = TrainOutput(self.state.global_step, float("nan"), {})
            else:
                start = str(found) if found else None
                with optimizer_overrides_released(model):
                    output = super().train(start, trial, ignore_keys_for_eval)
            done = True
        finally:  # record the weights before and after, in case this model is trained again
            # All processes hash shards together: one that failed alone would wait for the others.
            if done or self.args.world_size == 1:
                reference = self._run["settings"].get("reference")
                mark = (self._run["start"], start_hash(model), self._folder, reference)
                setattr(model, _MARK, mark)
        return output

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
        if (Path(given) / RUN).is_file():
            recorded = json.loads((Path(given) / RUN).read_text(encoding="utf-8"))
            self._run["start"] = recorded["start"]
        return Path(given)

    def _newest(self) -> Path | None:
        copies = [c.mirror for c in self.callback_handler.callbacks if isinstance(c, Persistence)]
        folders = [self._folder, *(folder for folder in copies if folder)]
        # If a cell is interrupted and run again, it makes a new trainer around changed weights.
        # Their mark identifies them; they count as the weights that they were trained from.
        now = self._run["start"]
        start, reached, *_ = getattr(self.model, _MARK, (None, None))
        if reached == now:
            self._run["start"] = start
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
        *_, reached, folder, reference = getattr(self.model, _MARK, (None,) * 4)
        model: Any = self.model
        same = folder == self._folder and reached == start_hash(model)
        return reference if same and reference == "adapter_off" else None

    def _had_ended(self, checkpoint: Path) -> bool:
        """Whether nothing is left to train; if so, the final weights and state are loaded.

        transformers would start one more epoch then, and with ``max_steps`` take one more step.
        """
        state = TrainerState.load_from_json(str(checkpoint / STATE))
        steps = f"step {state.global_step:,} of {state.max_steps:,}, from {checkpoint}"
        path = checkpoint / RUN
        same = path.is_file() and not run_differences(
            json.loads(path.read_text(encoding="utf-8")), self._run
        )
        # It may have stopped before its last step (EarlyStoppingCallback).
        control: Any = (state.stateful_callbacks or {}).get("TrainerControl", {})
        stopped = control.get("args", {}).get("should_training_stop", False)
        ended = same and (state.global_step >= state.max_steps or stopped)
        if not in_first(lambda: ended, device=self.args.device.type):
            say(f"training resumes after {steps}")
            return False
        say(
            f"training had ended: its weights and its log are loaded, {steps}. "
            "To train it again, call train() without resume_from_checkpoint"
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
            with self._written(checkpoint):
                # Every process writes its part into the folder that one of them has made.
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(*args, **kwargs)
                self.accelerator.wait_for_everyone()
        finally:
            self.args.save_total_limit = limit
        if limit and self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate(self._folder, keep=limit, newest=checkpoint, protect=best)

    @contextmanager
    def _written(self, checkpoint: Path) -> Iterator[None]:
        """Mark the folder as this run's, then as complete; a failed write restores the old one."""
        if not self.args.should_save:
            yield
            return
        former = checkpoint.with_name(f".{checkpoint.name}.old")
        try:
            set_aside(checkpoint, self._run)
            shutil.rmtree(former, ignore_errors=True)
            if checkpoint.exists():
                checkpoint.rename(former)
            checkpoint.mkdir(parents=True)
            text = json.dumps(self._run, indent=1)
            (checkpoint / RUN).write_text(text, encoding="utf-8")
            yield
            write_manifest(checkpoint)
            shutil.rmtree(former, ignore_errors=True)
        except (OSError, RuntimeError, SafetensorError) as error:
            # torch.save reports a full disk as a RuntimeError of its zip writer.
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise
            shutil.rmtree(checkpoint, ignore_errors=True)  # half a checkpoint only uses space
            if former.exists():
                former.rename(checkpoint)
            free = shutil.disk_usage(self._folder).free / 1e6
            raise OSError(
                f"{checkpoint} could not be written: {error} ({free:,.0f} MB are free). The "
                "checkpoints before it are untouched: make room, then "
                "train(resume_from_checkpoint=True) resumes from the newest"
            ) from error
