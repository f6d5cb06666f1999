"""transformers' Trainer for batches that are token forests: loss per item, counts, clean-up.

Loop, accumulation, mixed precision and several devices stay Trainer's. Of its checkpoints
we see to it that they are whole (`mathsft.training.checkpoints`).
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import Trainer, TrainerState
from transformers.trainer_utils import TrainOutput

from mathsft.models.adapter_checks import adapter_state, check_equal
from mathsft.models.folders import ADAPTER_WEIGHTS
from mathsft.training.arguments import renaming_notices_off
from mathsft.training.checkpoints import (
    RUN,
    STATE,
    checkpoint_problem,
    newest_checkpoint,
    rotate,
    write_manifest,
)
from mathsft.training.finite import FiniteCheck
from mathsft.training.persist import Persistence
from mathsft.training.runs import run_differences, run_identity


class ForestTrainer(Trainer):
    """The base of our trainers; a subclass gives ``summed_loss``.

    Logs ``num_tokens``, the tokens that passed the model since the training began, and
    ``tokens_per_second`` since the last log: of this process, without padding, and
    without the time of evaluating and saving.

    Stops with FloatingPointError before a loss or a gradient that is not finite gets into
    the weights. Its checkpoints record which run they are of, and a manifest of their files;
    ``save_total_limit`` removes older ones of the run when the new one is complete.
    """

    def __init__(self, model: Any, **arguments: Any) -> None:
        super().__init__(model, **arguments)
        if self.args.n_gpu > 1:  # DataParallel would hand each device rows without their places
            raise ValueError(
                f"{self.args.n_gpu} devices in one process: start one process for each with "
                "torchrun --nproc_per_node, or choose one by CUDA_VISIBLE_DEVICES=0"
            )
        # `compute_loss` divides by the items of the whole step, so Trainer has to count the
        # batch's labels, all of them, and must not divide by the accumulation steps again.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = False
        self._finite = FiniteCheck(self)
        self.add_callback(self._finite)
        self._run: dict[str, Any] = {}
        self._reset_counters()

    def _reset_counters(self) -> None:
        self._seen: Tensor | int = 0  # a tensor on the device: reading it would wait for the GPU
        self._seen_total = 0
        self._since: float | None = None

    def summed_loss(self, inputs: dict[str, Tensor], *, wrapped: Any) -> Tensor:
        """The loss in nats, summed over the items of ``inputs["labels"]``: a float32 scalar."""
        raise NotImplementedError

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The loss per item, of the whole optimiser step where Trainer counts its items.

        So every item weighs the same under accumulation and on several devices.
        """
        if return_outputs:
            raise NotImplementedError("the loss makes no logits; call the model for them")
        if model.training:
            self._seen = self._seen + inputs["row_tokens"].sum()
        with self.accelerator.autocast():  # the projection as well, and as in evaluation
            loss = self.summed_loss(inputs, wrapped=model)
        if num_items_in_batch is None:
            return loss / max(1, len(inputs["labels"]))
        if self.args.average_tokens_across_devices:  # the count is global, DDP averages
            loss = loss * self.accelerator.num_processes
        return loss / num_items_in_batch

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """transformers' ``train``, except for ``resume_from_checkpoint``.

        True goes on from the newest checkpoint of this very run that is whole, in
        ``output_dir`` or among the copies of `persist`, and from the start where there is none;
        a line says which, unless there was nothing to choose from. (transformers takes the
        highest number, half-written or not, and raises where there is none.) A path is taken
        as it is, once it proved whole. A run that had ended is not trained again: its weights
        and its log are loaded.

        Raises ValueError for a path whose checkpoint is not whole, FloatingPointError where a
        loss or a gradient is not finite, and OSError where a checkpoint cannot be written.
        """
        self._reset_counters()
        if not self._run:  # once: the weights it begins with are those of the first call
            self._run = run_identity(self)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self._newest()
        elif resume_from_checkpoint and (
            problem := checkpoint_problem(Path(resume_from_checkpoint))
        ):
            raise ValueError(f"{resume_from_checkpoint} is not a whole checkpoint: {problem}")
        with renaming_notices_off(), _forward_restored(self.model):
            if resume_from_checkpoint and self._had_ended(Path(resume_from_checkpoint)):
                return TrainOutput(self.state.global_step, float("nan"), {})
            where = str(resume_from_checkpoint) if resume_from_checkpoint else None
            return super().train(where, trial, ignore_keys_for_eval)

    def _newest(self) -> Path | None:
        copies = [c.mirror for c in self.callback_handler.callbacks if isinstance(c, Persistence)]
        folders = [Path(str(self.args.output_dir)), *(folder for folder in copies if folder)]
        found = newest_checkpoint(
            folders, of_this_run=lambda run: run_differences(run, self._run, self.model)
        )
        if found is None:
            if any(path for folder in folders for path in folder.glob("checkpoint-*")):
                print("training starts at the beginning")
        else:
            state = json.loads((found / STATE).read_text(encoding="utf-8"))
            ended = state["global_step"] >= state["max_steps"]
            print(
                f"training had ended: {found} holds its result; to train anew, remove that folder"
                if ended
                else f"training goes on after step {state['global_step']:,} of "
                f"{state['max_steps']:,}, from {found}"
            )
        return found

    def _had_ended(self, checkpoint: Path) -> bool:
        """Whether nothing is left to train; weights and state are then those of the end.

        transformers would begin one more epoch there, and with ``max_steps`` take one more step.
        """
        state = TrainerState.load_from_json(str(checkpoint / STATE))
        if state.global_step < state.max_steps:
            return False
        self._load_from_checkpoint(str(checkpoint))
        self.state = state
        return True

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        weights = Path(resume_from_checkpoint) / ADAPTER_WEIGHTS
        if weights.is_file():  # peft only warns of keys that are missing or left over
            adapter: Any = self.model
            check_equal(adapter_state(adapter), load_file(weights), str(weights))

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with self._clock_stopped(), _forward_restored(self.model):
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.state.num_input_tokens_seen = self._seen_total + int(self._seen)
        checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        with self._clock_stopped():
            try:
                if self.args.should_save:
                    shutil.rmtree(checkpoint, ignore_errors=True)  # half-written, or of another run
                    checkpoint.mkdir(parents=True)
                    text = json.dumps(self._run, indent=1)
                    (checkpoint / RUN).write_text(text, encoding="utf-8")
                # Every process writes a part into the folder that one of them has made.
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(*args, **kwargs)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    write_manifest(checkpoint)
            except (OSError, RuntimeError, SafetensorError) as error:
                shutil.rmtree(checkpoint, ignore_errors=True)  # half a checkpoint only takes room
                free = shutil.disk_usage(Path(str(self.args.output_dir))).free / 1e6
                raise OSError(
                    f"{checkpoint} could not be written: {error} ({free:,.0f} MB are free). The "
                    "checkpoints before it are untouched: make room, then "
                    "train(resume_from_checkpoint=True) goes on from the newest"
                ) from error
            finally:
                self.args.save_total_limit = limit
            if limit and self.args.should_save:
                best = self.state.best_model_checkpoint
                rotate(checkpoint.parent, keep=limit, newest=checkpoint, protect=best)

    @contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self._since is not None:
            self._since += time.perf_counter() - started

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        if self._since is None:
            self._since = time.perf_counter()
            self._seen_total = self.state.num_input_tokens_seen  # before the checkpoint, if any
        loss = super().training_step(*args, **kwargs)
        self._finite.add(loss)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds ``num_tokens`` and ``tokens_per_second`` to the logs of training."""
        if "loss" in logs and self._since is not None:
            seen, now = int(self._seen), time.perf_counter()
            self._seen_total += seen
            logs["num_tokens"] = self._seen_total
            logs["tokens_per_second"] = round(seen / (now - self._since), 1)
            self._seen, self._since = 0, now
        super().log(logs, start_time)


@contextmanager
def _forward_restored(model: Any) -> Iterator[None]:
    """accelerate wraps ``model.forward`` in autocast for good: give the model its own back.

    Otherwise scores after training come from another precision than those before it.
    (`accelerator.unwrap_model(keep_fp32_wrapper=False)` would strip the model's own
    decorators as well.) The mark goes too, or the next training would not be wrapped.
    """
    names = ("forward", "_original_forward", "_is_accelerate_prepared")
    before = {name: model.__dict__.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            model.__dict__.pop(name, None)
            if value is not None:
                model.__dict__[name] = value
