"""What a paired difference says: its interval, its p value, and what would have shown.

Both models answer the same questions. If a question is right or wrong, only the questions that one
of the two answers correctly say anything: ``gained`` by the second model, or ``lost``. For other
metrics there is one difference for each question.
"""

import math

import numpy as np
from numpy.typing import NDArray

from mathsft.checks import Rule, at_least, check_number

Numbers = NDArray[np.float64]
Z = 1.959963984540054  # 95 % of a normal distribution are within this many standard deviations
_EXACT = 13  # of up to so many differences all 8,192 signs are tried
_FLIPS = 9_999  # else so many drawn ones: p = 0.05 is then known to 0.002


def score_interval(
    gained: Numbers | int, lost: Numbers | int, n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 95 % interval of the difference of two accuracies on the same n questions.

    Tango's score interval (1998, Statistics in Medicine 17:891): all differences d that the score
    test does not reject, ``|gained − lost − n d| ≤ 1.96 √var(d)``. The variance ``n (2 q + d (1 −
    d))`` belongs to d itself, with q the most probable share of lost questions if the difference
    is d. So the interval has a width even if no question was gained or lost: a bootstrap, or
    ± 1.96 standard errors, would be certain that the models are equal.

    It contains the true difference in 93 to 97 % of experiments if five or more questions are
    expected to be answered differently (97.3 % at most with 20 questions). With fewer, it is
    cautious, and contains the difference more often. ``gained`` and ``lost`` may be arrays.
    """
    gained = np.asarray(gained, dtype=float)
    lost = np.asarray(lost, dtype=float)
    return _lower(gained, lost, n), -_lower(lost, gained, n)


def _lower(gained: Numbers, lost: Numbers, n: int) -> Numbers:
    """The smallest d that the score test does not reject, by bisection of all at once."""
    low = np.full(gained.shape, -1.0)
    high = (gained - lost) / n
    for _ in range(50):
        d = (low + high) / 2
        # q solves 2 n q² + linear q + constant = 0.
        linear = (2 * n - gained + lost) * d - gained - lost
        constant = -lost * d * (1 - d)
        root = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0))
        q = (root - linear) / (4 * n)
        spread = np.sqrt(np.maximum(n * (2 * q + d * (1 - d)), 0))
        outside = gained - lost - n * d > Z * spread
        low, high = np.where(outside, d, low), np.where(outside, high, d)
    return np.asarray((low + high) / 2)


def mean_difference_interval(differences: Numbers) -> tuple[float, float]:
    """The 95 % interval of the mean of differences that are not only −1, 0 and 1.

    Student's t interval, computed with two more differences: the largest one seen, once with each
    sign. Bonett and Price (2012, J. Educ. Behav. Stat. 37:479) add +1 and −1 in this way if answers
    are right or wrong. Without them, a few large differences among zeros, or ten equal ones, would
    look certain. If all differences are 0, nothing tells their size, and both ends are NaN.
    """
    from scipy.special import stdtrit

    largest = float(np.abs(differences).max())
    if largest == 0:
        return math.nan, math.nan
    more = np.append(differences, [largest, -largest])
    half = float(stdtrit(len(more) - 1, 0.975) * more.std(ddof=1) / math.sqrt(len(more)))
    return float(more.mean()) - half, float(more.mean()) + half


def mcnemar_p(gained: Numbers, lost: Numbers) -> Numbers:
    """McNemar's exact p: were all unequal answers the toss of a fair coin? 1 if there are none."""
    from scipy.stats import binom

    both = gained + lost
    return np.asarray(np.minimum(1.0, 2 * binom.cdf(np.minimum(gained, lost), both, 0.5)))


def sign_flip_p(differences: Numbers) -> Numbers:
    """Fisher's sign-flip p for each column of differences, (n, pairs).

    If both models were equally good, each difference could as well have the other sign. p is the
    share of all signs whose sum is as far from 0 as the one that was found; for many questions, of
    9,999 drawn ones, the same in each call. For right and wrong answers it is McNemar's exact p.
    """
    n = len(differences)
    found = np.abs(differences.sum(axis=0))
    reached = found * (1 - 1e-9) - 1e-12  # sums of equal numbers differ in their last digits
    if n <= _EXACT:
        signs = 1 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return np.asarray((np.abs(signs @ differences) >= reached).mean(axis=0))
    draw = np.random.default_rng(0)
    count = np.zeros(found.shape)
    size = max(1, 4_000_000 // n)  # signs at once: 32 MB
    for start in range(0, _FLIPS, size):
        signs = 1 - 2.0 * draw.integers(0, 2, (min(size, _FLIPS - start), n))
        count += (np.abs(signs @ differences) >= reached).sum(axis=0)
    return np.asarray((1 + count) / (1 + _FLIPS))


def detectable_difference(n: int, unequal: float, *, power: float = 0.8) -> float:
    """The smallest true difference of two accuracies that n shared questions show (p < 0.05).

    Args:
        n: the number of questions.
        unequal: the share of questions that only one of the two answers correctly; these
            questions are the noise of a paired comparison.
        power: the probability with which the difference shows; 0.8 is the usual choice.

    Solves Connor's sample size for McNemar's test (1987, Biometrics 43:207),
    ``n d² = (z₀.₉₇₅ √u + z_power √(u − d²))²``, for d. The result is 1 (no difference shows) if
    even d = u would not show, because too few questions are answered differently.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    give = "a count, and two shares"
    check_number("n", n, Rule(at_least(1).holds, give))
    check_number("unequal", unequal, Rule(lambda share: 0 <= share <= 1, give))
    check_number("power", power, Rule(lambda share: 0 < share < 1, give))
    reach = float(ndtri(power))

    def short(d: float) -> float:
        return math.sqrt(n) * d - Z * math.sqrt(unequal) - reach * math.sqrt(unequal - d * d)

    # u is the share gained plus the share lost, so their difference cannot exceed it.
    return float(brentq(short, 0, unequal)) if short(unequal) > 0 else 1.0


def detectable_mean(differences: Numbers) -> float:
    """As `detectable_difference`, for other metrics; NaN if the differences do not vary."""
    from scipy.special import ndtri

    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    return (Z + float(ndtri(0.8))) * spread / math.sqrt(len(differences)) if spread else math.nan
