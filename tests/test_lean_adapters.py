"""LoRA with fewer bytes moved: the same sums in half precision, the same bits in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gradients import adapted, assert_same_gradients
from peft import PeftModel

from mathsft.data.problems import read_problems
from mathsft.models.lean_adapters import lean_adapters
from mathsft.models.loading import load_model
from mathsft.training.callbacks import show_samples
from mathsft.training.make import sft_trainer

SCALE = 64.0  # as GradScaler: float16 has few digits below 6e-5
IDS = torch.arange(60).reshape(3, 20) % 50 + 5


def gradients(model: Any, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """The gradients of a loss that all logits take part in; dropout draws the same masks."""
    model.train()
    model.zero_grad()
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        logits = model(input_ids=IDS).logits
    (logits.float().log_softmax(-1)[..., 7].sum() * SCALE).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def test_in_float32_not_a_bit_changes(small_model_dir: Path) -> None:
    model = adapted(small_model_dir, dropout=0.1)
    before = gradients(model, None)
    with lean_adapters(model):
        inside = gradients(model, None)
    assert before.keys() == inside.keys()
    assert all(torch.equal(before[name], inside[name]) for name in before)


def distance(one: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    parts = [((one[name] - exact[name]).norm() / exact[name].norm()) for name in exact]
    return float(torch.stack(parts).mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_in_half_precision_it_is_as_close_to_the_exact_gradients_as_peft(
    small_model_dir: Path, dtype: torch.dtype, dropout: float
) -> None:
    exact = gradients(adapted(small_model_dir), None)  # dropout's masks depend on the precision
    model = adapted(small_model_dir, dropout=dropout, dtype=dtype)
    theirs = gradients(model, dtype)
    with lean_adapters(model):
        ours = gradients(model, dtype)
    assert not all(torch.equal(ours[name], theirs[name]) for name in ours), "it did nothing"
    if dropout:
        assert_same_gradients(ours, theirs, tolerance=0.1)
        return
    assert distance(ours, exact) <= 1.1 * distance(theirs, exact)


def test_on_a_4_bit_base_it_gives_pefts_gradients(small_model_dir: Path) -> None:
    model, _ = load_model(
        small_model_dir, quantize=True, lora={"lora_dropout": 0.0}, dtype="bfloat16", device="cpu"
    )
    theirs = gradients(model, torch.bfloat16)
    with lean_adapters(model):
        ours = gradients(model, torch.bfloat16)
    assert_same_gradients(
        {name: value for name, value in ours.items() if value.abs().max()},
        {name: value for name, value in theirs.items() if value.abs().max()},
        tolerance=0.1,
    )


def other_adapters(folder: Path) -> dict[str, Any]:
    from mathsft.models.adapters import add_adapter

    def base() -> Any:
        return load_model(folder, dtype="bfloat16", device="cpu")[0]

    dora = add_adapter(base(), use_dora=True, lora_dropout=0.0)
    bias = add_adapter(base(), lora_bias=True, lora_dropout=0.0)
    embedded = add_adapter(base(), target_modules=["embed_tokens"], lora_dropout=0.0)
    return {"DoRA": dora, "a bias": bias, "an embedding": embedded}


@pytest.mark.parametrize("kind", ["DoRA", "a bias", "an embedding"])
def test_of_other_kinds_of_adapters_not_a_bit_changes(small_model_dir: Path, kind: str) -> None:
    model = other_adapters(small_model_dir)[kind]
    theirs = gradients(model, torch.bfloat16)
    with lean_adapters(model):
        ours = gradients(model, torch.bfloat16)
    assert any(value.abs().max() for value in theirs.values())
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_adapter_that_is_off_adds_nothing(small_model_dir: Path) -> None:
    model: PeftModel = adapted(small_model_dir, dtype=torch.bfloat16)
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), lean_adapters(model):
        on = model(input_ids=IDS).logits
        with model.disable_adapter():
            off = model(input_ids=IDS).logits
    plain = model.unload()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(off, plain(input_ids=IDS).logits)
    assert not torch.equal(on, off)


def test_the_layers_compute_as_before_afterwards(small_model_dir: Path) -> None:
    model = adapted(small_model_dir, dtype=torch.bfloat16)
    before = gradients(model, torch.bfloat16)
    state = [
        {key: value for key, value in vars(m).items() if key[0] != "_"} for m in model.modules()
    ]
    with pytest.raises(KeyError), lean_adapters(model):
        raise KeyError("an error inside")
    after = [
        {key: value for key, value in vars(m).items() if key[0] != "_"} for m in model.modules()
    ]
    assert [each.keys() for each in state] == [each.keys() for each in after]
    again = gradients(model, torch.bfloat16)
    assert all(torch.equal(before[name], again[name]) for name in before)


def test_text_is_written_between_steps_in_half_precision(
    small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Callbacks write without autocast, while the steps' layers are in the model."""
    model, tokenizer = load_model(small_model_dir, lora={"r": 4}, dtype="bfloat16", device="cpu")
    rows = read_problems("tiny-gsm", limit=12)[0]
    run = sft_trainer(
        model, tokenizer, rows, output_dir=tmp_path, eval_problems=rows.select(range(4)),
        max_length=256, max_steps=2, per_device_train_batch_size=1, eval_strategy="steps",
        eval_steps=1, bf16=True, disable_tqdm=True,
        callbacks=[show_samples(tokenizer, rows.select(range(2)), samples=1, max_new_tokens=4)],
    )  # fmt: skip
    run.train()
    assert "step 2, sample 1" in capsys.readouterr().out
