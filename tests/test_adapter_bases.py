"""An adapter only loads on the base that it was trained on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from model_files import base, logits, trained
from transformers import Qwen2Config, Qwen2ForCausalLM

from mathsft.models.adapter_checks import has_adapter
from mathsft.models.adapters import load_adapter, merge_adapter, save_adapter


def other_model(folder: Path, like: Path, *, seed: int, **changes: int) -> Path:
    """Save another random model with the architecture of `like`, and its tokenizer."""
    shutil.copytree(like, folder)
    old = Qwen2Config.from_pretrained(like).to_dict()
    config = Qwen2Config(**{**old, "layer_types": None, **changes})
    torch.manual_seed(seed)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"intermediate_size": 96}, "other shapes.*gate_proj.*in the file"),
        ({"num_hidden_layers": 3}, r"missing.*layers\.2.*another base"),
        ({"num_hidden_layers": 1}, r"unexpected.*layers\.1.*another base"),
    ],
    ids=["narrower", "deeper", "shallower"],
)
def test_an_adapter_of_a_base_of_other_shape_raises(
    small_model_dir: Path, tmp_path: Path, adapter: Path, changes: dict[str, int], found: str
) -> None:
    other = base(other_model(tmp_path / "other", small_model_dir, seed=0, **changes))
    with pytest.raises(ValueError, match=found):
        load_adapter(other, adapter)
    assert not has_adapter(other)


@pytest.mark.parametrize("quantize", [False, True], ids=["float32", "nf4"])
def test_an_adapter_of_a_base_with_other_weights_raises(
    small_model_dir: Path, tmp_path: Path, adapter: Path, quantize: bool
) -> None:
    other = other_model(tmp_path / "other", small_model_dir, seed=1)
    with pytest.raises(ValueError, match=r"another base.*weights differ.*model"):
        load_adapter(base(other, quantize=quantize), adapter)


@pytest.mark.parametrize("quantize", [False, True], ids=["float32", "nf4"])
def test_the_base_with_another_adapter_merged_in_is_another_base(
    small_model_dir: Path, tmp_path: Path, quantize: bool
) -> None:
    """Embedding and norms are equal; only the projections differ."""
    merge_adapter(trained(base(small_model_dir)), tmp_path / "merged")
    for path in small_model_dir.glob("tokenizer*"):
        shutil.copy(path, tmp_path / "merged")
    second = trained(base(tmp_path / "merged", quantize=quantize))
    save_adapter(second, tmp_path / "second")
    load_adapter(base(tmp_path / "merged", quantize=quantize), tmp_path / "second")
    with pytest.raises(ValueError, match=r"another base.*_proj"):
        load_adapter(base(small_model_dir, quantize=quantize), tmp_path / "second")


def test_a_moved_base_is_still_the_same(
    small_model_dir: Path, tmp_path: Path, adapter: Path
) -> None:
    moved = load_adapter(base(shutil.copytree(small_model_dir, tmp_path / "moved")), adapter)
    assert torch.equal(logits(moved), logits(load_adapter(base(small_model_dir), adapter)))


def test_a_damaged_identity_raises(small_model_dir: Path, adapter: Path) -> None:
    (adapter / "base_identity.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(ValueError, match=r"base_identity\.json cannot be read"):
        load_adapter(base(small_model_dir), adapter)
