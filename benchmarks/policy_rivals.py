"""TRL's GRPOTrainer, as the update of a benchmark, and its computation for counting operations."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import pad

from mathsft.training.attempts import Attempts

Rows = Sequence[Mapping[str, Any]]
EPSILON = 0.2


def last_digit_of_length(completions: list[str], **_: Any) -> list[float]:
    """A reward that costs nothing, and is equal in a whole group only if it has equal answers."""
    return [len(text) % 10 / 10 for text in completions]


def trl_trainer(
    model: Any, tokenizer: Any, folder: str | Path, rows: Rows = ({"prompt": "-"},), **options: Any
) -> GRPOTrainer:
    """TRL's trainer without a KL, on the CPU, in float32, with the loss of `Policy`'s "dapo".

    Without checkpointing: memory is not short here.
    """
    settings: dict[str, Any] = {"per_device_train_batch_size": 8, "num_generations": 8, **options}
    config = GRPOConfig(
        str(folder),
        loss_type="dapo",
        beta=0.0,
        epsilon=EPSILON,
        temperature=1.0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        dataloader_pin_memory=False,
        **settings,
    )
    trainer = GRPOTrainer(
        model,
        reward_funcs=last_digit_of_length,
        args=config,
        train_dataset=Dataset.from_list([*rows]),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1  # known to TRL only while it trains
    return trainer


def their_row(group: Attempts, row: Mapping[str, Any]) -> dict[str, Any]:
    """The same group as TRL has it after sampling and judging; ``row`` is ours."""
    return {
        "prompt_ids": [group.prompt_ids] * len(group.completions),
        "completion_ids": [one.input_ids for one in group.completions],
        "old_per_token_logps": row["old"],
        "advantages": row["advantages"],
    }


def batch_of(row: Mapping[str, Any], *, items: int, device: Any) -> dict[str, Tensor]:
    """One group as TRL pads it: prompts on the left, answers on the right."""

    def padded_rows(values: Sequence[Any], side: str) -> Tensor:
        return pad([torch.tensor(one) for one in values], padding_value=0, padding_side=side)  # type: ignore[no-any-return]

    batch = {"old_per_token_logps": padded_rows(row["old_per_token_logps"], "right")}
    for name, side in (("prompt", "left"), ("completion", "right")):
        ids = row[f"{name}_ids"]
        batch[f"{name}_ids"] = padded_rows(ids, side)
        batch[f"{name}_mask"] = padded_rows([[1] * len(one) for one in ids], side)
    batch["advantages"] = torch.tensor(row["advantages"])
    batch["num_items_in_batch"] = torch.tensor(items)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def items_of(rows: Rows) -> int:
    """The tokens of all answers of a step, which the loss is divided by."""
    return sum(len(ids) for row in rows for ids in row["completion_ids"])


def step_of(trainer: GRPOTrainer, *, size: int) -> Callable[[Any, Rows], int]:
    """TRL's own loss, group by group: leaves the gradients, returns the positions with padding.

    ``size``: answers in a batch. TRL pads before it divides a group into batches.
    """

    def trl_step(model: Any, rows: Rows) -> int:
        positions, items = 0, items_of(rows)
        for row in rows:
            whole = batch_of(row, items=items, device=model.device)
            for start in range(0, len(whole["advantages"]), size):
                stop = start + size
                batch = {k: v[start:stop] if v.dim() else v for k, v in whole.items()}
                trainer.compute_loss(model, batch).backward()
            positions += whole["prompt_ids"].numel() + whole["completion_ids"].numel()
        return positions

    return trl_step


def padded(model: Any, rows: Rows) -> int:
    """TRL's computation of an update in plain PyTorch, so that the meta device can count it.

    As in TRL 1.16 on a CPU: one padded batch for each group. All positions but the last are
    projected onto the vocabulary, those of the prompt too, and again in the backward pass, because
    the logits are not kept. (On a GPU, TRL projects only the answers' positions.) A group has one
    prompt, so padding is on the right alone; causal attention hides it, and a mask changes no
    count.
    """
    positions, items = 0, items_of(rows)
    base = model.get_base_model()
    for row in rows:
        batch = batch_of(row, items=items, device=model.device)
        input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        targets = input_ids[:, 1:, None]

        def projected(hidden: Tensor, targets: Tensor = targets) -> Tensor:
            return base.lm_head(hidden).log_softmax(dim=-1).gather(2, targets)[..., 0]  # type: ignore[no-any-return]

        hidden = base.model(
            input_ids=input_ids, attention_mask={"full_attention": None}, use_cache=False
        ).last_hidden_state[:, :-1]
        logprobs = checkpoint(projected, hidden, use_reentrant=False, preserve_rng_state=False)
        mask = batch["completion_mask"]
        ratio = (logprobs[:, -mask.shape[1] :] - batch["old_per_token_logps"]).exp()
        advantage = batch["advantages"][:, None]
        clipped = ratio.clamp(1 - EPSILON, 1 + EPSILON)
        loss = -torch.minimum(ratio * advantage, clipped * advantage)
        ((loss * mask).sum() / items).backward()
        positions += input_ids.numel()
    return positions
