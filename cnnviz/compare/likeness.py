"""How alike two maps of one image are, in their own cells or, where these differ, on cells that both share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnviz.compare.pairing import PairedMaps
from cnnviz.geometry.common_cells import on_common_cells, same_cells
from cnnviz.io.finished_runs import KeptMap
from cnnviz.metrics.similarity import pearson, spearman, ssim

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
    if exact and same_cells(a, b):
        return _measured(a.values, b.values, resampled=False, exact=True)
    both = on_common_cells(a, b, size)
    return None if both is None else _measured(*both, resampled=True, exact=exact)


def _measured(x: NDArray[np.float32], y: NDArray[np.float32], *, resampled: bool, exact: bool) -> Likeness:
    flat = bool(x.min() == x.max()), bool(y.min() == y.max())
    return Likeness(spearman(x, y), pearson(x, y), ssim(x, y), resampled, exact, flat)
