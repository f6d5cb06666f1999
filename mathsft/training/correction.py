"""Answers whose author computes differently from the trained model: measured and corrected."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from mathsft.models.logprobs import sequence_logprobs
from mathsft.models.modes import evaluating


def corrected(
    rows: Sequence[dict[str, Any]], trainer: Any, *, cap: float
) -> tuple[list[dict[str, Any]], float]:
    """The rows with ``old`` computed as in training, and ``importance_weight`` for each token.

    Half precision rounds differently in generation and in training, and a server computes in its
    own way. So the model that wrote the answers is not quite the one that learns from them. Each
    token's loss is weighted by min(exp(old - sampled), cap), a truncated importance weight (Yao et
    al. 2025, fengyao.notion.site/off-policy-rl; ``vllm_importance_sampling_cap`` in TRL).

    Also returns the mean absolute difference of the log-probabilities per token, in nats.
    """
    model, size = trainer.model, trainer.args.per_device_train_batch_size
    temperature = trainer.objective.logits_temperature
    made, differences = [], []
    with evaluating(model), torch.no_grad(), trainer.accelerator.autocast():
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            tensors = {
                key: value.to(trainer.args.device)
                for key, value in trainer.collate.tensors(part).items()
            }
            logprobs = sequence_logprobs(model, tensors, temperature=temperature)
            values = iter([one.tolist() for one in logprobs.by_sequence()])
            for row in part:
                old = [next(values) for _ in row["old"]]
                apart = [
                    [ours - theirs for ours, theirs in zip(*both, strict=True)]
                    for both in zip(old, row["old"], strict=True)
                ]
                weights = [[math.exp(min(d, math.log(cap))) for d in answer] for answer in apart]
                made.append({**row, "old": old, "importance_weight": weights})
                differences += [abs(d) for answer in apart for d in answer]
    return made, fmean(differences)
