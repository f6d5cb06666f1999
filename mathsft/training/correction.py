"""Answers whose author computes differently from the trained model: measured and corrected."""

from collections.abc import Sequence
from typing import Any

import torch

from mathsft.generation.mismatch import Mismatch, truncated_weights
from mathsft.models.logprobs import sequence_logprobs
from mathsft.models.modes import evaluating


def corrected(
    rows: Sequence[dict[str, Any]], trainer: Any, *, cap: float
) -> tuple[list[dict[str, Any]], Mismatch]:
    """The rows with ``old`` computed as in training, and ``importance_weight`` for each token.

    Half precision rounds differently in generation and in training, and a server computes in its
    own way. So the model that wrote the answers is not quite the one that learns from them. Each
    token's loss is weighted accordingly (`truncated_weights`, at most ``cap``). Also returns how
    far the two are apart.
    """
    model, size = trainer.model, trainer.args.per_device_train_batch_size
    temperature = trainer.objective.logits_temperature
    made: list[dict[str, Any]] = []
    autocast = trainer.accelerator.autocast
    with evaluating(model), torch.no_grad(), trainer.as_in_steps(), autocast():
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            tensors = {
                key: value.to(trainer.args.device)
                for key, value in trainer.collate.tensors(part).items()
            }
            found = sequence_logprobs(model, trainer.shaped(tensors), temperature=temperature)
            values = iter([one.cpu() for one in found.by_sequence()])
            for row in part:
                old = [next(values) for _ in row["old"]]
                weights = [
                    truncated_weights(ours, torch.tensor(theirs), cap=cap).tolist()
                    for ours, theirs in zip(old, row["old"], strict=True)
                ]
                ours = [one.tolist() for one in old]
                made.append({**row, "old": ours, "importance_weight": weights})

    def flat(given: Sequence[dict[str, Any]]) -> list[float]:
        return [value for row in given for answer in row["old"] for value in answer]

    return made, Mismatch.of(flat(made), flat(rows))
