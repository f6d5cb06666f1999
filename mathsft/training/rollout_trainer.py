"""Learning from a model's own attempts: prompts in, groups of judged answers out."""

import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from statistics import fmean
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from mathsft.generation.mismatch import check_mismatch
from mathsft.generation.selection import reward_about
from mathsft.models.logprobs import SequenceLogprobs, sequence_logprobs
from mathsft.models.modes import evaluating, random_state_kept
from mathsft.objectives.base import Objective
from mathsft.processes import say
from mathsft.training.attempts import Attempts, CollapseWatch, described
from mathsft.training.batches import FilledRows
from mathsft.training.correction import corrected
from mathsft.training.judging import Reward, Sampler, Sampling, attempted
from mathsft.training.learned import AttemptsTrainer, learned_rows
from mathsft.training.prompts import BlockSampler, Prompts
from mathsft.training.reference import weights_as
from mathsft.training.runs import start_hash

_EVAL_SEED = 2**40  # not a seed of training


class RolloutTrainer(AttemptsTrainer):
    """Trains an objective on answers that the model writes during training.

    Made by `mathsft.training.make_rollouts.rollout_trainer`. In each optimiser step the model
    answers the next prompts, the reward judges the answers, and the objective learns from them. If
    it compares them with a teacher's, a reward is only for the log, and may be None.
    Everything else is `ForestTrainer`'s: accumulation, several processes, checkpoints, resuming
    to the bit. Answers are seeded by the step, so a resumed run continues with the same ones.

    Logged besides the loss: `mathsft.training.attempts.described`; the means that the reward
    logs; and the seconds of a step that went into ``seconds/generating`` (with judging) and
    ``seconds/updating``. `evaluate` gives the same numbers for ``eval_rows``, always with the same
    random numbers. ``last_attempts`` holds the latest step's answers of all processes.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        *,
        prompts: Prompts,
        eval_prompts: Prompts | None,
        reward: Reward | None,
        sampling: Sampling,
        sampler: Sampler | None = None,
        **arguments: Any,
    ) -> None:
        self.prompts, self.eval_prompts = prompts, eval_prompts
        self.reward, self.sampling, self.sampler = reward, sampling, sampler
        self.run_settings = {
            **{f"sampling.{key}": value for key, value in vars(sampling).items()},
            "sampling.by": str(sampler or "the model itself"),
            "reward": "none" if reward is None else reward_about(reward),
        }
        self.last_attempts: list[Attempts] = []
        self._rows = []
        self._watch = CollapseWatch()
        self._noted: dict[str, list[float]] = defaultdict(list)
        self._start: dict[str, Tensor] = {}
        super().__init__(
            model,
            objective,
            train_dataset=prompts.table,
            eval_dataset=None if eval_prompts is None else eval_prompts.table,
            **arguments,
        )
        self.data_collator: Any = list  # a batch is a list of prompts until it has answers
        if len(prompts.table) < self._block:
            raise ValueError(
                f"{len(prompts.table)} prompts are fewer than the {self._block} of one optimiser "
                "step: give more rows, or a smaller per_device_train_batch_size"
            )

    @property
    def _block(self) -> int:
        """How many prompts one optimiser step takes, in all processes."""
        args = self.args
        each = args.per_device_train_batch_size * args.gradient_accumulation_steps
        return int(each * args.world_size)

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return super()._get_dataloader(FilledRows(dataset), *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> BlockSampler:
        rows = train_dataset or FilledRows(self.prompts.table)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        repeats = self.sampling.num_iterations
        return BlockSampler(rows, block=self._block, repeats=repeats, seed=seed)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> Any:
        """The batches of an optimiser step: its prompts, answered and judged."""
        asked = list(islice(epoch_iterator, num_batches))
        if not asked:
            return super().get_batch_samples(iter(()), 0, device)
        started = time.perf_counter()
        if self.state.global_step % self.sampling.num_iterations == 0 or not self._rows:
            with self._clock_stopped():
                self._rows = self._answered([row for batch in asked for row in batch])
        self._noted["seconds/generating"].append(time.perf_counter() - started)
        self._noted["seconds/updating"].append(0.0)
        rows = iter(self._rows)
        batches = [self.collate(list(islice(rows, len(batch)))) for batch in asked]
        return super().get_batch_samples(iter(batches), len(batches), device)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        started = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        self._noted["seconds/updating"][-1] += time.perf_counter() - started
        return loss

    def _answered(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """This process's rows to learn from: its prompts' answers, or those of prompts drawn anew.

        All processes know all answers and rewards, so that advantages may compare them.
        """
        everyone = gather_object(asked)
        groups = self._attempted(everyone, self._seed(0), noted=True)
        for attempt in range(1, self.sampling.resample + 1):
            silent = [place for place, group in enumerate(groups) if not group.has_signal]
            if not silent:
                break
            draw, table = random.Random(self._seed(attempt)), self.prompts.table
            others = [table[draw.randrange(len(table))] for _ in silent]
            fresh = self._attempted(others, self._seed(attempt))
            useful = [group for group in fresh if group.has_signal]
            for place, group in zip(silent, useful, strict=False):
                groups[place] = group
        found = described(groups, judged=self.reward is not None)
        for name, value in found.items():
            self._noted[name].append(value)
        judged = self.objective.attempts == "judged"
        if judged and (advice := self._watch.update(found)):
            say(f"training stops after step {self.state.global_step + 1:,}: {advice}")
            self.control.should_training_stop = True
        self.last_attempts = groups
        rows = learned_rows(groups, self.objective, teacher_ids=self.prompts.teacher_ids)
        first = self.args.process_index * len(asked)
        return self._by_this_model(rows[first : first + len(asked)])

    def _seed(self, attempt: int) -> int:
        return (self.args.seed * 1_000_003 + self.state.global_step) * 101 + attempt

    def _attempted(
        self, asked: Any, seed: int, *, prompts: Prompts | None = None, noted: bool = False
    ) -> list[Attempts]:
        with self.accelerator.autocast():
            groups, told = attempted(
                self.model,
                self.processing_class,
                asked,
                prompts or self.prompts,
                self.reward,
                sampling=self.sampling,
                temperature=self.objective.logits_temperature,
                seed=seed,
                state=self.state,
                sampler=self.sampler,
            )
        for name, value in told.items() if noted else ():
            self._noted[name].append(value)
        return groups

    def _by_this_model(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows with log-probabilities as training computes them.

        In float32 those of the sampling are the same, to 1e-5. Answers of a sampler with a
        ``limit`` (`Server`) are refused if it has other weights (`check_mismatch`).
        """
        model: Any = self.model
        half = self.args.fp16 or self.args.bf16 or model.dtype != torch.float32
        if self.sampler is None and not (half and self.teacher is None):
            return rows
        rows, found = corrected(rows, self, cap=self.sampling.importance_sampling_cap)
        self._noted["sampling/logp_difference"].append(found.mean)
        limit = getattr(self.sampler, "limit", math.inf)
        # Raised in all processes, or the others would wait for this one.
        check_mismatch(max(gather_object([found]), key=lambda one: one.mean), limit=limit)
        return rows

    def _keep_logprobs(self) -> None:
        if self.reference == "before_training":  # of answers that do not exist yet
            model: Any = self.model
            self.reference_start = start_hash(model)
            trained = model.named_parameters()
            self._start = {n: p.detach().clone() for n, p in trained if p.requires_grad}

    def _reference_logprobs(
        self, batch: Mapping[str, Tensor], *, wrapped: Any
    ) -> SequenceLogprobs | None:
        if self.reference != "before_training":
            return super()._reference_logprobs(batch, wrapped=wrapped)
        model: Any = self.model
        with weights_as(model, self._start), evaluating(model), torch.no_grad():
            return sequence_logprobs(model, batch, temperature=self.objective.logits_temperature)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Answer and judge ``eval_rows``; the means are logged, such as ``eval_reward``.

        With a teacher they are compared as well: ``eval_loss``.
        """
        if self.eval_prompts is None or eval_dataset is not None:
            raise ValueError("evaluate: give eval_rows to rollout_trainer; there are none")
        started = time.perf_counter()
        with self._clock_stopped(), random_state_kept():  # a reward may draw from it
            asked = list(self.eval_prompts.table)
            groups = self._attempted(asked, _EVAL_SEED, prompts=self.eval_prompts)
            told = described(groups, judged=self.reward is not None)
            if self.teacher is not None:
                ids = self.eval_prompts.teacher_ids
                told |= self.compared(learned_rows(groups, self.objective, teacher_ids=ids))
        told = {**told, "runtime": round(time.perf_counter() - started, 3)}
        found = {f"{metric_key_prefix}_{name}": value for name, value in told.items()}
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of what was noted about the attempts since the last log."""
        if "loss" in logs:
            logs |= {name: round(fmean(values), 4) for name, values in self._noted.items()}
            self._noted.clear()
        super().log(logs, start_time)
