"""Vectors of many images: projections to two dimensions, neighbours, purity, and a grid that keeps the order.

Everything takes float32 vectors [N, D], also memory-mapped ones: they are read block by block, and nothing of the
size N x N is kept. The arithmetic is float64.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import CnnvizError
from cnnviz.schema.studies.embed import Purity

METRICS = ("cosine", "euclidean")
OPTIMAL_UP_TO = 2_000
"""Images whose grid is the exact optimum in a few seconds; more are halved into blocks of at most this many."""

Floats = NDArray[np.float64]

_BLOCK = 1024
_SIMILARITY_BYTES = 32 << 20
# Similarities are sums of D products: what differs by less is rounding, and counts as equal.
_DECIMALS = 9
_REDUCED = 50
_ROUNDING = float(np.finfo(np.float32).eps)
_PACKAGES = {"sklearn": "scikit-learn", "umap": "umap-learn"}


@dataclass(frozen=True, eq=False)
class Projection:
    """Principal components.

    Attributes:
        points: [N, k] coordinates.
        components: [k, D] directions of length 1; zero where the data have no further direction.
        explained: [k] share of the whole variance, 0 to 1; zero when all vectors are equal.
    """

    points: Floats
    components: Floats
    explained: Floats


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest others of every vector, nearest first.

    Attributes:
        index: [N, k] int64. k is smaller than asked when there are not as many others.
        value: [N, k] cosine similarity (-1 to 1, larger is nearer), or Euclidean distance (smaller is nearer).
    """

    index: NDArray[np.int64]
    value: Floats


