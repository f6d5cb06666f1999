"""The distances of distillation, against TRL's, PyTorch's and the formulas in double precision."""

import math
from typing import Any

import pytest
import torch
from allocations import peak_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from trl.experimental.gkd import GKDTrainer

from mathsft.models import distributions
from mathsft.models.distributions import ScoredLogits, over_logits
from mathsft.objectives.distillation import Distillation
from mathsft.objectives.divergences import alpha_beta, forward_kl, reverse_kl

WORDS = 30


def logits(rows: int = 6, *, seed: int = 0, words: int = WORDS) -> tuple[Tensor, Tensor, Tensor]:
    """A student's, with a gradient, a teacher's, and tokens."""
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = (2 * torch.randn(rows, words, generator=generator) for _ in range(2))
    return ours.requires_grad_(), theirs, torch.randint(words, (rows,), generator=generator)


def ours_and_gradient(objective: Distillation, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    student, teacher, token = logits(seed=seed)
    values = objective.compared(token, student, teacher)[0]
    return values.detach(), torch.autograd.grad(values.sum(), student)[0]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize(
    ("loss_type", "beta"), [("forward_kl", 0.0), ("reverse_kl", 1.0), ("jsd", 0.5), ("jsd", 0.1)]
)
def test_kl_and_jensen_shannon_are_trl_s_times_the_square_of_t(
    loss_type: Any, beta: float, temperature: float
) -> None:
    of_jsd = {"beta": beta} if loss_type == "jsd" else {}
    objective = Distillation(loss_type=loss_type, temperature=temperature, **of_jsd)
    values, gradient = ours_and_gradient(objective)
    student, teacher, _ = logits()
    theirs = GKDTrainer.generalized_jsd_loss(
        student[None], teacher[None], beta=beta, temperature=temperature, reduction="sum"
    )
    torch.testing.assert_close(values.sum(), theirs.detach() * temperature**2)
    (expected,) = torch.autograd.grad(theirs * temperature**2, student)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_soft_cross_entropy_is_pytorch_s_and_has_the_gradient_of_forward_kl(
    temperature: float,
) -> None:
    objective = Distillation(loss_type="soft_cross_entropy", temperature=temperature)
    values, gradient = ours_and_gradient(objective)
    student, teacher, _ = logits()
    soft = (teacher / temperature).softmax(-1)
    expected = functional.cross_entropy(student / temperature, soft, reduction="none")
    torch.testing.assert_close(values, expected.detach() * temperature**2)
    other = ours_and_gradient(Distillation(temperature=temperature))[1]
    torch.testing.assert_close(gradient, other)


def test_mse_and_cosine_are_pytorch_s() -> None:
    student, teacher, _ = logits()
    values, gradient = ours_and_gradient(Distillation(loss_type="mse"))
    expected = functional.mse_loss(student, teacher, reduction="none").mean(-1)
    torch.testing.assert_close(values, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), student)[0])
    values, gradient = ours_and_gradient(Distillation(loss_type="cosine"))
    one = torch.ones(len(student))
    expected = functional.cosine_embedding_loss(student, teacher, one, reduction="none")
    torch.testing.assert_close(values, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), student)[0])


