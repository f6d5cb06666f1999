"""Training with any accepted kind of adapter resumes where it stopped."""

from pathlib import Path

import pytest
import torch
from adapter_variants import VARIANTS, adapted, all_logits
from small_training import trainer

RESUMED = ["LoRA on both", "tokens", "both saved", "bias all", "DoRA", "new words, both saved",
           "new words as tokens"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("variant", RESUMED)
def test_a_resumed_training_ends_as_one_that_was_not_stopped(
    small_model_dir: Path, tmp_path: Path, variant: str
) -> None:
    straight = adapted(small_model_dir, **VARIANTS[variant])
    whole = trainer(small_model_dir, tmp_path / "run", model=straight, max_steps=4)
    whole.train()
    expected = all_logits(straight.eval())
    model = adapted(small_model_dir, **VARIANTS[variant])
    before = all_logits(model.eval())
    resumed = trainer(small_model_dir, tmp_path / "run", model=model, max_steps=4)
    resumed.train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-2")
    assert torch.equal(all_logits(model.eval()), expected)
    assert not torch.equal(before, expected)
