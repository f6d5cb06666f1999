"""TRL's DPOTrainer, as a step of a benchmark, and its computation for counting operations."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.utils.checkpoint import checkpoint
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

Rows = Sequence[Mapping[str, Any]]
BETA = 0.1


def trl_trainer(
    model: Any, tokenizer: Any, pairs: Rows, folder: str | Path, *, precompute: bool
) -> DPOTrainer:
    """TRL's trainer for a fresh adapter, whose reference is the model with its adapter off.

    For an adapter that it did not make itself, TRL keeps a copy as the reference. The copy of a
    fresh adapter changes nothing but costs time, so it is removed: then TRL switches the adapter
    off, as for one that it made. Without checkpointing: memory is not short here.
    """
    config = DPOConfig(
        str(folder),
        beta=BETA,
        max_length=None,
        precompute_ref_log_probs=precompute,
        precompute_ref_batch_size=1,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        dataloader_pin_memory=False,
    )
    rows = Dataset.from_list([*pairs])
    trainer = DPOTrainer(model, args=config, train_dataset=rows, processing_class=tokenizer)
    model.delete_adapter("ref")
    return trainer


def step_of(trainer: DPOTrainer) -> Callable[[Any, Rows], int]:
    """TRL's own collator and loss: leaves the gradients, returns the positions with padding."""

    def trl_step(model: Any, rows: Rows) -> int:
        batch = trainer._prepare_inputs(trainer.data_collator([*rows]))
        trainer.compute_loss(model, batch).backward()
        return batch["input_ids"].numel()  # type: ignore[no-any-return]

    return trl_step


def padded(model: Any, rows: Rows) -> int:
    """TRL's computation of a step in plain PyTorch, so that the meta device can count it.

    As in TRL 1.16 on a CPU: the policy's pass and the reference's, over all chosen and all
    rejected sequences in one padded batch. All positions but the last are projected onto the
    vocabulary, and again in the backward pass, because the logits are not kept. Padding is on the
    right, so causal attention hides it; and a mask changes no count.
    """
    batch = DataCollatorForPreference(pad_token_id=0)([*rows])
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    base = model.get_base_model()
    targets, scored = batch["input_ids"][:, 1:, None], batch["completion_mask"][:, 1:]

    def projected(hidden: Tensor) -> Tensor:
        return base.lm_head(hidden).log_softmax(dim=-1).gather(2, targets)[..., 0]

    def sums() -> Tensor:
        hidden = base.model(
            input_ids=batch["input_ids"],
            attention_mask={"full_attention": None},
            use_cache=False,
        ).last_hidden_state[:, :-1]
        logprobs = checkpoint(projected, hidden, use_reentrant=False, preserve_rng_state=False)
        return (logprobs * scored).sum(dim=1)

    ratios = sums()
    with torch.no_grad(), model.disable_adapter():
        reference = sums()
    chosen, rejected = (ratios - reference).chunk(2)
    (-logsigmoid(BETA * (chosen - rejected)).mean()).backward()
    return batch["input_ids"].numel()
