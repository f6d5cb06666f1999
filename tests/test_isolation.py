"""Other architectures: scores equal those of separate passes, or the model is refused."""

import copy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mathsft.models import attention as attention_module
from mathsft.models.forest import IGNORE, TokenForest
from mathsft.models.isolation import check_isolation
from mathsft.models.logprobs import sequence_logprobs

MIXED = ["sliding_attention", "full_attention"]
SIZES = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAITHFUL = {
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "llama": {},
    "gemma2": {"head_dim": 8, "sliding_window": 4096},  # it caps the logits after the head
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "phi": {},  # a bias in the head
    "mistral": {"sliding_window": 64},
}
UNFAITHFUL = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
}


def small(kind: str, settings: dict, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **settings})
    model = AutoModelForCausalLM.from_config(config, **more).eval()
    with torch.no_grad():  # larger than at initialisation, so that a wrong mask is visible
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return model


def sequences(length: int) -> list[dict[str, list[int]]]:
    generator = torch.manual_seed(1)
    start = torch.randint(3, 120, (length - 4,), generator=generator).tolist()
    ends = torch.randint(3, 120, (3, 4), generator=generator).tolist()
    return [{"input_ids": start + e, "labels": [IGNORE] * len(start) + e} for e in ends]


def alone(model, found: list[dict[str, list[int]]]) -> list[float]:
    scores = []
    for sequence in found:
        ids = torch.tensor(sequence["input_ids"])
        logprobs = model(input_ids=ids[None, :-1], use_cache=False).logits[0].float()
        logprobs = logprobs.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
        scores.append(float(logprobs[-4:].sum()))
    return scores


@pytest.mark.parametrize(
    ("kind", "attention"),
    [(k, a) for k in FAITHFUL for a in ("sdpa", "eager") if (k, a) != ("gemma2", "sdpa")],
)
def test_models_that_attend_by_the_mask_pass_and_score_as_separate_passes(kind, attention) -> None:
    model = small(kind, FAITHFUL[kind], attn_implementation=attention)
    with torch.no_grad():
        check_isolation(model)
        found = sequences(20)
        batch = TokenForest(found).tensors(pad_token_id=0)
        assert sequence_logprobs(model, batch).sum.tolist() == pytest.approx(
            alone(model, found), abs=1e-3
        )


@pytest.mark.parametrize("kind", UNFAITHFUL)
def test_models_whose_sequences_affect_each_other_despite_the_mask_are_refused(kind) -> None:
    model = small(kind, UNFAITHFUL[kind], attn_implementation="eager")
    with pytest.raises(ValueError, match="does not keep the sequences of a row apart"):
        check_isolation(model)


WINDOWED = {
    "mistral": {"sliding_window": 8},  # one window for all layers
    "gemma3_text": {"head_dim": 8, "sliding_window": 8, "layer_types": MIXED},
    "gemma2": {"head_dim": 8, "sliding_window": 8, "layer_types": MIXED},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "llama4_text": {
        "head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 2,
        "attention_chunk_size": 8, "no_rope_layers": [1, 0],
        "layer_types": ["chunked_attention", "full_attention"],
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "attention"),
    [(k, a) for k in WINDOWED for a in ("sdpa", "eager") if (k, a) != ("gemma2", "sdpa")],
)
def test_sequences_longer_than_a_window_score_as_separate_passes(
    kind: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(kind, WINDOWED[kind], attn_implementation=attention)
    before = model.config.to_dict()
    check_isolation(model)
    assert model.config.to_dict() == before
    with torch.no_grad():
        found = sequences(30)
        batch = TokenForest(found).tensors(pad_token_id=0)
        expected = pytest.approx(alone(model, found), abs=1e-3)
        assert sequence_logprobs(model, batch).sum.tolist() == expected
        monkeypatch.setattr(attention_module, "layer_windows", lambda config: {"any": None})
        assert sequence_logprobs(model, batch).sum.tolist() != expected  # the window counts


def test_a_model_that_takes_one_mask_for_all_its_layers_is_refused() -> None:
    model = small("gemma3_text", {**WINDOWED["gemma3_text"], "sliding_window": 64})
    own = model.forward

    def forward(attention_mask: Any = None, **arguments: Any) -> Any:
        if isinstance(attention_mask, dict):
            attention_mask = attention_mask["full_attention"]
        return own(attention_mask=attention_mask, **arguments)

    model.forward = forward
    with pytest.raises(ValueError, match=r"the windows of .* cannot be set by a mask .logits dif"):
        check_isolation(model)


def test_a_model_that_keeps_its_window_elsewhere_is_refused() -> None:
    model = small("mistral", {"sliding_window": 64})
    model.model.config = copy.copy(model.config)  # this copy does not see changes to the original
    with pytest.raises(ValueError, match=r"the windows of .* cannot be set by a mask .logits dif"):
        check_isolation(model)


def test_a_model_that_fails_on_a_mask_for_each_kind_of_layer_is_refused() -> None:
    model = small("mistral", {"sliding_window": 64})
    model.config.layer_types = MIXED  # its code does not know this list
    with pytest.raises(ValueError, match=r"does not keep .* apart .it fails on our mask"):
        check_isolation(model)


LOCAL = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}


def test_a_window_that_counts_places_of_the_row_is_exact_within_it_and_an_error_beyond() -> None:
    model = small("gpt_neo", {**LOCAL, "window_size": 28})
    check_isolation(model)
    with torch.no_grad():
        within = sequences(20)  # 15 shared tokens and three times 3: 24 positions
        batch = TokenForest(within).tensors(pad_token_id=0)
        assert sequence_logprobs(model, batch).sum.tolist() == pytest.approx(
            alone(model, within), abs=1e-3
        )
        beyond = TokenForest(sequences(26)).tensors(pad_token_id=0)
        with pytest.raises(ValueError, match=r"31 tokens, but some layers .* up to 28 only"):
            sequence_logprobs(model, beyond)


def test_an_sdpa_that_would_leave_out_a_cap_on_scores_is_refused() -> None:
    model = small("gemma2", WINDOWED["gemma2"], attn_implementation="eager")
    model.config._attn_implementation = "sdpa"
    with pytest.raises(ValueError, match="caps its attention scores"):
        sequence_logprobs(model, TokenForest(sequences(10)).tensors(pad_token_id=0))


def test_a_window_that_is_switched_off_does_not_count() -> None:
    model = small("qwen2", {"use_sliding_window": False, "sliding_window": 8})
    with torch.no_grad():
        found = sequences(30)
        batch = TokenForest(found).tensors(pad_token_id=0)
        assert sequence_logprobs(model, batch).sum.tolist() == pytest.approx(
            alone(model, found), abs=1e-3
        )