def test_alpha_beta_has_its_formula_its_limits_and_kl_at_its_ends() -> None:
    student, teacher, _ = logits()
    q, p = student.double().log_softmax(-1).detach(), teacher.double().log_softmax(-1)
    for alpha, beta in ((0.2, 0.7), (1.0, 0.5), (0.3, 0.3)):
        a, b, c = alpha, beta, alpha + beta
        terms = p.exp() ** a * q.exp() ** b - a / c * p.exp() ** c - b / c * q.exp() ** c
        torch.testing.assert_close(
            alpha_beta(q, p, alpha=a, beta=b), -terms.sum(-1) / (a * b), rtol=1e-9, atol=1e-12
        )
    torch.testing.assert_close(alpha_beta(q, p, alpha=1, beta=0), forward_kl(q, p))
    torch.testing.assert_close(alpha_beta(q, p, alpha=0, beta=1), reverse_kl(q, p))
    hellinger = (q.div(2).exp() - p.div(2).exp()).square().sum(-1) / 2
    torch.testing.assert_close(alpha_beta(q, p, alpha=0.5, beta=0.5), 4 * hellinger)
    for alpha, beta in ((0.4, 0.0), (0.0, 0.4)):  # the limits are reached
        near = alpha_beta(q, p, alpha=alpha or 1e-6, beta=beta or 1e-6)
        torch.testing.assert_close(
            alpha_beta(q, p, alpha=alpha, beta=beta), near, rtol=1e-4, atol=0
        )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    alpha=st.floats(0, 2),
    beta=st.floats(0.01, 2),
    share=st.floats(0.01, 0.99),
)
def test_divergences_are_0_for_equal_distributions_and_above_for_others(
    seed: int, alpha: float, beta: float, share: float
) -> None:
    alpha = 0.0 if alpha < 1e-3 else alpha
    student, teacher, token = logits(seed=seed)
    student, teacher = student.double(), teacher.double()
    for objective in (
        Distillation(), Distillation(loss_type="reverse_kl"),
        Distillation(loss_type="jsd", beta=share), Distillation(top_k=3),
        Distillation(loss_type="alpha_beta", ab_alpha=alpha, ab_beta=beta),
    ):  # fmt: skip
        assert bool((objective.compared(token, student, teacher)[0] > 0).all())
        same = objective.compared(token, teacher, teacher)[0]
        assert float(same.abs().max()) < 1e-6


def test_the_weights_are_constants_and_those_of_their_formulas() -> None:
    student, teacher, token = logits()
    q, p = student.log_softmax(-1), teacher.log_softmax(-1)
    at = range(len(token)), token
    q_y, p_y = q[at].exp().detach(), p[at].exp()
    kl = (p.exp() * (p - q)).sum(-1)
    weighed = (1 - q_y) * p_y * kl
    values, gradient = ours_and_gradient(Distillation(weight_by_label=True))
    torch.testing.assert_close(values, weighed.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(weighed.sum(), student)[0])
    # Slim, over the two likeliest words and all others as one.
    words = p.topk(2).indices
    rest = [1 - one.exp().gather(-1, words).sum(-1, keepdim=True) for one in (p, q)]
    p_few = torch.cat([p.exp().gather(-1, words), rest[0]], -1)
    q = student.log_softmax(-1)
    rest_q = 1 - q.exp().gather(-1, words).sum(-1, keepdim=True)
    q_few = torch.cat([q.gather(-1, words), rest_q.log()], -1)
    slim = (1 - torch.exp(-p_y / q_y)) * -(p_few * q_few).sum(-1)
    values, gradient = ours_and_gradient(Distillation(loss_type="slim", top_k=2))
    torch.testing.assert_close(values, slim.detach(), rtol=1e-4, atol=1e-5)
    expected = torch.autograd.grad(slim.sum(), student)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    student, teacher, token = logits()
    both = Distillation(ce_weight=0.5, temperature=2.0).compared(token, student, teacher)[0]
    alone = Distillation(temperature=2.0).compared(token, student, teacher)[0]
    nll = functional.cross_entropy(student, token, reduction="none")
    torch.testing.assert_close(both, alone + 0.5 * nll)


@pytest.mark.parametrize("loss_type", ["forward_kl", "reverse_kl", "jsd", "alpha_beta"])
def test_all_words_one_by_one_are_the_whole_distribution_and_fewer_are_never_further(
    loss_type: Any,
) -> None:
    """Joining words into one can only hide differences."""
    whole, gradient = ours_and_gradient(Distillation(loss_type=loss_type))
    for k in (WORDS, WORDS + 5):
        values, other = ours_and_gradient(Distillation(loss_type=loss_type, top_k=k))
        torch.testing.assert_close(values, whole)
        torch.testing.assert_close(other, gradient)
    before = torch.zeros(len(whole))
    for k in (1, 3, 10, WORDS - 1):
        values, other = ours_and_gradient(Distillation(loss_type=loss_type, top_k=k))
        if loss_type != "alpha_beta":
            assert bool((values >= before - 1e-6).all())
            assert bool((values <= whole + 1e-6).all())
        assert math.isfinite(float(other.abs().sum()))
        before = values


