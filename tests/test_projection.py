"""The log-probabilities of scored tokens and their gradients equal those of a plain log_softmax."""

import pytest
import torch
from gradients import adapted
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.models import projection
from mathsft.models.forest import IGNORE, TokenForest
from mathsft.models.logprobs import sequence_logprobs
from mathsft.models.projection import TokenLogprobs, has_plain_head

WORDS, WIDTH = 50, 8
# Distinct (branch, token) pairs in order, as the forest gives them: one to three words a position.
edges = st.lists(
    st.lists(st.integers(0, WORDS - 1), min_size=1, max_size=3, unique=True),
    min_size=1,
    max_size=20,
)


@pytest.mark.parametrize("logits_at_once", [1, 7 * WORDS, 2**26])
@settings(max_examples=20, deadline=None)
@given(words=edges, seed=st.integers(0, 1000))
def test_values_and_gradients_are_those_of_log_softmax(logits_at_once, words, seed):
    generator = torch.manual_seed(seed)
    hidden = torch.randn(len(words), WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(WORDS, WIDTH, generator=generator, dtype=torch.float64)
    hidden.requires_grad_()
    weight.requires_grad_()
    branch = torch.tensor([n for n, row in enumerate(words) for _ in row])
    token = torch.tensor([word for row in words for word in sorted(row)])
    upstream = torch.randn(len(token), generator=generator)
    expected = (hidden @ weight.T).log_softmax(-1)[branch, token]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "LOGITS_AT_ONCE", logits_at_once)
        ours, _ = TokenLogprobs.apply(hidden, weight, branch, token)
        assert torch.allclose(ours.double(), expected, rtol=1e-5, atol=1e-5)
        found = torch.autograd.grad(ours, (hidden, weight), upstream)
    wanted = torch.autograd.grad(expected, (hidden, weight), upstream.double())
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).abs().max() <= 1e-5 * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.05), (torch.bfloat16, 0.3)])
def test_half_precision_keeps_small_probabilities_and_nearly_certain_tokens(dtype, tolerance):
    """150,000 words: most probabilities are below float16's range, and one token is sure.

    The tolerance is the error that rounding the logits alone causes, in any formula.
    """
    generator = torch.manual_seed(0)
    weight = torch.randn(150_000, 16, generator=generator).mul(0.5).to(dtype)
    hidden = torch.randn(3, 16, generator=generator).to(dtype)
    hidden[2] = weight[3] * 25  # its own word is nearly certain: the two large terms cancel
    pairs = torch.arange(3), torch.tensor([1, 2, 3])
    gradients = []
    for h, w in [(hidden, weight), (hidden.float(), weight.float())]:
        h.requires_grad_()
        logprobs, _ = TokenLogprobs.apply(h, w, *pairs)
        gradients += torch.autograd.grad(logprobs, h, torch.ones(3))
    assert 0 > logprobs[2] > -0.01
    half, full = (gradient.float() for gradient in gradients)
    for one, other in zip(half, full, strict=True):
        assert (one - other).abs().max() < tolerance * other.abs().max()


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    context = [5, 6, 7, 8]
    choices = [[9], [10, 11, 12], [10, 11, 13], [10]]
    return TokenForest(
        [{"input_ids": context + c, "labels": [IGNORE] * 4 + c} for c in choices]
    ).tensors(pad_token_id=0)


def test_a_head_that_is_not_plain_gives_the_same_through_the_model(small_model_dir, batch):
    model = adapted(small_model_dir).eval()
    assert has_plain_head(model)
    plain = sequence_logprobs(model, batch).sum
    model.config.final_logit_softcapping = 30.0  # Qwen2 itself ignores it
    assert not has_plain_head(model)
    torch.testing.assert_close(sequence_logprobs(model, batch).sum, plain, rtol=0, atol=1e-5)


def test_a_head_whose_weight_deepspeed_holds_is_asked_for_its_logits(small_model_dir, batch):
    model = adapted(small_model_dir).eval()
    plain = sequence_logprobs(model, batch).sum
    model.get_output_embeddings().weight.ds_id = 0  # as ZeRO-3 marks a parameter
    assert not has_plain_head(model)
    torch.testing.assert_close(sequence_logprobs(model, batch).sum, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("plain", [True, False])
def test_each_position_that_predicts_a_scored_token_is_projected_once_and_no_other(
    small_model_dir, batch, plain, monkeypatch
):
    model = adapted(small_model_dir)
    if not plain:
        model.config.final_logit_softcapping = 30.0
    projected: list[int] = []
    by_the_head: list[int] = []
    apply = TokenLogprobs.apply

    def counted(hidden, *rest):
        projected.append(len(hidden))
        return apply(hidden, *rest)

    monkeypatch.setattr(TokenLogprobs, "apply", counted)
    model.get_output_embeddings().register_forward_hook(
        lambda head, given, logits: by_the_head.append(logits.shape[:-1].numel())
    )
    sequence_logprobs(model, batch).sum.sum().backward()
    # Four choices, three positions: after the question, after "10", after "10 11".
    assert (projected, by_the_head) == (([3], [0]) if plain else ([], [3]))


def test_scoring_without_gradients_prepares_none_also_where_the_head_is_trainable(
    small_model_dir, batch, monkeypatch
):
    model = adapted(small_model_dir)
    model.get_output_embeddings().weight.requires_grad_()
    products: list[int] = []
    product = projection.product
    monkeypatch.setattr(projection, "product", lambda *a: products.append(1) or product(*a))
    with torch.no_grad():
        silent = sequence_logprobs(model, batch).sum
    assert products == []
    assert torch.equal(silent, sequence_logprobs(model, batch).sum)
    assert products == [1]
