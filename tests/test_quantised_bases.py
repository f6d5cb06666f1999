"""Adapters of a base stored in 4 bits load on its full form, and the reverse; on no other base."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapter_variants import VARIANTS, adapted, all_logits, steps, untied_model
from model_files import base, rewrite, trained
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from mathsft.models.adapter_files import base_identity
from mathsft.models.adapters import load_adapter, merge_adapter, save_adapter
from mathsft.models.loading import load_model

SETTINGS = {
    "nf4, twice": {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"bnb_4bit_quant_type": "fp4"},
    "packed as bfloat16": {"bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": "bfloat16"},
}


def in_4_bits(source: Path, folder: Path, settings: str = "nf4, twice") -> Path:
    """Quantise and save with transformers, as ``…-bnb-4bit`` repositories are made."""
    config = BitsAndBytesConfig(load_in_4bit=True, **SETTINGS[settings])
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=config, dtype="float32", device_map="cpu"
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture
def stored(small_model_dir: Path, tmp_path: Path) -> Path:
    return in_4_bits(small_model_dir, tmp_path / "small-bnb-4bit")


Base = Callable[[Path, Path], torch.nn.Module]
BASES: dict[str, Base] = {
    "full": lambda full, stored: base(full),
    "bfloat16": lambda full, stored: base(full, dtype="bfloat16"),
    "quantised on the way": lambda full, stored: base(full, quantize=True),
    "stored in 4 bits": lambda full, stored: base(stored),
    "stored, and told so": lambda full, stored: base(stored, quantize=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("on", BASES)
def test_an_adapter_of_a_folder_in_4_bits_loads_on_its_base_in_any_form(
    small_model_dir: Path, tmp_path: Path, on: str, settings: str
) -> None:
    stored = in_4_bits(small_model_dir, tmp_path / "small-bnb-4bit", settings)
    tuned = steps(adapted(stored))
    save_adapter(tuned, tmp_path / "adapter")
    loaded = load_adapter(BASES[on](small_model_dir, stored), tmp_path / "adapter")
    if "stored" in on:
        assert torch.equal(all_logits(loaded), all_logits(tuned))
    else:  # they differ by the rounding of the base only
        change = (all_logits(loaded) - all_logits(tuned)).abs().max()
        alone = (all_logits(base(small_model_dir)) - all_logits(base(stored))).abs().max()
        assert change < 3 * alone


@pytest.mark.parametrize("trained_on", BASES)
def test_an_adapter_of_any_form_loads_on_the_folder_in_4_bits(
    small_model_dir: Path, stored: Path, tmp_path: Path, trained_on: str
) -> None:
    model = BASES[trained_on](small_model_dir, stored)
    save_adapter(trained(model), tmp_path / "adapter")
    load_adapter(base(stored), tmp_path / "adapter")


@pytest.mark.parametrize("on", ["full", "quantised", "in 4 bits"])
def test_another_base_is_refused_by_what_can_be_compared(
    small_model_dir: Path, stored: Path, tmp_path: Path, on: str
) -> None:
    save_adapter(steps(adapted(stored)), tmp_path / "adapter")
    other = untied_model(tmp_path / "other", small_model_dir)
    if on == "in 4 bits":
        other = in_4_bits(other, tmp_path / "other-bnb-4bit")
    with pytest.raises(ValueError, match=r"another base: .*embed_tokens"):
        load_adapter(base(other, quantize=on == "quantised"), tmp_path / "adapter")


def test_packed_bytes_are_in_no_identity(small_model_dir: Path, stored: Path) -> None:
    of_stored = base_identity(base(stored))["samples"]
    of_full = base_identity(base(small_model_dir))["samples"]
    assert of_stored == {k: v for k, v in of_full.items() if "_proj.weight" not in k}
    on_the_way = base_identity(base(small_model_dir, quantize=True))["samples"]
    assert on_the_way == of_full  # read from the checkpoint's file


def test_stored_values_that_cannot_be_read_as_weights_are_left_out(
    small_model_dir: Path, tmp_path: Path
) -> None:
    """Values of another shape, integers, or 8-bit floats that need their scales."""
    name = "model.layers.{}.self_attn.q_proj.weight"
    folder = shutil.copytree(small_model_dir, tmp_path / "model")
    model = base(folder, quantize=True)
    rewrite(
        folder / "model.safetensors",
        lambda w: w.update(
            {
                name.format(0): w[name.format(0)].to(torch.int8),
                name.format(1): w[name.format(1)].to(torch.float8_e4m3fn),
                "model.layers.0.mlp.up_proj.weight": torch.zeros(3, 3),
            }
        ),
    )
    samples = base_identity(model)["samples"]
    for left_out in (name.format(0), name.format(1), "model.layers.0.mlp.up_proj.weight"):
        assert left_out not in samples
    assert "model.layers.1.mlp.up_proj.weight" in samples


def test_merging_on_a_folder_in_4_bits_says_what_to_load_and_that_works(
    small_model_dir: Path, stored: Path, tmp_path: Path
) -> None:
    model = steps(adapted(stored))
    with pytest.raises(ValueError, match=r"the model that .*small-bnb-4bit was quantised from"):
        merge_adapter(model)
    save_adapter(model, tmp_path / "adapter")
    full, tokenizer = load_model(small_model_dir, device="cpu")
    tuned = load_adapter(full, tmp_path / "adapter")
    expected = all_logits(tuned)
    merge_adapter(tuned, tmp_path / "merged", tokenizer=tokenizer)
    found = all_logits(base(tmp_path / "merged"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["new words", "both saved", "bias all"])
def test_what_the_adapter_brings_comes_back_on_a_folder_in_4_bits(
    stored: Path, tmp_path: Path, variant: str
) -> None:
    tuned = steps(adapted(stored, **VARIANTS[variant]))
    save_adapter(tuned, tmp_path / "adapter")
    assert torch.equal(
        all_logits(load_adapter(base(stored), tmp_path / "adapter")), all_logits(tuned)
    )
    identity = json.loads((tmp_path / "adapter" / "base_identity.json").read_text())
    assert any("layernorm" in name for name in identity["samples"])
