"""All settings of peft's LoraConfig work; impossible settings are refused by name."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_variants import all_logits, steps
from model_files import base
from peft import IA3Config, LoraConfig, get_peft_model

from mathsft.models.adapters import add_adapter, load_adapter, save_adapter
from mathsft.models.loading import load_model
from mathsft.recipes.estimate import estimate_memory

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def same(one: Any, other: Any) -> bool:
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    return all(a == b and torch.equal(p, q) for (a, p), (b, q) in pairs)


def test_by_default_the_seven_projections_are_adapted_with_the_numbers_that_peft_draws() -> None:
    """As if the seven were listed by name: same names, same weights, same configuration."""
    ours = add_adapter(load_model("tiny")[0])
    torch.manual_seed(0)
    theirs = get_peft_model(
        load_model("tiny")[0],
        LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.05, target_modules=PROJECTIONS,
            task_type="CAUSAL_LM",
        ),
    )  # fmt: skip
    assert same(ours, theirs)
    assert ours.peft_config["default"].to_dict() == theirs.peft_config["default"].to_dict()
    assert ours.peft_config["default"].target_modules == set(PROJECTIONS)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True, "r": 4},
        {"target_modules": "all-linear", "modules_to_save": ["embed_tokens"]},
        {"target_modules": r".*\.1\..*(q_proj|down_proj)", "use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "exclude_modules": ["o_proj"], "lora_alpha": 8},
    ],
    ids=str,
)
def test_a_setting_of_peft_works_in_a_dict_and_in_a_config_and_comes_back(
    small_model_dir: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    ours = base(small_model_dir, lora=settings)
    config = LoraConfig(
        **{
            "r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.05,
            "target_modules": PROJECTIONS,
            **settings,
        }
    )
    before = copy.deepcopy(config)
    assert same(ours, base(small_model_dir, lora=config))
    assert same(ours, add_adapter(base(small_model_dir), config))
    assert config == before  # the caller's config is not changed
    expected = all_logits(steps(ours))
    save_adapter(ours, tmp_path / "adapter")
    assert torch.equal(
        all_logits(load_adapter(base(small_model_dir), tmp_path / "adapter")), expected
    )


def test_what_lora_does_not_have_is_refused_before_anything_is_loaded(
    small_model_dir: Path,
) -> None:
    nowhere = small_model_dir / "nowhere"
    with pytest.raises(ValueError, match=r"unknown LoRA setting 'use_dorra'.*mean 'use_dora'"):
        load_model(nowhere, lora={"use_dorra": True})
    with pytest.raises(ValueError, match=r"lora\.r=0: give 1 or more"):
        load_model(nowhere, lora={"r": 0})
    with pytest.raises(ValueError, match=r"lora_dropout=1\.5: give 0 or more and below 1"):
        load_model(nowhere, lora=LoraConfig(lora_dropout=1.5))
    with pytest.raises(ValueError, match="IA3Config was given, but adapters here are LoRA"):
        load_model(nowhere, lora=IA3Config())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a LoraConfig and r were given"):
        add_adapter(base(small_model_dir), LoraConfig(), r=8)
    with pytest.raises(ValueError, match=r"modules_to_save: unknown module 'lm_haed'.*'lm_head'"):
        add_adapter(base(small_model_dir), modules_to_save=["lm_haed"])


def test_the_estimate_counts_what_an_adapter_trains(small_model_dir: Path) -> None:
    for lora in (True, {"r": 4}, {"use_dora": True}, {"modules_to_save": ["embed_tokens"]}):
        recipe: dict[str, Any] = {"model": {"name": small_model_dir, "lora": lora}, "sft": {}}
        model = base(small_model_dir, lora=lora)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert estimate_memory(recipe).adapters == pytest.approx(4 * trained / 1e9)


def test_gpt2_needs_no_setting_and_no_warning() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adapted = add_adapter(model)
    assert not [w for w in said if "fan_in_fan_out" in str(w.message)]
    assert adapted.peft_config["default"].target_modules == {"c_attn", "c_proj", "c_fc"}


def test_the_experts_of_a_mixture_are_counted_as_left_out_or_adapted_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    add_adapter(MixtralForCausalLM(config))
    left_out = 2 * 4 * 3 * 32 * 64  # layers, experts, matrices
    assert f"LoRA: {left_out:,} weights of the mixture's experts" in capsys.readouterr().out
    model = add_adapter(
        MixtralForCausalLM(config), target_parameters=["mlp.experts.gate_up_proj"], lora_dropout=0.0
    )
    assert f"LoRA: {left_out // 3:,} weights" in capsys.readouterr().out  # down_proj
    assert any("experts" in n and "lora_A" in n for n, _ in model.named_parameters())
