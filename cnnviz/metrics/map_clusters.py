"""Clusters of maps: spectral relevance analysis.

Lapuschkin et al., "Unmasking Clever Hans Predictors and Assessing What Machines Really Learn", Nature Communications
2019. Maps are brought to one size and one length, and become the nodes of a graph: each is joined to its nearest
neighbours, in both directions (A_ij = 1 where i is among the nearest of j, or j among those of i). The small
eigenvalues of the symmetric normalised Laplacian

    L = I - D^-1/2 A D^-1/2,        D_ii = sum over j of A_ij

tell how many clusters there are: as many as stand below the largest gap between two that follow each other (von
Luxburg, "A Tutorial on Spectral Clustering", 2007). The gap is measured as a ratio: between maps of an object that is
anywhere in the picture there is no gap, but the differences of their eigenvalues grow with the number of maps, and the
largest would be found among the many in the middle. Eigenvectors, each row brought to length one, are divided by
k-means (Ng, Jordan and Weiss, NIPS 2001).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 20
DIVISIBLE = 40
"""So many maps can be divided; of fewer at random places the graph falls apart by chance."""
EIGENVALUES = 32
# How small the last eigenvalue before the gap is beside the first behind it. Of a hundred maps of noise it is 0.8 or
# more, of two kinds of maps mostly 0.2 or less; of blobs at random places 0.27 or more in 95 of 100 draws of 40 maps,
# 0.4 or more of a hundred.
_SEPARATE, _NOISE = 0.25, 1e-6
# A cluster of fewer maps than neighbours would be joined to others.
_SMALLEST_SHARE, _FEWEST = 8, 3
_ROUNDS, _STARTS = 100, 8
Map = NDArray[np.float32]
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Clusters:
    """What the clusters of a set of maps are.

    Attributes:
        labels: [n] the number of each map's cluster; the largest cluster is 0.
        count: How many clusters there are.
        eigenvalues: The smallest, rising.
        gap: Eigenvalue of the last cluster, as a share of the next: the smaller, the further they are apart.
    """

    labels: NDArray[np.int64]
    count: int
    eigenvalues: Values
    gap: float

    @property
    def divisible(self) -> bool:
        """Whether they were enough to be divided."""
        return len(self.labels) >= DIVISIBLE


def prepared(raw: NDArray[np.floating]) -> Values | None:
    """A map as a vector [SIDE * SIDE] of length one; None where it has no positive value.

    Of values in three colours the magnitudes count, else what speaks for the class.
    """
    flat = np.abs(raw).max(0) if raw.ndim == 3 else np.maximum(raw, 0)
    shrinks = flat.shape[0] >= SIDE and flat.shape[1] >= SIDE
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(flat.astype(np.float64), (SIDE, SIDE), interpolation=how)).ravel()
    length = float(np.linalg.norm(small))
    return small / length if length > 0 else None


def clusters(maps: Sequence[Values], neighbours: int = 10, seed: int = 0) -> Clusters:
    """The clusters of maps, each as :func:`prepared` gives it.

    Args:
        maps: At least three; fewer than :data:`DIVISIBLE` are one cluster.
        neighbours: To how many others each is joined, or an eighth of all where that is fewer.
        seed: Of the starts of k-means.
    """
    points = np.stack(maps)
    neighbours = min(neighbours, max(_FEWEST, len(points) // _SMALLEST_SHARE))
    values, vectors = np.linalg.eigh(laplacian(adjacency(points, neighbours)))
    values = np.clip(values, 0, None)
    smallest = values[:EIGENVALUES]
    count, gap = cluster_count(smallest)
    if count == 1 or len(points) < DIVISIBLE:
        return Clusters(np.zeros(len(points), dtype=np.int64), 1, smallest, gap)
    rows = vectors[:, :count]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return Clusters(by_size(k_means(rows, count, seed)), count, smallest, gap)


def adjacency(points: Values, neighbours: int) -> Values:
    """[n, n] of ones where two are neighbours, in either direction; nothing is its own neighbour."""
    count = len(points)
    squares = (points**2).sum(1)
    away = squares[:, None] + squares[None] - 2 * points @ points.T
    np.fill_diagonal(away, np.inf)
    nearest = np.argsort(away, axis=1, kind="stable")[:, : min(neighbours, count - 1)]
    found = np.zeros((count, count))
    np.put_along_axis(found, nearest, 1.0, axis=1)
    return np.maximum(found, found.T)


def laplacian(joined: Values) -> Values:
    """The symmetric normalised Laplacian of a graph."""
    scale = 1 / np.sqrt(joined.sum(1))
    found: Values = np.eye(len(joined)) - scale[:, None] * joined * scale[None]
    return found


def cluster_count(eigenvalues: Values) -> tuple[int, float]:
    """As many as stand below the largest gap, and that gap; one where no gap is as large as that of two kinds."""
    if len(eigenvalues) < 3:
        return 1, 1.0
    ratios = (eigenvalues[1:-1] + _NOISE) / (eigenvalues[2:] + _NOISE)
    place = int(ratios.argmin())
    gap = float(ratios[place])
    return (place + 2, gap) if gap <= _SEPARATE else (1, gap)


def k_means(points: Values, count: int, seed: int) -> NDArray[np.int64]:
    """[n] numbers of clusters (Lloyd 1982): the best of several starts, each spread out as k-means++ does."""
    rng = np.random.default_rng(seed)
    best, least = np.zeros(len(points), dtype=np.int64), np.inf
    for _ in range(_STARTS):
        labels, loss = _lloyd(points, _spread(points, count, rng))
        if loss < least - 1e-12:
            best, least = labels, loss
    return best


def _spread(points: Values, count: int, rng: np.random.Generator) -> Values:
    """Starts far from each other (Arthur and Vassilvitskii 2007)."""
    centres = [points[int(rng.integers(len(points)))]]
    while len(centres) < count:
        away = np.min([((points - centre) ** 2).sum(1) for centre in centres], axis=0)
        total = float(away.sum())
        place = rng.choice(len(points), p=away / total) if total > 0 else rng.integers(len(points))
        centres.append(points[int(place)])
    return np.stack(centres)


def _lloyd(points: Values, centres: Values) -> tuple[NDArray[np.int64], float]:
    labels = np.full(len(points), -1, dtype=np.int64)
    away = np.zeros((len(points), len(centres)))
    for _ in range(_ROUNDS):
        away = ((points[:, None] - centres[None]) ** 2).sum(2)
        nearest = away.argmin(1)
        if (nearest == labels).all():
            break
        labels = nearest
        centres = np.stack(
            [points[labels == k].mean(0) if (labels == k).any() else centres[k] for k in range(len(centres))]
        )
    return labels, float(away.min(1).sum())


def by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same clusters, numbered from the largest."""
    names, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    order = sorted(range(len(names)), key=lambda place: (-sizes[place], first[place]))
    number = {int(names[place]): rank for rank, place in enumerate(order)}
    return np.array([number[int(each)] for each in labels], dtype=np.int64)
