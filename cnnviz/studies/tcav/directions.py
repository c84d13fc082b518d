"""Concept activation vectors, and whether their scores differ from those of vectors that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

_TINY = 1e-10
FEWEST = 3
"""Pictures of each side that a vector needs: one is held out, and two are learned from."""


@dataclass(frozen=True, eq=False)
class Cavs:
    """Vectors of P partitions.

    Attributes:
        directions: float64 [P, D], rows of unit length, or of zeros where nothing tells the sides apart.
        accuracies: [P], the classifiers' accuracy on the pictures that were held out.
    """

    directions: NDArray[np.float64]
    accuracies: NDArray[np.float64]

    @property
    def nothing(self) -> int:
        """How many of the vectors are zeros: no step along them says anything."""
        return int((~self.directions.any(axis=1)).sum())


@dataclass(frozen=True)
class Compared:
    """A mean score with its interval, and the p value of the test."""

    mean: float
    interval: tuple[float, float]
    random_mean: float
    random_interval: tuple[float, float]
    p: float


def pictures_of_side(concept: int, random: int) -> int:
    """How many pictures each side of a classifier has: as many of the concept as of either part of the random ones."""
    return min(concept, random // 2)


def of_concept(concept: Floats, random: Floats, partitions: int, seed: int) -> Cavs:
    """Vectors towards a concept: in each partition m of its pictures against m random ones.

    Args:
        concept: Activations [n, D] of the concept's pictures.
        random: Activations [r, D] of random pictures; m = min(n, r / 2) is at least 3.
        partitions: How many.
        seed: Of the partitions, which are the same for all concepts.
    """
    side = pictures_of_side(len(concept), len(random))
    rows = []
    for number in range(partitions):
        rng = np.random.default_rng([seed, number])
        others = random[rng.permutation(len(random))[:side]]
        rows.append(cav(concept[rng.permutation(len(concept))[:side]], others))
    return _joined(rows)


def of_chance(random: Floats, side: int, partitions: int, seed: int) -> Cavs:
    """Vectors towards nothing: ``side`` other random pictures against those that the concept's classifier gets."""
    rows = []
    for number in range(partitions):
        order = np.random.default_rng([seed, number]).permutation(len(random))
        rows.append(cav(random[order[side : 2 * side]], random[order[:side]]))
    return _joined(rows)


def _joined(rows: Sequence[tuple[NDArray[np.float64], float]]) -> Cavs:
    return Cavs(np.stack([direction for direction, _ in rows]), np.array([accuracy for _, accuracy in rows]))


def cav(ones: Floats, others: Floats) -> tuple[NDArray[np.float64], float]:
    """The unit normal of a linear classifier, pointing to ``ones``, and its accuracy on the third that is held out.

    The classifier is a logistic regression with an L2 penalty (C = 1), which has one solution. Activations are divided
    by their root mean square about the mean, so that the penalty does not depend on the layer's unit. The normal lies
    in the span of the pictures and is found there, in as many numbers as there are pictures: the same solution.

    Kim et al., "Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation Vectors",
    ICML 2018.

    Args:
        ones, others: Activations [m, D] each, m at least 3; the first third of both is held out.

    Returns:
        float64 [D], and a rate.
    """
    from sklearn.linear_model import LogisticRegression

    held = max(1, len(ones) // 3)
    rows = np.concatenate([ones[held:], others[held:]]).astype(np.float64)
    centre = rows.mean(axis=0)
    scale = float(np.sqrt(((rows - centre) ** 2).mean())) or 1.0
    rows = (rows - centre) / scale
    energy, basis = np.linalg.eigh(rows @ rows.T)
    kept = energy > _TINY * max(1.0, float(energy[-1]))
    if not kept.any():
        return np.zeros(rows.shape[1]), 0.5
    length = np.sqrt(energy[kept])
    is_one = np.repeat([1, 0], [len(ones) - held, len(others) - held])
    solver = LogisticRegression(solver="newton-cholesky", tol=1e-8).fit(basis[:, kept] * length, is_one)
    normal = (solver.coef_[0] / length) @ basis[:, kept].T @ rows
    size = float(np.linalg.norm(normal))
    if size == 0:
        return normal, 0.5
    normal /= size
    aside = (np.concatenate([ones[:held], others[:held]]) - centre) / scale
    said = solver.predict(aside @ rows.T @ basis[:, kept] / length)
    return normal, float((said == np.repeat([1, 0], held)).mean())


def compared(scores: NDArray[np.float64], random: NDArray[np.float64], level: float = 0.95) -> Compared:
    """Student's two-sided t test of two means, of equal variances, as in the paper; intervals of both means by t.

    Where neither varies there is nothing to test with: p is 1 for equal means, and 0 for others.

    Args:
        scores, random: [P] each, P at least 2, from 0 to 1.
        level: Of the intervals, which are cut off at 0 and 1.
    """
    from scipy import stats

    apart = float(scores.mean() - random.mean())
    error = float(np.sqrt((scores.var(ddof=1) + random.var(ddof=1)) / len(scores)))
    if error > 0:
        p = float(2 * stats.t.sf(abs(apart) / error, 2 * len(scores) - 2))
    else:
        p = float(apart == 0)

    def interval(values: NDArray[np.float64]) -> tuple[float, float]:
        reach = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
        return max(0.0, float(values.mean()) - reach), min(1.0, float(values.mean()) + reach)

    return Compared(float(scores.mean()), interval(scores), float(random.mean()), interval(random), p)