def test_k_and_all_but_one_give_what_the_whole_distribution_gives() -> None:
    """The rest is then a single word."""
    whole, gradient = ours_and_gradient(Distillation())
    values, other = ours_and_gradient(Distillation(top_k=WORDS - 1))
    torch.testing.assert_close(values, whole)
    torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-6)


places = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5)), max_size=25)


@settings(max_examples=40, deadline=None)
@given(
    pairs=places, at_once=st.sampled_from([1, 8 * 40, 2**26]), trained=st.booleans(),
    plain=st.booleans(), wider=st.integers(0, 3), seed=st.integers(0, 1000),
)  # fmt: skip
def test_blocks_give_what_whole_matrices_give(
    pairs: Any, at_once: int, trained: bool, plain: bool, wider: int, seed: int
) -> None:
    """Any positions of two passes, any block size, frozen, trained and other heads."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    hidden, weight = normal(8, 5).requires_grad_(), normal(12, 5).requires_grad_(trained)
    other, theirs = normal(6, 3), normal(12 + wider, 3)
    at, at_other = (torch.tensor([p[n] for p in pairs], dtype=torch.long) for n in (0, 1))
    token = torch.randint(12, (len(pairs),), generator=generator)
    upstream = normal(len(pairs))
    leaves = [hidden] + [weight] * trained
    student = hidden @ weight.T
    teacher = (other @ theirs.T)[:, :12]
    objective = Distillation(loss_type="reverse_kl", temperature=2.0)
    whole = objective.compared(token, student[at], teacher[at_other])
    expected = torch.autograd.grad(whole[0], leaves, upstream)
    ours = ScoredLogits(hidden, weight, at, token)
    if not plain:
        ours = ScoredLogits(hidden @ weight.T, None, at, token)
    second = ScoredLogits(other, theirs, at_other, token)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributions, "LOGITS_AT_ONCE", at_once)
        found = over_logits(objective.compared, ours, (second,), (None,))
        for one, wanted in zip(found, whole, strict=True):
            torch.testing.assert_close(one, wanted)
        gradients = torch.autograd.grad(found[0], leaves, upstream)
    for one, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss_type", ["forward_kl", pytest.param("jsd", marks=pytest.mark.slow)])
def test_the_memory_of_152_000_words_is_that_of_a_block_not_of_matrices(loss_type: Any) -> None:
    """400 tokens: one matrix of logits takes 243 MB, and such a loss has about ten of them."""
    words, tokens, width = 151_936, 400, 4
    generator = torch.Generator().manual_seed(0)
    hidden, other = (torch.randn(tokens, width, generator=generator) for _ in range(2))
    hidden.requires_grad_()
    weight = torch.randn(words, width, generator=generator)
    at, token = torch.arange(tokens), torch.zeros(tokens, dtype=torch.long)
    ours, theirs = (ScoredLogits(each, weight, at, token) for each in (hidden, other))
    objective = Distillation(loss_type=loss_type)

    def work() -> None:
        over_logits(objective.compared, ours, (theirs,), (None,))[0].sum().backward()

    assert peak_of(work) < 1.1 * 4 * distributions.LOGITS_AT_ONCE < 1.3 * 4 * words * tokens


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"loss_type": "kl"}, "loss_type='kl': give forward_kl"),
        ({"beta": 1.0}, "beta=1.0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"top_k": 0}, "top_k=0"),
        ({"ab_alpha": 0.0, "ab_beta": 0.0}, "both 0"),
        ({"loss_type": "mse", "temperature": 2.0}, "compares all logits"),
        ({"loss_type": "cosine", "top_k": 5}, "compares all logits"),
        ({"on_policy": True, "ce_weight": 0.5}, "the student's own"),
        ({"teacher": None}, "a folder or a hub name"),
        ({"ce_weight": -1.0}, "ce_weight=-1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Distillation(**given)
