"""The pre-training script: the same weights from the same seed, and a loss that falls."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config

from mathsft.models.tiny import pretrain
from mathsft.models.tiny.pretrain import schedule


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    factors = [schedule(step, 100) for step in range(100)]
    assert factors[0] == 0.5
    assert factors[1:60] == [1.0] * 59
    assert factors[60:] == sorted(factors[60:], reverse=True)
    assert 0 < factors[-1] < 0.05


@pytest.mark.slow
def test_a_seed_gives_the_same_weights_and_the_loss_falls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        pretrain.train(output=tmp_path / name, steps=6, seed=3)
    losses = [float(x) for x in re.findall(r"step +\d+  loss ([\d.]+)", capsys.readouterr().out)]
    assert losses[1] < losses[0] - 0.5
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_script_builds_the_shipped_architecture() -> None:
    shipped = Qwen2Config.from_pretrained(Path(pretrain.__file__).parent)
    built = pretrain.build_model(shipped.vocab_size, shipped.eos_token_id).config
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                 "num_key_value_heads", "tie_word_embeddings", "pad_token_id"):  # fmt: skip
        assert getattr(built, name) == getattr(shipped, name), name
