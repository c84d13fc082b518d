"""Parts that add up: non-negative matrix factorisation of activations at positions."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Factors:
    """A [M, C] ~ W H, all non-negative.

    Attributes:
        directions: H, float32 [K, C], rows of unit length, or of zeros for one that explains nothing.
        weights: W, float32 [M, K], in the unit of the activations.
        error: ||A - W H|| / ||A||, Frobenius norms.
        iterations: How many were run.
        converged: Whether the solver stopped by itself.
    """

    directions: Floats
    weights: Floats
    error: float
    iterations: int
    converged: bool


def factorize(activations: Floats, components: int, iterations: int, seed: int) -> Factors:
    """Lee & Seung, "Learning the parts of objects by non-negative matrix factorization", Nature 1999, by scikit-learn's
    coordinate descent (Cichocki & Phan 2009).

        min ||A - W H||^2   over W >= 0 [M, K], H >= 0 [K, C]

    Rows of H are scaled to unit length and W with them, so that weights of different factors can be compared; the
    factor with the largest sum of squared weights, which is the energy it explains by itself, stands first.

    Args:
        activations: A >= 0, [M, C], not all zero.
        components: K, at most min(M, C).
        iterations: At most so many.
        seed: Of the randomised decomposition that it starts from.
    """
    from sklearn.decomposition import NMF

    solver = NMF(components, init="nndsvda", solver="cd", tol=1e-5, max_iter=iterations, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged is told by the result
        weights = solver.fit_transform(activations)
    directions = solver.components_
    length = np.linalg.norm(directions, axis=1)
    directions = directions / np.where(length > 0, length, 1)[:, None]
    weights = weights * length
    order = np.argsort(-(weights.astype(np.float64) ** 2).sum(axis=0), kind="stable")
    weights, directions = weights[:, order], directions[order]
    error = float(np.linalg.norm(activations - weights @ directions) / np.linalg.norm(activations))
    used = int(solver.n_iter_)
    return Factors(directions.astype(np.float32), weights.astype(np.float32), error, used, used < iterations)


def weights_of(activations: Floats, directions: Floats) -> Floats:
    """The weights [M, K] of given factors at other positions, each by itself: min ||a - w H||^2 over w >= 0.

    Lawson & Hanson's method, exact, of the problem rotated into the K dimensions that the factors span.
    """
    from scipy.optimize import nnls

    turn, small = np.linalg.qr(directions.T.astype(np.float64))
    rotated = activations.astype(np.float64) @ turn
    return np.array([nnls(small, row)[0] for row in rotated], dtype=np.float32).reshape(len(rotated), len(directions))


class Positions:
    """A sample of positions, drawn evenly from all images whatever the batches are; its size is bounded.

    Each position draws a number by the seed and its image's own; those with the smallest are kept.

    Args:
        most: Positions to keep.
        seed: Of the draw.

    Attributes:
        seen: Positions that were shown.
    """

    def __init__(self, most: int, seed: int) -> None:
        self.most, self.seed, self.seen = most, seed, 0
        self._rows: list[Floats] = []
        self._keys: list[NDArray[np.float64]] = []
        self._held = 0

    def fold(self, image: int, rows: Floats) -> None:
        """Take the positions [P, C] of one image into account."""
        self.seen += len(rows)
        self._rows.append(rows)
        self._keys.append(np.random.default_rng([self.seed, image]).random(len(rows)))
        self._held += len(rows)
        # Once in a while: joining costs a copy of all.
        if self._held > 1.25 * self.most:
            self._prune()

    def rows(self) -> Floats:
        """[M, C], in the order in which they were shown."""
        self._prune()
        return self._rows[0]

    def _prune(self) -> None:
        rows, keys = np.concatenate(self._rows), np.concatenate(self._keys)
        if len(rows) > self.most:
            kept = np.sort(np.argpartition(keys, self.most - 1)[: self.most])
            rows, keys = rows[kept], keys[kept]
        self._rows, self._keys, self._held = [rows], [keys], len(rows)
