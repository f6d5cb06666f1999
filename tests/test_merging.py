"""Merging keeps the logits or is refused: never half done, never saved beside an adapter."""

from pathlib import Path

import pytest
import torch
from model_files import base, logits, trained

from mathsft.models.adapter_checks import has_adapter
from mathsft.models.adapters import (
    adapter_effect,
    add_adapter,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from mathsft.models.loading import load_model


def test_merged_logits_equal_those_with_the_adapter_in_memory_and_from_disk(
    small_model_dir: Path, tmp_path: Path
) -> None:
    _, tokenizer = load_model(small_model_dir)
    model = trained(base(small_model_dir))
    before, effect = logits(model), adapter_effect(model)
    merged = merge_adapter(model, tmp_path / "merged", tokenizer=tokenizer)
    assert not has_adapter(merged)
    assert (logits(merged) - before).abs().max() < 1e-5 < effect
    assert torch.equal(logits(base(tmp_path / "merged")), logits(merged))
    assert not list((tmp_path / "merged").glob("adapter*"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_merging_in_half_precision_stays_within_rounding(small_model_dir: Path, dtype: str) -> None:
    model = trained(base(small_model_dir, dtype=dtype))
    before = logits(model)
    assert (logits(merge_adapter(model)) - before).abs().max() < 0.02 * before.abs().max()


@pytest.mark.parametrize("scale", [5e-3, 0.05], ids=["swallowed", "a good part lost"])
def test_an_adapter_that_rounding_would_spoil_is_not_merged(
    small_model_dir: Path, tmp_path: Path, scale: float
) -> None:
    """In float32, which the message suggests, it is merged."""
    model = trained(base(small_model_dir, dtype="bfloat16"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(scale)
    assert adapter_effect(model) > 0
    adapter = save_adapter(model, tmp_path / "adapter")
    with pytest.raises(ValueError, match="again with dtype='float32'"):
        merge_adapter(model)
    full = load_adapter(base(small_model_dir, dtype="float32"), adapter)
    before = logits(full)
    assert (logits(merge_adapter(full)) - before).abs().max() < 1e-5


def test_an_adapter_below_the_rounding_of_float32_is_kept_apart(
    small_model_dir: Path, tmp_path: Path
) -> None:
    model = trained(base(small_model_dir), scale=1e-7)
    with pytest.raises(
        ValueError, match="too small to be merged: keep it separate, with save_adapter"
    ):
        merge_adapter(model)
    kept = trained(base(small_model_dir), scale=1e-7)
    save_adapter(kept, tmp_path / "adapter")
    loaded = load_adapter(base(small_model_dir), tmp_path / "adapter")
    assert torch.equal(logits(loaded), logits(kept))


def test_a_zero_adapter_is_not_merged(small_model_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"does nothing.*never trained"):
        merge_adapter(add_adapter(base(small_model_dir)))


def test_merging_into_4_bit_is_refused(small_model_dir: Path, tmp_path: Path) -> None:
    """The message's advice works: save the adapter, load it on the full base, merge there."""
    model = trained(base(small_model_dir, quantize=True))
    with pytest.raises(ValueError, match=r"save_adapter.*load_model\('.*small'\), load_adapter"):
        merge_adapter(model)
    save_adapter(model, tmp_path / "adapter")
    full = load_adapter(load_model(str(small_model_dir))[0], tmp_path / "adapter")
    before = logits(full)
    assert (logits(merge_adapter(full, tmp_path / "merged")) - before).abs().max() < 1e-5


def test_merged_weights_are_never_written_beside_an_adapter(
    small_model_dir: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(trained(base(small_model_dir)), tmp_path / "adapter")
    model = load_adapter(base(small_model_dir), adapter)
    with pytest.raises(ValueError, match="holds an adapter"):
        merge_adapter(model, adapter)
    assert has_adapter(model)  # nothing was merged yet
    assert not (adapter / "model.safetensors").exists()


def test_an_adapter_on_merged_weights_does_not_name_the_first_base(small_model_dir: Path) -> None:
    merged = merge_adapter(trained(base(small_model_dir)))
    assert add_adapter(merged).peft_config["default"].base_model_name_or_path != str(
        small_model_dir
    )
