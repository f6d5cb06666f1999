"""How far a student's distribution is from a teacher's, at each position.

``student`` and ``teacher`` are log-probabilities (n, V) in float32; a result is (n,), in nats. With
p the teacher's probability of a word and q the student's, sums are over the words.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p || q) = sum p (log p - log q): the student must cover all that the teacher does."""
    return (teacher.exp() * (teacher - student)).sum(-1)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(q || p) = sum q (log q - log p): the student may leave out what it cannot do."""
    return (student.exp() * (student - teacher)).sum(-1)


def jensen_shannon(student: Tensor, teacher: Tensor, *, beta: float) -> Tensor:
    """Generalised Jensen-Shannon divergence (Agarwal et al. 2024, arXiv:2306.13649, eq. 1).

    beta KL(p || m) + (1 - beta) KL(q || m), with the mixture m = beta p + (1 - beta) q. It is at
    most ln 2. Divided by beta, it is forward KL for a small beta; divided by 1 - beta, reverse KL
    for one near 1.

    Args:
        student: log-probabilities (n, V).
        teacher: log-probabilities (n, V).
        beta: the teacher's share of the mixture, above 0 and below 1.
    """
    shares = torch.log(torch.tensor([beta, 1 - beta]))
    mixture = torch.logaddexp(teacher + shares[0].item(), student + shares[1].item())
    return beta * forward_kl(mixture, teacher) + (1 - beta) * forward_kl(mixture, student)


def soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """-sum p log q: forward KL and the teacher's entropy. Its gradient is that of forward KL."""
    return -(teacher.exp() * student).sum(-1)


def alpha_beta(student: Tensor, teacher: Tensor, *, alpha: float, beta: float) -> Tensor:
    """The alpha-beta divergence of p and q (Cichocki et al. 2011, Entropy 13(1), eq. 19).

    -1 / (alpha beta) sum (p^alpha q^beta - alpha/(alpha+beta) p^(alpha+beta) - beta/(alpha+beta)
    q^(alpha+beta)), and its limits where alpha or beta is 0. (1, 0) is forward KL, (0, 1) reverse
    KL, (1/2, 1/2) is 4 times the squared Hellinger distance. For distillation: Wang et al. 2025
    (ABKD, arXiv:2505.04560).

    Args:
        student: log-probabilities (n, V).
        teacher: log-probabilities (n, V).
        alpha: 0 or more; a larger one weighs words that the teacher finds likely.
        beta: 0 or more, and not 0 if alpha is; a larger one weighs those that the student does.
    """
    total = alpha + beta
    p, q = (total * teacher).exp(), (total * student).exp()
    if beta == 0:
        terms = (p * (alpha * (teacher - student)) - p + q) / alpha**2
    elif alpha == 0:
        terms = (q * (beta * (student - teacher)) - q + p) / beta**2
    else:
        mixed = (alpha * teacher + beta * student).exp()
        terms = (alpha / total * p + beta / total * q - mixed) / (alpha * beta)
    return terms.sum(-1)


def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over the words of (student - teacher)², for logits (Ba & Caruana 2014).

    A mean, so the scale hardly depends on the size of the vocabulary. A constant added to all
    logits of a position changes it, though it changes no probability.
    """
    return (student - teacher).square().mean(-1)


def logit_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos(student, teacher), for logits: their direction alone counts."""
    return 1 - torch.cosine_similarity(student, teacher, dim=-1)


DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jensen_shannon,
    "soft_cross_entropy": soft_cross_entropy,
    "alpha_beta": alpha_beta,
    "slim": soft_cross_entropy,  # the objective weighs it, over the likeliest words
}
LOGIT_DISTANCES: dict[str, Callable[..., Tensor]] = {"mse": logit_mse, "cosine": logit_cosine}
