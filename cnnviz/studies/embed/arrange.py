"""Vectors of many images arranged in the plane by their neighbours: t-SNE and UMAP.

Both compare every point with its neighbours at the scale of these. Copies of a picture have a neighbour at distance
zero, which has no scale: t-SNE blew six copies up to coordinates of 10¹¹. So only different points are arranged, and
equal ones lie where the first of them lies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.studies.embed.embedding import Floats, optional

LEAST_POINTS = 4
"""Fewer different points than this have no t-SNE and no UMAP: a perplexity above 1 needs three others."""

# Of the largest distance from the middle: what is nearer than this is rounding of float32.
_SAME = 1e-6


def distinct(points: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which points differ.

    Args:
        points: [N, d].

    Returns:
        Indices [M] of points that differ from all before them by more than rounding, rising; and for each of the N
        points the place in there of the one that it equals.
    """
    reach = _SAME * float(np.abs(points).max(initial=0.0))
    order = np.argsort(points[:, 0], kind="stable")
    equal_to = np.arange(len(points))
    window: list[int] = []  # different points whose first coordinate is near enough
    for index in order.tolist():
        window = [other for other in window if points[index, 0] - points[other, 0] <= reach]
        near = next((other for other in window if np.abs(points[index] - points[other]).max() <= reach), None)
        if near is None:
            window.append(index)
        else:
            equal_to[index] = near
    # The first of equal points stands for them, wherever it was in the sorted order.
    first = {place: place for place in range(len(points))}
    for index, near in enumerate(equal_to.tolist()):
        first[near] = min(first[near], index)
    stands_for = np.array([first[near] for near in equal_to.tolist()], dtype=np.int64)
    firsts, inverse = np.unique(stands_for, return_inverse=True)
    return firsts.astype(np.int64), inverse.reshape(-1).astype(np.int64)


def _arranged(points: Floats, arrange: Callable[[Floats], Floats]) -> Floats | None:
    firsts, inverse = distinct(points)
    return None if len(firsts) < LEAST_POINTS else np.asarray(arrange(points[firsts])[inverse])


def effective_perplexity(count: int, wanted: float) -> float:
    """The perplexity for ``count`` points: at most a third of the others, so that it stays below their number."""
    return min(wanted, (count - 1) / 3)


def said_of_few(different: int, count: int, perplexity: float) -> tuple[str, ...]:
    """What t-SNE cannot do with so few different vectors of ``count``, in words; nothing when there are enough."""
    if different == 1 and count > 1:
        return (f"all {count} vectors are equal: there is nothing to arrange",)
    if different < LEAST_POINTS:
        what = f"{different} different vectors are" if different > 1 else "one image is"
        return (f"{what} too few for t-SNE, which needs {LEAST_POINTS}",)
    used = effective_perplexity(different, perplexity)
    return (f"{different} different vectors allow a perplexity of {used:.3g} only",) if used < perplexity else ()


def tsne(points: Floats, *, perplexity: float = 30.0, seed: int = 0, iterations: int = 1000) -> Floats | None:
    """t-distributed stochastic neighbour embedding (van der Maaten & Hinton, JMLR 2008; van der Maaten, JMLR 2014).

    It starts from the first two columns (with :func:`reduced`: the principal components), which keeps what is far
    apart apart (Kobak & Berens 2019), and runs in one thread, where the same input gives the same picture.

    Args:
        points: [N, d], compared by Euclidean distance.
        perplexity: Effective number of neighbours; see :func:`effective_perplexity` for few points.
        seed: Of the noise that separates what starts at one place.
        iterations: Steps of the gradient descent, at least 250.

    Returns:
        [N, 2], or None for fewer than four different points, which t-SNE cannot arrange. Equal points lie together.

    Raises:
        CnnvizError: scikit-learn is not installed.
    """
    manifold = optional("sklearn.manifold", "embed", "t-SNE")
    threads = optional("threadpoolctl", "embed", "t-SNE")
    return _arranged(points, lambda few: _tsne(few, (manifold, threads), (perplexity, seed, iterations)))


def _tsne(points: Floats, packages: tuple[Any, Any], how: tuple[float, int, int]) -> Floats:
    (manifold, threads), (perplexity, seed, iterations) = packages, how
    count = len(points)
    start = points[:, :2] if points.shape[1] > 1 else np.column_stack((points, np.zeros(count)))
    start = start / float(start[:, 0].std()) * 1e-4
    start = start + np.random.default_rng(seed).normal(0.0, 1e-6, start.shape)
    engine = manifold.TSNE(
        n_components=2,
        perplexity=effective_perplexity(count, perplexity),
        init=start.astype(np.float32),
        learning_rate="auto",
        max_iter=iterations,
        random_state=seed,
        n_jobs=1,
    )
    with threads.threadpool_limits(1):
        found = engine.fit_transform(points.astype(np.float32))
    return np.asarray(found, dtype=np.float64)


def umap(points: Floats, *, neighbours: int = 15, seed: int = 0) -> Floats | None:
    """Uniform manifold approximation and projection (McInnes, Healy & Melville 2018), seeded and so in one thread.

    Args:
        points: [N, d], compared by Euclidean distance.
        neighbours: Size of the neighbourhoods, less for few points.
        seed: Of the start and of the sampled edges.

    Returns:
        [N, 2], or None for fewer than four different points. Equal points lie together.

    Raises:
        CnnvizError: umap-learn is not installed.
    """
    module = optional("umap", "umap", "--umap")
    return _arranged(points, lambda few: _umap(few, module, neighbours, seed))


def _umap(points: Floats, module: Any, neighbours: int, seed: int) -> Floats:
    count = len(points)
    engine = module.UMAP(
        n_components=2,
        n_neighbors=max(2, min(neighbours, count - 1)),
        # A spectral start needs more points than dimensions to spare.
        init="spectral" if count > 10 else "random",
        random_state=seed,
        n_jobs=1,
    )
    return np.asarray(engine.fit_transform(points.astype(np.float32)), dtype=np.float64)
