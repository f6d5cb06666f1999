"""Fingerprints and cache names differ whenever models compute something different."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import adapted
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel

from mathsft.evaluation.guards import fingerprints, tokenizer_values
from mathsft.evaluation.run import evaluate
from mathsft.models import computation
from mathsft.models.computation import base_and_adapter, tensors_hash
from mathsft.models.loading import load_model


@pytest.fixture(scope="module")
def model(small_model_dir: Path) -> Any:
    return adapted(small_model_dir)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_one_number_anywhere_makes_another_fingerprint(model: Any, data: st.DataObject) -> None:
    before = fingerprints(model)
    base, adapter = base_and_adapter(model)
    kind = data.draw(st.sampled_from([base, adapter]))
    tensor = kind[data.draw(st.sampled_from(sorted(kind)))].detach().view(-1)
    place = data.draw(st.integers(0, len(tensor) - 1))
    kept = tensor[place].clone()
    tensor[place] = torch.nextafter(kept, torch.tensor(9.0))  # the smallest possible change
    changed = fingerprints(model)
    tensor[place] = kept
    assert fingerprints(model) == before
    assert [one != two for one, two in zip(changed, before, strict=True)] == [
        kind is base, kind is adapter,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"lora_alpha": 16}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 1}},
        {"use_dora": True}, {"target_modules": ["q_proj"]}, {"r": 4},
        {"modules_to_save": ["lm_head"]}, {"trainable_token_indices": {"embed_tokens": [3]}},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_an_adapter_s_settings_count_beside_equal_tensors(
    model: Any, small_model_dir: Path, change: dict[str, Any]
) -> None:
    other = adapted(small_model_dir, **change)
    assert fingerprints(other)[1] != fingerprints(model)[1]
    assert fingerprints(other)[0] == fingerprints(model)[0]


@pytest.mark.parametrize(
    "what",
    [{}, {"modules_to_save": ["embed_tokens"]}, {"trainable_token_indices": [1, 2]}],
    ids=["lora", "modules_to_save", "tokens"],
)
def test_what_an_adapter_has_trained_beside_lora_counts(
    small_model_dir: Path, what: dict[str, Any]
) -> None:
    model = adapted(small_model_dir, **what)
    before = fingerprints(model)
    for _, parameter in model.named_parameters():
        if parameter.requires_grad:
            kept = parameter.data.clone()
            parameter.data.view(-1)[-1] += 1
            assert fingerprints(model) != before
            parameter.data.copy_(kept)
    assert fingerprints(model) == before


def test_a_base_has_its_fingerprint_whatever_adapter_is_on_it(small_model_dir: Path) -> None:
    plain = fingerprints(load_model(small_model_dir, device="cpu")[0])
    assert plain[1] == ""
    for what in ({}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["embed_tokens"]}):
        assert fingerprints(adapted(small_model_dir, **what))[0] == plain[0]


def test_the_current_state_of_an_adapter_is_in_its_fingerprint(small_model_dir: Path) -> None:
    model: PeftModel = adapted(small_model_dir)
    before = fingerprints(model)
    model.base_model.disable_adapter_layers()
    assert fingerprints(model)[1] != before[1]
    model.base_model.enable_adapter_layers()
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    layer.scale_layer(0.5)
    assert fingerprints(model)[1] != before[1]
    layer.unscale_layer(0.5)
    assert fingerprints(model) == before
    model.base_model.merge_adapter()
    merged = fingerprints(model)
    assert merged[0] != before[0]
    assert merged[1] != before[1]


def test_buffers_that_no_checkpoint_holds_and_the_configuration_count(
    small_model_dir: Path,
) -> None:
    before = fingerprints(load_model(small_model_dir, device="cpu")[0])
    frequencies, theta, norm, half = (load_model(small_model_dir, device="cpu")[0] for _ in "1234")
    frequencies.model.rotary_emb.inv_freq[0] *= 2
    theta.config.rope_parameters["rope_theta"] = 1e6
    norm.config.rms_norm_eps = 1e-5
    found = [fingerprints(other) for other in (frequencies, theta, norm, half.half())]
    assert len({before, *found}) == 5


def test_four_bits_are_another_model_and_one_of_their_constants_counts(
    small_model_dir: Path,
) -> None:
    four, _ = load_model(small_model_dir, quantize=True, device="cpu")
    again, _ = load_model(small_model_dir, quantize=True, device="cpu")
    full, _ = load_model(small_model_dir, device="cpu")
    before = fingerprints(four)
    assert fingerprints(again) == before != fingerprints(full)
    weight = four.model.layers[0].mlp.up_proj.weight
    weight.quant_state.state2.absmax[0] *= 2
    assert fingerprints(four) != before
    weight.quant_state.state2.absmax[0] /= 2
    assert fingerprints(four) == before
    weight.data[0] ^= 1
    assert fingerprints(four) != before


@pytest.mark.slow
def test_equal_models_are_equal_in_another_process_and_after_an_evaluation(
    small_model_dir: Path,
) -> None:
    model, tokenizer = load_model(small_model_dir, device="cpu")
    before, read = fingerprints(model), tokenizer_values(tokenizer)
    found = evaluate(model, "mathqa_tiny", tokenizer=tokenizer, limit=2)
    assert fingerprints(model) == before == (found.weights, found.adapter_hash)
    tokenizer(["a", "a longer one"], padding=True, truncation=True, max_length=3)
    assert tokenizer_values(tokenizer) == read
    code = (
        "import sys; from mathsft.models.loading import load_model\n"
        "from mathsft.evaluation.guards import fingerprints\n"
        "print(*fingerprints(load_model(sys.argv[1], device='cpu')[0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(small_model_dir)],
        env=os.environ | {"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [before[0]]


@given(
    shape=st.lists(st.integers(0, 5), max_size=3),
    dtype=st.sampled_from(
        [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
    ),
    at_once=st.integers(1, 40),
    turned=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_all_bytes_are_read_in_whatever_parts(
    shape: list[int], dtype: torch.dtype, at_once: int, turned: bool
) -> None:
    """Compared with hashlib over the bytes that torch itself writes."""
    tensor = torch.randint(0, 2, shape).to(dtype)
    tensor = tensor.transpose(0, -1) if turned and tensor.dim() > 1 else tensor
    values = bytes(tensor.contiguous().flatten().view(torch.uint8).tolist()) if shape else None
    if values is None:
        values = bytes(tensor.reshape(1).view(torch.uint8).tolist())
    alone = hashlib.sha256(f"{dtype} {tuple(tensor.shape)}".encode() + values).hexdigest()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(computation, "AT_ONCE", at_once)
        found = tensors_hash([("a", tensor)])
    assert found == computation.json_hash({"a": alone})


def test_neither_order_nor_ties_matter_and_names_do() -> None:
    one, two = torch.ones(3), torch.zeros(3)
    assert tensors_hash([("a", one), ("b", two)]) == tensors_hash([("b", two), ("a", one)])
    assert tensors_hash([("a", one), ("b", one)]) == tensors_hash([("a", one), ("b", one.clone())])
    assert tensors_hash([("a", one), ("b", two)]) != tensors_hash([("a", two), ("b", one)])
    assert tensors_hash([("a", torch.ones(2, 3))]) != tensors_hash([("a", torch.ones(3, 2))])