def optional(module: str, extra: str, purpose: str) -> Any:
    """Import what an extra installs.

    Raises:
        CnnvizError: It is not installed; the hint is the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        package = _PACKAGES.get(top, top)
        raise CnnvizError(
            f"{purpose} needs {package}, which cannot be imported: {error}.", f"pip install 'cnnviz[{extra}]'"
        ) from error


def pca(vectors: NDArray[Any], count: int = 2, *, unit: bool = False) -> Projection:
    """Principal component analysis (Pearson 1901): the directions of largest variance.

    The eigenvectors of the covariance matrix [D, D], or of the Gram matrix [N, N] where that is smaller. A direction
    is as good as its opposite: the entry of largest magnitude of each is made positive, the first one among equals.

    Args:
        vectors: [N, D].
        count: Number of components k.
        unit: Scale every vector to length 1 first; a zero vector stays zero.

    Returns:
        Coordinates ``(x - mean) @ components.T``; columns beyond the rank of the data are zero.
    """
    n, dim = vectors.shape
    mean = sum((block.sum(axis=0) for _, block in _blocks(vectors, unit)), np.zeros(dim)) / max(n, 1)
    values, components = (_by_covariance if dim <= n else _by_gram)(vectors, mean, count, unit)
    total = sum(float(((block - mean) ** 2).sum()) for _, block in _blocks(vectors, unit))
    # What rounding leaves of a direction that the data do not have: in this arithmetic, and in the float32 numbers
    # that come in. The vectors of one picture from two batches may differ in their last bit.
    energy = sum(float((block**2).sum()) for _, block in _blocks(vectors, unit))
    noise = max(max(total, 0.0) * max(n, dim) * float(np.finfo(np.float64).eps), energy * _ROUNDING**2)
    real = values > noise
    components = np.where(real[:, None], components, 0.0)
    peaks = np.abs(components).argmax(axis=1)
    components *= np.where(components[np.arange(count), peaks] < 0, -1.0, 1.0)[:, None]
    points = np.zeros((n, count))
    for start, block in _blocks(vectors, unit):
        points[start : start + len(block)] = (block - mean) @ components.T
    explained = np.where(real, values / total, 0.0) if total > 0 else np.zeros(count)
    return Projection(points, components, explained)


def _by_covariance(vectors: NDArray[Any], mean: Floats, count: int, unit: bool) -> tuple[Floats, Floats]:
    scatter = np.zeros((len(mean), len(mean)))
    for _, block in _blocks(vectors, unit):
        centred = block - mean
        scatter += centred.T @ centred
    values, directions = _largest(scatter, count)
    return values, directions.T


def _by_gram(vectors: NDArray[Any], mean: Floats, count: int, unit: bool) -> tuple[Floats, Floats]:
    n, dim = vectors.shape
    gram = np.zeros((n, n))
    for start, block in _blocks(vectors, unit):
        for other, column in _blocks(vectors, unit):
            gram[start : start + len(block), other : other + len(column)] = (block - mean) @ (column - mean).T
    values, left = _largest(gram, count)
    directions = np.zeros((count, dim))
    for start, block in _blocks(vectors, unit):
        directions += left[start : start + len(block)].T @ (block - mean)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    return values, directions / np.where(lengths > 0, lengths, 1.0)


def _largest(matrix: Floats, count: int) -> tuple[Floats, Floats]:
    """The ``count`` largest eigenvalues, falling, and their eigenvectors as columns; padded with zeros."""
    size = len(matrix)
    have = min(count, size)
    linalg = optional("scipy.linalg", "embed", "PCA")
    values, vectors = linalg.eigh(matrix, subset_by_index=(size - have, size - 1), overwrite_a=True, check_finite=False)
    padded, columns = np.zeros(count), np.zeros((size, count))
    padded[:have], columns[:, :have] = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    return padded, columns


def reduced(vectors: NDArray[Any], metric: str) -> Floats:
    """What t-SNE and UMAP look at: the first 50 principal components [N, min(50, D)].

    As in van der Maaten & Hinton 2008, section 4. With ``cosine`` they are those of the vectors scaled to length 1,
    whose squared distance is twice one minus the cosine.
    """
    return pca(vectors, min(_REDUCED, vectors.shape[1]), unit=_unit(metric)).points


def neighbours(vectors: NDArray[Any], count: int, metric: str = "cosine") -> Neighbours:
    """The nearest others of every vector, by all pairs.

    Cosine: ``a·b / (|a| |b|)``, 0 when one is zero. Values that agree to nine decimals are equal, and the earlier
    vector comes first.

    Args:
        vectors: [N, D].
        count: How many, at most N - 1.
        metric: ``cosine`` or ``euclidean``.
    """
    n, unit = len(vectors), _unit(metric)
    count = max(0, min(count, n - 1))
    index, value = np.zeros((n, count), dtype=np.int64), np.zeros((n, count))
    rows = max(1, min(_BLOCK, _SIMILARITY_BYTES // (8 * max(n, 1))))
    for start, block in _blocks(vectors, unit, rows):
        far = np.empty((len(block), n))
        for other, column in _blocks(vectors, unit):
            product = block @ column.T
            if unit:
                found = -product
            else:
                squares = (block**2).sum(axis=1)[:, None] + (column**2).sum(axis=1) - 2.0 * product
                found = np.sqrt(np.maximum(squares, 0.0))
            far[:, other : other + len(column)] = np.round(found, _DECIMALS)
        far[np.arange(len(block)), start + np.arange(len(block))] = np.inf
        if count:
            chosen = _smallest(far, count)
            index[start : start + len(block)] = chosen
            picked = np.take_along_axis(far, chosen, axis=1)
            value[start : start + len(block)] = (0.0 - picked) if unit else picked
    return Neighbours(index, value)


def _smallest(far: Floats, count: int) -> NDArray[np.int64]:
    """Places of the ``count`` smallest of each row, rising, the first place first among equals."""
    limits = np.partition(far, count - 1, axis=1)[:, count - 1]
    chosen = np.empty((len(far), count), dtype=np.int64)
    for place, (row, limit) in enumerate(zip(far, limits, strict=True)):
        near = np.flatnonzero(row <= limit)
        chosen[place] = near[np.argsort(row[near], kind="stable")][:count]
    return chosen


def purity(index: NDArray[np.int64], labels: Sequence[Hashable | None]) -> Floats:
    """For every item the share of its k neighbours that bear its label.

    Args:
        index: [N, k] of :class:`Neighbours`.
        labels: N labels; None where there is none. A neighbour without a label is no match.

    Returns:
        [N], 0 to 1; NaN for items without a label, and where there are no neighbours.
    """
    codes = _codes(labels)
    if index.shape[1] == 0:
        return np.full(len(codes), np.nan)
    same = codes[index] == codes[:, None]
    return np.where(codes >= 0, same.mean(axis=1), np.nan)


def chance_purity(labels: Sequence[Hashable | None]) -> float:
    """The mean purity that neighbours drawn at random would have: ``mean over labelled i of (n_label(i) - 1)/(N - 1)``.

    NaN without labels or with a single item.
    """
    codes = _codes(labels)
    known = codes[codes >= 0]
    if not len(known) or len(codes) < 2:
        return math.nan
    counts = np.bincount(known)
    return float((counts[known] - 1).mean() / (len(codes) - 1))


def is_shared(labels: Sequence[Hashable | None]) -> bool:
    """Whether two items have the same label; where none do, no neighbour can have an item's own: that is no purity."""
    known = [label for label in labels if label is not None]
    return len(set(known)) < len(known)


def mean_purity(values: Floats, labels: Sequence[Hashable | None]) -> Purity:
    """``value``, the mean of :func:`purity` over ``n`` items, and ``chance``; None where there is nothing to say."""
    known = values[np.isfinite(values)]
    told = len(known) > 0 and is_shared(labels)
    value, chance = (float(known.mean()), chance_purity(labels)) if told else (None, None)
    return {"value": value, "chance": chance, "n": len(known)}


