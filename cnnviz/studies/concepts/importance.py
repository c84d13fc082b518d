"""How much of a score's variance each concept is behind: total Sobol indices of masks on the concepts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_TINY = 1e-12


def total_indices(score: Callable[[Tensor], Tensor], concepts: int, designs: int, seed: int) -> tuple[Tensor, float]:
    """Total Sobol indices of a score f(m), m uniform in [0, 1]^K, by Jansen's estimator (1999).

        S_k = mean over j of (f(A_j) - f(A_j with m_k of B_j))^2 / (2 Var f)

    A and B are the halves of a scrambled Sobol sequence in 2 K dimensions; the variance is that over A and B.

    Args:
        score: Scores [M] of masks [M, K].
        concepts: K.
        designs: Points of A and of B.
        seed: Of the scrambling.

    Returns:
        [K] float64, zeros where the score does not vary; and the variance.
    """
    drawn = torch.quasirandom.SobolEngine(2 * concepts, scramble=True, seed=seed).draw(designs)
    first, second = drawn[:, :concepts], drawn[:, concepts:]
    a, b = score(first).cpu().double(), score(second).cpu().double()
    variance = float(torch.cat([a, b]).var(correction=0))
    indices = torch.zeros(concepts, dtype=torch.float64)
    if variance > _TINY:
        for concept in range(concepts):
            mixed = first.clone()
            mixed[:, concept] = second[:, concept]
            indices[concept] = (a - score(mixed).cpu().double()).square().mean() / (2 * variance)
    return indices, variance
