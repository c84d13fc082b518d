"""One-sided tests of rates and means, small enough to need no statistics package.

* Exact binomial test.
* Student's t test of a mean, and its form for skewed values: Johnson, "Modified t Tests and Confidence Intervals for
  Asymmetrical Populations", JASA 1978: t = (m + s3 / (6 s^2 n) + s3 m^2 / (3 s^4)) sqrt(n) / s, with the third central
  moment s3.
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


def t_p(values: NDArray[np.float64]) -> float | None:
    """How likely a mean as low as that of these values, or lower, is where the true mean is at least 0.

    The larger of two: Student's, and with Johnson's correction for skewness. None for fewer than three values.
    """
    count = len(values)
    if count < _LEAST:
        return None
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return 1.0 if mean >= 0 else 2.0**-count  # all alike: as rare as a sign that never changes
    third = float(((values - mean) ** 3).mean())
    plain = mean
    corrected = mean + third / (6 * spread**2 * count) + third * mean**2 / (3 * spread**4)
    return max(_student_below(each * math.sqrt(count) / spread, count - 1) for each in (plain, corrected))


def _student_below(t: float, degrees: int) -> float:
    """P(T <= t) of Student's distribution."""
    tail = beta_share(degrees / (degrees + t * t), degrees / 2, 0.5) / 2
    return tail if t < 0 else 1 - tail
