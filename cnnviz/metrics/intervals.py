"""Confidence intervals of figures over many maps: of rates by Wilson or Clopper and Pearson, else by the bootstrap.

A rate of 0 % or 100 % has a bootstrap interval of width zero, which is wrong: for rates use the first two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

_DRAWN_AT_ONCE = 1 << 22
_TINY = 1e-300


def wilson(hits: float, count: float, level: float = 0.95) -> Interval:
    """Wilson's score interval of a rate.

        (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),  p = hits / n

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927. Its coverage is the
    level on average over rates; it never leaves 0 to 1 and has no width zero.

    Args:
        hits: How many of them; may be a fraction, where ``count`` is an effective number.
        count: How many there are, above 0.
        level: 0 to 1.

    Raises:
        ValueError: ``hits`` is not between 0 and ``count``.
    """
    _check(hits, count)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p, scale = hits / count, 1 + z * z / count
    middle = (p + z * z / (2 * count)) / scale
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / scale
    # At the ends the interval touches them exactly; rounding must not push it off.
    return 0.0 if hits == 0 else max(0.0, middle - half), 1.0 if hits == count else min(1.0, middle + half)


def clopper_pearson(hits: int, count: int, level: float = 0.95) -> Interval:
    """The exact interval of a rate: it covers the true rate at least as often as ``level`` says, whatever that is.

    The rates p at which ``hits`` or more, and ``hits`` or fewer, of ``count`` have probability (1 - level) / 2 each.

    Clopper and Pearson, "The Use of Confidence or Fiducial Limits", Biometrika 1934.

    Raises:
        ValueError: ``hits`` is not between 0 and ``count``.
    """
    _check(hits, count)
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else _beta_quantile(tail, hits, count - hits + 1)
    high = 1.0 if hits == count else _beta_quantile(1 - tail, hits + 1, count - hits)
    return low, high


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.floating],
    groups: Sequence[Hashable] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """Percentile interval of a mean; see :func:`bootstrap`."""
    numbers = np.asarray(values, dtype=np.float64)

    def mean(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = weights @ numbers / weights.sum(axis=1)
        return found

    return bootstrap(mean, len(numbers), groups, draws=draws, seed=seed, level=level)


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    count: int,
    groups: Sequence[Hashable] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """Percentile interval of any statistic of rows, drawn again with replacement; whole groups at a time.

    Rows of a group (maps of one image, images of one patient) are not independent: a group is drawn with all its rows.

    Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 1979; Davison and Hinkley,
    "Bootstrap Methods and their Application", 1997, section 3.8 for groups.

    Args:
        statistic: Of weights [B, count], how often each row was drawn in each of B draws: B values. What is chosen by
            looking at the rows, such as a threshold, is chosen in here, anew for each draw.
        count: Rows.
        groups: Group of each row; None where each row is its own.
        draws: How many.
        seed: Of the draws: the same seed gives the same interval.
        level: 0 to 1.

    Returns:
        The (1 -+ level) / 2 quantiles of the draws; None for fewer than two groups, which tell nothing of a spread.
    """
    found = _drawn(statistic, count, groups, draws, seed)
    return None if found is None else _quantiles(found, (1 - level) / 2, (1 + level) / 2)


def bias_corrected(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    count: int,
    groups: Sequence[Hashable] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """The interval of a statistic that is too high, or too low, by what it chooses, such as the best of many rates.

    Draws of such a statistic lie above it as it lies above what it estimates. With s the share of the draws below it,
    half of those that are equal to it among them, the quantiles are

        Phi(2 Phi^-1(s) -+ Phi^-1((1 + level) / 2))

    of the draws, those of :func:`bootstrap` where s is a half. Where many choices are equally good it takes off too
    little.

    Efron, "Nonparametric Standard Errors and Confidence Intervals", Canadian Journal of Statistics 1981.

    Args, Returns: As :func:`bootstrap`.
    """
    found = _drawn(statistic, count, groups, draws, seed)
    if found is None:
        return None
    value = float(statistic(np.ones((1, count), dtype=np.int64))[0])
    below = (np.count_nonzero(found < value) + np.count_nonzero(found <= value)) / 2
    normal = NormalDist()
    shift = 2 * normal.inv_cdf(min(draws - 0.5, max(0.5, below)) / draws)
    reach = normal.inv_cdf((1 + level) / 2)
    return _quantiles(found, normal.cdf(shift - reach), normal.cdf(shift + reach))


def _drawn(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    count: int,
    groups: Sequence[Hashable] | None,
    draws: int,
    seed: int,
) -> NDArray[np.float64] | None:
    """The statistic of each draw; None for fewer than two groups."""
    if groups is None:
        member, units = np.arange(count), count
    else:
        numbers: dict[Hashable, int] = {}
        member = np.fromiter((numbers.setdefault(group, len(numbers)) for group in groups), np.intp, count)
        units = len(numbers)
    if units < 2:
        return None
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // max(units, count))
    found = []
    for start in range(0, draws, at_once):
        rows = min(at_once, draws - start)
        drawn = generator.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        of_units = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        found.append(statistic(of_units[:, member]))
    return np.concatenate(found)


def _quantiles(drawn: NDArray[np.float64], low: float, high: float) -> Interval:
    ends = np.quantile(drawn, (low, high))
    return float(ends[0]), float(ends[1])


def _check(hits: float, count: float) -> None:
    if not (count > 0 and 0 <= hits <= count):
        raise ValueError(f"{hits} of {count} is not a rate")


def _beta_quantile(share: float, a: float, b: float) -> float:
    """x with I_x(a, b) = share, by bisection: the function grows with x."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        low, high = (middle, high) if beta_share(middle, a, b) < share else (low, middle)


def beta_share(x: float, a: float, b: float) -> float:
    """I_x(a, b), the regularised incomplete beta function."""
    if x <= 0:
        return 0.0
    if x > (a + 1) / (a + b + 2):  # on the other side the fraction converges slowly
        return 1.0 - beta_share(1.0 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d1 / (1 + d2 / (1 + ...)) of DLMF 8.17.22, by Lentz's method."""
    value, c, d = 1.0, 1.0, 0.0
    # It needs about the square root of max(a, b) terms.
    for term in range(1, 100 + 10 * math.isqrt(int(max(a, b)))):
        m = term // 2
        if term % 2:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / _away_from_zero(1.0 + step * d)
        c = _away_from_zero(1.0 + step / c)
        value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