def _codes(labels: Sequence[Hashable | None]) -> NDArray[np.int64]:
    known: dict[Hashable, int] = {}
    return np.array([-1 if label is None else known.setdefault(label, len(known)) for label in labels], dtype=np.int64)


def grid_shape(count: int) -> tuple[int, int]:
    """(rows, columns) of the smallest nearly square grid with at least ``count`` cells."""
    columns = max(1, math.isqrt(max(count - 1, 0)) + 1)
    return max(1, -(-count // columns)), columns


def unit_square(points: Floats) -> Floats:
    """Points [N, 2] with each axis stretched to 0…1; 0.5 on an axis without extent."""
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    return np.where(extent > 0, (points - low) / np.where(extent > 0, extent, 1.0), 0.5)


def grid_cost(points: Floats, shape: tuple[int, int]) -> Floats:
    """Squared distances [N, rows * columns] from points, stretched over the grid, to the centres of its cells."""
    spread = unit_square(points)
    rows, columns = shape
    cells = np.indices(shape).reshape(2, -1)
    across = (spread[:, :1] - (cells[1] + 0.5) / columns) ** 2
    # The second coordinate rises upwards, rows count downwards.
    down = (1.0 - spread[:, 1:] - (cells[0] + 0.5) / rows) ** 2
    return np.asarray(across + down)


def grid_cells(points: Floats, optimal_up_to: int = OPTIMAL_UP_TO) -> NDArray[np.int64]:
    """Put every point into a cell of its own, near to where it lies (Karpathy's grid of a t-SNE).

    Up to ``optimal_up_to`` points the assignment minimises the sum of the squared distances (Jonker & Volgenant 1987,
    Crouse 2016). More points are halved at the median of the grid's longer side, until the blocks are small enough
    for that: each block is optimal, the whole nearly so, and the effort grows with N log N, not with N³.

    Args:
        points: [N, 2], N of 1 or more.
        optimal_up_to: Largest block.

    Returns:
        [N, 2] row and column, each pair once; of a grid of :func:`grid_shape`.

    Raises:
        CnnvizError: scipy is not installed.
    """
    assign: Callable[[Floats], tuple[Any, Any]]
    assign = optional("scipy.optimize", "embed", "The grid of thumbnails").linear_sum_assignment
    shape = grid_shape(len(points))
    spread = unit_square(points)
    where = np.column_stack(((1.0 - spread[:, 1]) * shape[0], spread[:, 0] * shape[1]))
    found = np.zeros((len(points), 2), dtype=np.int64)
    waiting = [(np.arange(len(points)), (0, 0), shape)]
    while waiting:
        members, corner, size = waiting.pop()
        if len(members) <= optimal_up_to:
            cells = np.indices(size).reshape(2, -1).T + corner
            cost = ((where[members, 0, None] - cells[:, 0] - 0.5) / shape[0]) ** 2
            cost += ((where[members, 1, None] - cells[:, 1] - 0.5) / shape[1]) ** 2
            _, taken = assign(cost)
            found[members] = cells[taken]
        else:
            waiting.extend(_halves(members, where, corner, size))
    return found


_Block = tuple[NDArray[np.int64], tuple[int, int], tuple[int, int]]


def _halves(members: NDArray[np.int64], where: Floats, corner: tuple[int, int], size: tuple[int, int]) -> list[_Block]:
    """A block cut across its longer side, the points shared out in their order along it."""
    axis = 0 if size[0] > size[1] else 1
    first = size[axis] // 2
    rest = size[axis] - first
    sizes = ((first, size[1]), (rest, size[1])) if axis == 0 else ((size[0], first), (size[0], rest))
    room = [rows * columns for rows, columns in sizes]
    share = round(len(members) * room[0] / sum(room))
    share = min(max(share, len(members) - room[1]), room[0])
    order = members[np.argsort(where[members, axis], kind="stable")]
    beyond = (corner[0] + first, corner[1]) if axis == 0 else (corner[0], corner[1] + first)
    return [(order[:share], corner, sizes[0]), (order[share:], beyond, sizes[1])]


def _unit(metric: str) -> bool:
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}: expected {' or '.join(METRICS)}")
    return metric == "cosine"


def _blocks(vectors: NDArray[Any], unit: bool, rows: int = _BLOCK) -> Iterator[tuple[int, Floats]]:
    """(first row, float64 rows), scaled to length 1 on request."""
    for start in range(0, len(vectors), rows):
        block = np.array(vectors[start : start + rows], dtype=np.float64)
        if unit:
            lengths = np.linalg.norm(block, axis=1, keepdims=True)
            block /= np.where(lengths > 0, lengths, 1.0)
        yield start, block
