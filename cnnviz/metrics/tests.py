"""Tests of rates and means, small enough to need no statistics package.

* Exact binomial test.
* Paired permutation test of an event: did it follow what was done more often than what was done at random.
* McNemar's exact test of two rates on the same cases: McNemar, "Note on the Sampling Error of the Difference between
  Correlated Proportions or Percentages", Psychometrika 1947. Of b + c cases in which one alone is right, each is as
  likely to be right; p is two-sided: twice the smaller tail, at most 1.
* Student's t test of a mean, and its form for skewed values: Hall, "On the Removal of Skewness by Transformation", JRSS
  B 1992: t = sqrt(n) (S + g S^2 / 3 + g^2 S^3 / 27 + g / (6 n)) with S = m / s and the skewness g = s3 / s^3 of the
  third central moment s3. It is Johnson's form (JASA 1978) with a term of third degree, which keeps it monotone:
  without that, means of skewed values look the better the further beyond the bound they lie.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cnnviz.metrics.intervals import beta_share

_LEAST = 3


def binomial_p(hits: int, count: int, rate: float, *, below: bool) -> float:
    """P(as few hits, or fewer) of ``count`` at this rate (``below``), or as many, or more.

    Args:
        hits: How many there were.
        count: Of how many.
        rate: At the edge of what is allowed, 0 to 1.
        below: Whether too few hits speak against it.
    """
    if below:
        # P(X <= k) = I_{1-p}(n - k, k + 1)
        return 1.0 if hits >= count or rate <= 0 else 0.0 if rate >= 1 else beta_share(1 - rate, count - hits, hits + 1)
    # P(X >= k) = I_p(k, n - k + 1)
    return 1.0 if hits <= 0 or rate >= 1 else 0.0 if rate <= 0 else beta_share(rate, hits, count - hits + 1)


def paired_p(done: NDArray[np.bool_], at_random: NDArray[np.bool_]) -> float:
    """How likely as many events, or more, are where what was done is no other than what was done at random.

    In each row the one that was done may then be any of the J + 1. Their number is a sum of independent events of
    probability (done + sum of at_random) / (J + 1); its distribution is that of all (J + 1)^n ways to choose, so this
    is (k + 1) / (n + 1) with all other ways in the place of n that are drawn.

    Args:
        done: [n] whether it followed what was done.
        at_random: [n, J] whether it followed each of what was done at random.
    """
    shares = (done.astype(float) + at_random.sum(1)) / (1 + at_random.shape[1])
    chances = np.ones(1)
    for share in shares:
        chances = np.convolve(chances, (1 - share, share))
    return float(min(1.0, chances[int(done.sum()) :].sum()))


def mcnemar_p(only_a: int, only_b: int) -> float:
    """How likely so uneven a split of the cases in which one alone is right is where both are right equally often."""
    count = only_a + only_b
    return min(1.0, 2 * binomial_p(min(only_a, only_b), count, 0.5, below=True)) if count else 1.0


def t_p(values: NDArray[np.float64], most: float = 1.0) -> float | None:
    """How likely a mean as low as that of these values, or lower, is where the true mean is at least 0.

    The larger of two: Student's, and with Hall's correction for skewness. None for fewer than three values. Where all
    are the same v < 0 there is no spread to test with: a variable of at most M whose mean is at least 0 is v or less
    with probability M / (M - v) at most, each time.

    Args:
        values: What was measured, less what is allowed.
        most: The largest value that there can be.
    """
    count = len(values)
    if count < _LEAST:
        return None
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return 1.0 if mean >= 0 else (most / (most - mean)) ** count
    ratio, skewness = mean / spread, float(((values - mean) ** 3).mean()) / spread**3
    corrected = ratio + skewness * ratio**2 / 3 + skewness**2 * ratio**3 / 27 + skewness / (6 * count)
    return max(_student_below(each * math.sqrt(count), count - 1) for each in (ratio, corrected))


def _student_below(t: float, degrees: int) -> float:
    """P(T <= t) of Student's distribution."""
    tail = beta_share(degrees / (degrees + t * t), degrees / 2, 0.5) / 2
    return tail if t < 0 else 1 - tail
