"""Models of other kinds: scored as separate passes score them, or refused; never in between."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mathsft.models.forest import IGNORE, TokenForest
from mathsft.models.isolation import check_isolation
from mathsft.models.likelihood import option_logprobs

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
    "gemma2": {"head_dim": 8, "sliding_window": 4096},  # caps its logits after the head
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
    with torch.no_grad():  # larger than at initialisation, so that a wrong mask shows
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
        assert option_logprobs(model, batch).tolist() == pytest.approx(
            alone(model, found), abs=1e-3
        )


@pytest.mark.parametrize("kind", UNFAITHFUL)
def test_models_that_learn_of_their_neighbours_in_another_way_are_refused(kind) -> None:
    model = small(kind, UNFAITHFUL[kind], attn_implementation="eager")
    with pytest.raises(ValueError, match="does not keep the sequences of a row apart"):
        check_isolation(model)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mistral", {"sliding_window": 24}),
        ("gemma2", {"head_dim": 8, "sliding_window": 24}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 0}),
    ],
)
def test_a_sequence_beyond_a_sliding_window_is_an_error_and_one_within_it_is_exact(
    kind, settings
) -> None:
    model = small(kind, settings)
    with torch.no_grad():
        within = sequences(25)  # 24 tokens pass
        batch = TokenForest(within).tensors(pad_token_id=0)
        found = option_logprobs(model, batch).tolist()
        assert found == pytest.approx(alone(model, within), abs=1e-3)
        beyond = TokenForest(sequences(26)).tensors(pad_token_id=0)
        with pytest.raises(ValueError, match=r"25 tokens, but some layers .* only the last 24"):
            option_logprobs(model, beyond)


def test_a_window_that_is_switched_off_does_not_count() -> None:
    model = small("qwen2", {"use_sliding_window": False, "sliding_window": 8})
    with torch.no_grad():
        found = sequences(30)
        batch = TokenForest(found).tensors(pad_token_id=0)
        assert option_logprobs(model, batch).tolist() == pytest.approx(
            alone(model, found), abs=1e-3
        )
