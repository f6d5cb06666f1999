"""A saved adapter restores the model on a fresh base, by `load_adapter` and by plain peft."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from adapter_variants import VARIANTS, adapted, all_logits, by_plain_peft, steps, untied_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_files import base
from packaging.version import Version
from peft import EvaConfig, initialize_lora_eva_weights

from mathsft.models.adapters import load_adapter, merge_adapter, save_adapter
from mathsft.models.loading import load_model

OLD_PEFT = Version(peft.__version__) < Version("0.21")
# Tying only matters to variants that adapt the embedding or the head.
UNTIED = [
    v for v in VARIANTS if any(w in v for w in ("words", "both", "head", "embedding", "tokens"))
]
PAIRS = [(v, True) for v in VARIANTS] + [(v, False) for v in UNTIED]
# In 4 bits only the projections are different layers; these variants treat them differently.
IN_4_BITS = ("plain", "bias all", "lora_bias", "DoRA", "both saved", "tokens", "parameters",
             "all-linear", "new words, LoRA on both")  # fmt: skip


@pytest.fixture(scope="module")
def untied(small_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untied_model(tmp_path_factory.mktemp("models") / "untied", small_model_dir)


def assert_comes_back(model: Any, folder: Path, out: Path, *, quantize: bool = False) -> None:
    expected = all_logits(model)
    words = model.config.vocab_size - base(folder).config.vocab_size
    save_adapter(model, out)
    loaded = load_adapter(base(folder, quantize=quantize), out)
    assert torch.equal(all_logits(loaded), expected)
    plain = by_plain_peft(folder, out, quantize=quantize, new_words=words)
    assert torch.equal(all_logits(plain), expected)


def refused_here(variant: str) -> bool:
    """peft 0.20 trains these biases but does not save them; check_saveable reports that."""
    return OLD_PEFT and variant == "bias lora_only"


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "tied"), PAIRS)
def test_a_trained_adapter_comes_back(
    small_model_dir: Path, untied: Path, tmp_path: Path, variant: str, tied: bool
) -> None:
    folder = small_model_dir if tied else untied
    model = steps(adapted(folder, **VARIANTS[variant]))
    if refused_here(variant):
        with pytest.raises(ValueError, match="bias='all'"):
            save_adapter(model, tmp_path / "adapter")
        return
    assert_comes_back(model, folder, tmp_path / "adapter")


@pytest.mark.parametrize("variant", IN_4_BITS)
def test_an_adapter_trained_in_4_bits_comes_back(
    small_model_dir: Path, tmp_path: Path, variant: str
) -> None:
    model = steps(adapted(small_model_dir, quantize=True, **VARIANTS[variant]))
    assert_comes_back(model, small_model_dir, tmp_path / "adapter", quantize=True)


@pytest.mark.slow
@settings(
    max_examples=10, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    targets=st.lists(
        st.sampled_from(["q_proj", "k_proj", "down_proj", "embed_tokens", "lm_head"]),
        min_size=1, max_size=3, unique=True,
    ),
    saved=st.lists(st.sampled_from(["norm", "lm_head", "embed_tokens"]), max_size=2, unique=True),
    r=st.integers(1, 5),
    rslora=st.booleans(),
    dora=st.booleans(),
    new_words=st.sampled_from([0, 0, 3]),
    tied=st.booleans(),
)  # fmt: skip
def test_settings_in_any_combination_come_back(
    small_model_dir: Path, untied: Path, tmp_path_factory: pytest.TempPathFactory, targets, saved,
    r, rslora, dora, new_words, tied,
) -> None:  # fmt: skip
    folder = small_model_dir if tied else untied
    model = adapted(
        folder, new_words=new_words, target_modules=targets, r=r, use_rslora=rslora,
        # The padding token's row is zero, and DoRA divides by the norm of a row.
        use_dora=dora and "lm_head" not in targets,
        modules_to_save=sorted(set(saved) - set(targets)) or None,
    )  # fmt: skip
    assert_comes_back(steps(model), folder, tmp_path_factory.mktemp("trip") / "adapter")


@pytest.mark.parametrize("variant", ["bias all", "new words, LoRA on both", "both saved"])
def test_an_adapter_that_was_loaded_and_trained_further_comes_back(
    small_model_dir: Path, tmp_path: Path, variant: str
) -> None:
    save_adapter(steps(adapted(small_model_dir, **VARIANTS[variant])), tmp_path / "first")
    loaded = load_adapter(base(small_model_dir), tmp_path / "first", is_trainable=True)
    assert_comes_back(steps(loaded), small_model_dir, tmp_path / "second")


def test_eva_comes_back(small_model_dir: Path, tmp_path: Path) -> None:
    model = adapted(
        small_model_dir, init_lora_weights="eva", eva_config=EvaConfig(rho=2.0, whiten=True)
    )
    rows = torch.arange(2, 98).reshape(4, 24)
    batch = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
    initialize_lora_eva_weights(model, [batch] * 3, show_progress_bar=False)
    assert_comes_back(steps(model), small_model_dir, tmp_path / "adapter")


@pytest.mark.parametrize("variant", ["both saved", "new words", "tokens", "bias all"])
def test_base_weights_saved_with_an_adapter_are_rounded_for_a_half_precision_base(
    small_model_dir: Path, tmp_path: Path, variant: str
) -> None:
    model = steps(adapted(small_model_dir, **VARIANTS[variant]))
    save_adapter(model, tmp_path / "adapter")
    loaded = load_adapter(base(small_model_dir, dtype="bfloat16"), tmp_path / "adapter")
    expected = all_logits(model)
    assert (all_logits(loaded) - expected).abs().max() < 0.01 * expected.abs().max()


@pytest.mark.parametrize(
    ("variant", "tied"),
    [(v, tied) for v, tied in PAIRS if "words" not in v and (tied or "both" in v)],
)
def test_merged_and_loaded_it_is_the_same_model(
    small_model_dir: Path, untied: Path, tmp_path: Path, variant: str, tied: bool
) -> None:
    """LoRA on an embedding that is tied to the head must not be merged into both."""
    folder = small_model_dir if tied else untied
    model = steps(adapted(folder, **VARIANTS[variant]))
    expected = all_logits(model)
    merge_adapter(model, tmp_path / "merged", tokenizer=load_model(folder)[1])
    merged = base(tmp_path / "merged")
    torch.testing.assert_close(all_logits(merged), expected, rtol=1e-4, atol=1e-4)
    one = torch.equal(merged.get_input_embeddings().weight, merged.get_output_embeddings().weight)
    assert merged.config.tie_word_embeddings is one


def test_the_base_is_resized_to_the_adapters_vocabulary_with_a_message(
    small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = steps(adapted(small_model_dir, **VARIANTS["new words"]))
    words = base(small_model_dir).config.vocab_size
    save_adapter(model, tmp_path / "adapter")
    loaded = load_adapter(base(small_model_dir), tmp_path / "adapter")
    assert loaded.get_input_embeddings().weight.shape[0] == words + 5
    assert loaded.config.vocab_size == words + 5
    assert f"{words} embeddings, {words + 5} with the adapter" in capsys.readouterr().out
    by_hand = base(small_model_dir)
    by_hand.resize_token_embeddings(words + 5)
    assert torch.equal(all_logits(load_adapter(by_hand, tmp_path / "adapter")), all_logits(model))


def test_an_adapted_embedding_is_not_stored_beside_its_adapter(
    small_model_dir: Path, tmp_path: Path
) -> None:
    """peft would also save the base's own embedding; load_adapter accepts both kinds of file."""
    model = steps(adapted(small_model_dir, **VARIANTS["LoRA on both"]))
    ours = save_adapter(model, tmp_path / "ours")
    model.save_pretrained(tmp_path / "peft")
    sizes = [(f / "adapter_model.safetensors").stat().st_size for f in (ours, tmp_path / "peft")]
    assert sizes[0] < sizes[1] / 2
    for folder in (ours, tmp_path / "peft"):
        loaded = load_adapter(base(small_model_dir), folder)
        assert torch.equal(all_logits(loaded), all_logits(model))


@pytest.mark.parametrize("variant", ["bias all", "both saved", "new words", "LoRA on both"])
def test_another_base_is_refused_whatever_the_adapter_brings(
    small_model_dir: Path, tmp_path: Path, variant: str
) -> None:
    """The other base has the same shapes, and one projection differs."""
    save_adapter(steps(adapted(small_model_dir, **VARIANTS[variant])), tmp_path / "adapter")
    other = base(small_model_dir)
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight.mul_(1.02)
    with pytest.raises(ValueError, match=r"another base: 1 of \d+ .*layers\.1\.mlp\.up_proj"):
        load_adapter(other, tmp_path / "adapter")
