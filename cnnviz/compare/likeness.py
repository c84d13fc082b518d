"""How alike two maps of one image are, in their own cells or, where these differ, on cells that both share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnviz.compare.pairing import PairedMaps
from cnnviz.geometry.placement import PlacedMap, place
from cnnviz.io.finished_runs import KeptMap
from cnnviz.metrics.similarity import pearson, spearman, ssim

LONGER = 64
"""Cells along the longer side of an image, where maps have different ones."""
_NEAR = 0.5


FLAT = {
    (True, False): "the map of A is the same everywhere",
    (False, True): "the map of B is the same everywhere",
    (True, True): "both maps are the same everywhere",
}
"""What is said in the place of a correlation: whether the map of A is flat, and that of B."""


@dataclass(frozen=True)
class Likeness:
    """What :mod:`cnnviz.metrics.similarity` says of two maps; None where one of them is flat.

    ``resampled``: whether they were compared on common cells; ``exact``: whether both were kept unscaled; ``flat``:
    whether the map of A, and that of B, is the same everywhere.
    """

    spearman: float | None
    pearson: float | None
    ssim: float | None
    resampled: bool
    exact: bool
    flat: tuple[bool, bool]


@dataclass(frozen=True, eq=False)
class ComparedMaps:
    """Two maps that belong together, None where one was not kept, and how alike they are."""

    maps: PairedMaps
    a: KeptMap | None
    b: KeptMap | None
    found: Likeness | None

    @property
    def not_kept(self) -> tuple[str, ...]:
        """The runs that did not keep their map."""
        return tuple(name for name, kept in (("A", self.a), ("B", self.b)) if kept is None)

    @property
    def why(self) -> str | None:
        """Why they have no rank correlation; None where they have one."""
        if self.not_kept:
            return f"no map kept by {' and '.join(self.not_kept)}"
        if self.found is None:
            return "the maps share no part of the image"
        return None if self.found.spearman is not None else FLAT.get(self.found.flat, FLAT[True, True])


def likeness(a: KeptMap, b: KeptMap, size: tuple[int, int]) -> Likeness | None:
    """Compare two maps.

    Maps of equal grids that cover the same part of the image are compared cell by cell. Others are laid over the image,
    at 64 cells along its longer side, and compared where both networks saw it. Maps from pictures are, too: their
    pixels are no cells.

    Args:
        a: One of them.
        b: The other.
        size: (W, H) of the image.

    Returns:
        None where they have no part of the image in common.
    """
    exact = a.exact and b.exact
    near = np.allclose(a.rect, b.rect, rtol=0, atol=_NEAR)
    if exact and near and a.values.shape == b.values.shape:
        return _measured(a.values, b.values, resampled=False, exact=True)
    both = on_common_cells(a, b, size)
    return None if both is None else _measured(*both, resampled=True, exact=exact)


def _measured(x: NDArray[np.float32], y: NDArray[np.float32], *, resampled: bool, exact: bool) -> Likeness:
    flat = bool(x.min() == x.max()), bool(y.min() == y.max())
    return Likeness(spearman(x, y), pearson(x, y), ssim(x, y), resampled, exact, flat)


def on_common_cells(
    a: KeptMap, b: KeptMap, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Both maps where both networks saw the image, on its cells; None where that is nowhere."""
    scale = LONGER / max(size)
    cells = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    first, second = (placed(each, size, cells) for each in (a, b))
    if first is None or second is None:
        return None
    ends = np.array([first.seen, second.seen])
    (x0, y0), (x1, y1) = ends[:, :2].max(axis=0), ends[:, 2:].min(axis=0)
    if x0 >= x1 or y0 >= y1:
        return None
    return first.values[y0:y1, x0:x1], second.values[y0:y1, x0:x1]


def placed(kept: KeptMap, size: tuple[int, int], shown: tuple[int, int]) -> PlacedMap | None:
    """A map on its image as that is shown at another size (W, H); None where it does not touch it."""
    scale = np.array([shown[0] / size[0], shown[1] / size[1]] * 2)
    x0, y0, x1, y1 = (float(edge) for edge in np.array(kept.rect) * scale)
    try:
        return place(kept.values, (x0, y0, x1, y1), shown, signed=kept.signed)
    except ValueError:
        return None
