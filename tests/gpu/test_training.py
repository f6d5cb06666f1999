"""The course's four training runs at the shape of Qwen2.5-0.5B, as on a T4 and on an A100."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_work import PATHS, POLICIES, matrix_rate, trainer, training_flops

from mathsft.recipes.estimate import estimate_memory


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("objective", "quantize"), PATHS)
def test_a_training_is_finite_keeps_float32_adapters_and_takes_the_memory_that_was_estimated(
    objective: str, quantize: bool, policy: str, qwen: Path, tmp_path: Path
) -> None:
    ours = trainer(qwen, tmp_path, objective=objective, quantize=quantize, policy=policy)
    adapters = {n: p for n, p in ours.model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in adapters.items()}
    batches: list[Any] = []
    collate = ours.data_collator
    ours.data_collator = lambda rows: batches.append(collate(rows)) or batches[-1]
    torch.cuda.reset_peak_memory_stats()
    ours.train()
    peak = torch.cuda.max_memory_allocated() / 1e9

    losses = [row["loss"] for row in ours.state.log_history if "loss" in row]
    assert len(losses) == 6
    assert all(loss == loss and abs(loss) != float("inf") for loss in losses)
    assert {p.dtype for p in adapters.values()} == {torch.float32}
    assert any(not torch.equal(p, before[n]) for n, p in adapters.items()), "no step was taken"
    assert all(p.isfinite().all() for p in adapters.values())
    dtypes = {p.dtype for p in ours.model.parameters()}
    assert (torch.bfloat16 in dtypes) == (policy == "A100")
    assert (ours.accelerator.scaler is not None) == (policy == "T4")

    tokens = [batch["input_ids"].numel() for batch in batches]
    trained = [len(batch["predictor"]) for batch in batches]
    section = "sft" if objective == "sft" else "multiple_choice"
    size = ours.args.per_device_train_batch_size
    recipe = {
        "model": {"name": str(qwen), "quantize": quantize},
        section: {
            "max_length": max(batch["input_ids"].shape[1] for batch in batches),
            "per_device_train_batch_size": size,
        },
    }
    estimated = estimate_memory(
        recipe, section, device="t4",
        question_tokens=None if section == "sft" else max(tokens) // size,
        trained_share=sum(trained) / sum(tokens),
    )  # fmt: skip
    print(f"\npeak {peak:.2f} GB, estimated {estimated.total:.2f} GB")
    assert estimated.total == pytest.approx(peak, rel=0.15)


@pytest.mark.parametrize("quantize", [True, False])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_first_loss_over_pairs_is_log_2_as_the_adapter_changes_nothing_yet(
    policy: str, quantize: bool, qwen: Path, tmp_path: Path
) -> None:
    ours = trainer(qwen, tmp_path, objective="dpo", quantize=quantize, policy=policy,
                   learning_rate=1e-3)  # fmt: skip
    ours.train()
    losses = [row["loss"] for row in ours.state.log_history if "loss" in row]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert all(math.isfinite(loss) for loss in losses)
    assert {p.dtype for p in ours.model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("objective", "quantize"), PATHS)
def test_compiled_layers_give_the_losses_of_plain_ones(
    objective: str, quantize: bool, policy: str, qwen: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    losses = {}
    for compiled in (False, True):
        ours = trainer(
            qwen, tmp_path / str(compiled), objective=objective, quantize=quantize, policy=policy,
            compile=compiled, learning_rate=0.0,
        )  # fmt: skip
        ours.train()
        losses[compiled] = [row["loss"] for row in ours.state.log_history if "loss" in row]
    assert "compile: ready after" in capsys.readouterr().out
    # Dropout draws other masks, so only means over a batch are compared.
    assert losses[True] == pytest.approx(losses[False], rel=0.02)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("objective", "quantize"), PATHS)
def test_speed_and_its_share_of_the_cards_matrix_rate(
    objective: str, quantize: bool, policy: str, qwen: Path, tmp_path: Path
) -> None:
    """Print one JSON line for benchmarks/RESULTS.md; assert only that the share is a share."""
    ours = trainer(
        qwen, tmp_path, objective=objective, quantize=quantize, policy=policy, learning_rate=0.0
    )
    size = ours.args.per_device_train_batch_size
    rows = [ours.train_dataset[i] for i in range(size)]
    batch = {key: value.to("cuda") for key, value in ours.data_collator(rows).items()}
    dtype = POLICIES[policy]["dtype"]
    ours.model.train()

    def step() -> None:
        with torch.autocast("cuda", dtype=getattr(torch, dtype)):
            ours.loss_of(batch, wrapped=ours.model).total.backward()

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20):
        step()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / 20
    tokens, trained = int(batch["row_tokens"].sum()), len(batch["predictor"])
    share = training_flops(ours.model, tokens, trained) / seconds / matrix_rate(dtype)
    result = {
        "card": torch.cuda.get_device_name(), "policy": policy, "training": objective,
        "quantize": quantize, "tokens_per_second": round(tokens / seconds),
        "questions_per_second": round(size / seconds, 1) if objective == "choices" else None,
        "share_of_matrix_rate": round(share, 3),
    }  # fmt: skip
    print("\n" + json.dumps(result))
    assert 0 < share < 1
