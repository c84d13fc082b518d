"""Designs for Sobol indices: two halves A and B of points in [0, 1]^d, and what their groups say of the error.

An index of coordinate i rests on the pairs (A_ji, B_ji), so that these have to cover the square evenly. Two columns of
one Sobol sequence in 2 d dimensions do not as long as its points are few: columns far apart are nearly functions of
each other, however the sequence is scrambled: the indices of a sum of 16 parts are off by three times what 32
independent points leave, and hardly less with 64. Here each coordinate has its own two-dimensional Sobol points in an
order of its own (Owen, "Latin supercube sampling for very high-dimensional simulations", ACM TOMACS 1998). Of few
coordinates and many points, six and 128 as in ``concepts``, one sequence is the better one.

The points come in groups that are drawn independently, so that how far the groups differ tells the error of their
mean, with what the even cover saves: points of one group depend on each other.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

GROUPS = 4
_LEAST = 8
"""Points from which on there are groups: at least two in each."""


def paired(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """A and B, float32 [count, size] each, uniform in [0, 1]; the groups of :func:`groups_of` are independent.

    Args:
        count: Points of each half.
        size: Coordinates d.
        seed: Of all that is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = [_evenly(len(group), size, generator) for group in groups_of(count)]
    first, second = torch.cat(parts).float().clamp_max(1).unbind(2)
    return first, second


def groups_of(count: int) -> list[range]:
    """The points of each group: four groups of as many but for one; a single group of fewer than eight points."""
    groups = GROUPS if count >= _LEAST else 1
    bounds = [count * k // groups for k in range(groups + 1)]
    return [range(*each) for each in itertools.pairwise(bounds)]


def _evenly(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Pairs [count, size, 2]: Sobol points in a random order, their strips shuffled (exclusive or), random within."""
    strips = 1 << max(1, (count - 1).bit_length())
    points = (torch.quasirandom.SobolEngine(2).draw(count).double() * strips).long()
    order = torch.rand((count, size), generator=generator).argsort(0)
    shuffled = points[order] ^ torch.randint(strips, (1, size, 2), generator=generator)
    return (shuffled + torch.rand(shuffled.shape, generator=generator, dtype=torch.float64)) / strips


def standard_error(influences: Tensor) -> Tensor:
    """The standard error [...] of estimates whose points have ``influences`` [..., n] of mean zero on them.

        sqrt(R / (R - 1) sum_g (t_g - mean t)^2),    t_g the sum over group g, divided by n

    Returns:
        NaN where there is one group.
    """
    count = influences.shape[-1]
    groups = groups_of(count)
    if len(groups) < 2:
        return torch.full_like(influences[..., 0], torch.nan)
    sums = torch.stack([influences[..., each.start : each.stop].sum(-1) for each in groups], -1) / count
    return (sums.var(-1, correction=0) * len(groups) ** 2 / (len(groups) - 1)).sqrt()


def reliability(terms: Tensor) -> Tensor:
    """The correlation [...] to expect of the means over n points of ``terms`` [..., d, n] with those of another seed.

        2 r / (1 + r),    r the mean correlation over d of the means of two groups and of the two others

    (Spearman 1910; Brown 1910). A factor that all of the d share, as a variance that they are divided by, cancels.

    Returns:
        0 to 1; NaN where there is one group.
    """
    groups = groups_of(terms.shape[-1])
    if len(groups) < GROUPS:
        return torch.full_like(terms[..., 0, 0], torch.nan)
    found = []
    for half in itertools.combinations(range(GROUPS), GROUPS // 2):
        others = [k for k in range(GROUPS) if k not in half]
        one, other = (terms[..., [p for k in own for p in groups[k]]].mean(-1) for own in (half, others))
        found.append(_correlation(one, other))
    alike = torch.stack(found).mean(0).clamp_min(0)
    return 2 * alike / (1 + alike)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Of [..., d] over d; 1 where neither varies."""
    a, b = (each - each.mean(-1, keepdim=True) for each in (first, second))
    length = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    flat = (a.square().sum(-1) == 0) & (b.square().sum(-1) == 0)
    return torch.where(length > 0, (a * b).sum(-1) / length.clamp_min(torch.finfo(length.dtype).tiny), flat.to(length))
