"""Does a prediction hang on a part of the picture more than on others as large: a region of what the network sees is
painted out of photographs, and so are random ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnnviz.audit.check import Judged
from cnnviz.audit.counterfactual import background, painted_out, seed_of
from cnnviz.metrics.tests import paired_p

if TYPE_CHECKING:
    from cnnviz.geometry.placement import Rect
    from cnnviz.maps.second_look import Photograph, SecondLook

Mask = NDArray[np.bool_]
_HALF, _LARGEST = 0.5, 0.25
_TRIES = 10
# Less of a region than this beside the object is no region of its own.
_LEFT = 0.25


@dataclass(frozen=True, eq=False)
class Hidden:
    """What became of the predictions of some images.

    Attributes:
        images: Their places among those that were asked for.
        flips: [n] whether each flips without the region.
        at_random: [n, J] whether it does without each of the random ones.
    """

    images: Sequence[int]
    flips: Mask
    at_random: Mask

    @property
    def p(self) -> float:
        """How likely as many flips are, were the region no other than the random ones."""
        return paired_p(self.flips, self.at_random) if len(self.flips) else 1.0


def hot(mean_map: NDArray[np.float64]) -> Mask:
    """bool [h, w]: where a map has at least half of its maximum; of these the hottest quarter of all cells at most."""
    most = max(1, int(mean_map.size * _LARGEST))
    least = np.sort(mean_map, axis=None)[-most]
    found: Mask = (mean_map >= max(_HALF * float(mean_map.max()), float(least))) & (mean_map > 0)
    return found


def on_photo(cells: Mask, rect: Rect, size: tuple[int, int]) -> Mask:
    """bool [H, W]: the pixels of a photograph (W, H) whose centres lie in a cell of what the network saw of it."""
    x0, y0, x1, y1 = rect
    rows = np.floor((np.arange(size[1]) + 0.5 - y0) / (y1 - y0) * cells.shape[0]).astype(int)
    cols = np.floor((np.arange(size[0]) + 0.5 - x0) / (x1 - x0) * cells.shape[1]).astype(int)
    inside = np.logical_and.outer((rows >= 0) & (rows < cells.shape[0]), (cols >= 0) & (cols < cells.shape[1]))
    found = cells[np.clip(rows, 0, cells.shape[0] - 1)][:, np.clip(cols, 0, cells.shape[1] - 1)]
    return np.asarray(found & inside, dtype=np.bool_)


def rolled(cells: Mask, free: Mask, rng: np.random.Generator) -> Mask:
    """The region elsewhere, across the borders where it must be: of some tries the one that shares least with the
    region and has as much of itself beside the object (where it is ``free``) as the region has.
    """
    tries = [
        np.roll(cells, (int(rng.integers(cells.shape[0])), int(rng.integers(cells.shape[1]))), (0, 1))
        for _ in range(_TRIES)
    ]
    own = int((cells & free).sum())
    return min(tries, key=lambda each: int((each & cells).sum()) + abs(int((each & free).sum()) - own))


def share_on_object(cells: Mask, photo: Photograph, each: Judged, look: SecondLook, objects: str) -> float | None:
    """How much of a region lies on the object of an image; None where nothing says where that is."""
    free = background(photo, each, look, objects)
    if free is None:
        return None
    region = on_photo(cells, look.shown(photo.rgb)[1].rect, (photo.rgb.shape[1], photo.rgb.shape[0]))
    return float((region & ~free).sum() / region.sum()) if region.any() else None


def hidden(cells: Mask, judged: Sequence[Judged], look: SecondLook, objects: str, regions: int) -> Hidden:
    """Predictions without a region, and without random ones; what is the object of an image stays in it.

    Args:
        cells: The region, in cells of what the network sees.
        judged: The images.
        look: Photographs, and the network on changed ones.
        objects: What the truth of an image is: ``class`` or ``any``.
        regions: Random regions of each.
    """

    def without(each: Judged) -> list[bool] | None:
        photo = look.photograph(each.record)
        masks = None if photo is None else _masks(cells, photo, each, look, (objects, regions))
        if photo is None or masks is None:
            return None
        said = look.predict([_without(photo.rgb, mask, masks[-1]) for mask in masks[:-1]])
        before = int(each.record["predictions"][0]["class_index"])
        return [other != before for other in said.scores.argmax(dim=1).tolist()]

    rows = look.each(without, judged)
    images = [place for place, row in enumerate(rows) if row is not None]
    flips = [row[0] for row in rows if row is not None]
    at_random = [row[1:] for row in rows if row is not None]
    shape = (len(images), regions)
    return Hidden(images, np.array(flips, dtype=bool), np.array(at_random, dtype=bool).reshape(shape))


def _without(rgb: NDArray[np.uint8], mask: Mask, free: Mask) -> NDArray[np.uint8]:
    """The photograph with a part painted out by what surrounds it, of which the object is no part."""
    painted = painted_out(rgb, mask | ~free)
    found: NDArray[np.uint8] = np.where((mask & free)[..., None], painted, rgb)
    return found


def _masks(cells: Mask, photo: Photograph, each: Judged, look: SecondLook, how: tuple[str, int]) -> list[Mask] | None:
    """The region on a photograph, the random ones, and what is not the object; None where that leaves too little."""
    size, rect = (photo.rgb.shape[1], photo.rgb.shape[0]), look.shown(photo.rgb)[1].rect
    known = background(photo, each, look, how[0])
    free = np.ones(photo.rgb.shape[:2], dtype=np.bool_) if known is None else known
    own = on_photo(cells, rect, size)
    if not own.any() or (own & free).sum() < _LEFT * own.sum():
        return None
    rng, in_cells = np.random.default_rng(seed_of(each)), _in_cells(free, rect, cells.shape)
    return [own, *(on_photo(rolled(cells, in_cells, rng), rect, size) for _ in range(how[1])), free]


def _in_cells(mask: Mask, rect: Rect, shape: tuple[int, ...]) -> Mask:
    """What a mask says at the centre of each cell."""
    x0, y0, x1, y1 = rect
    rows = np.clip(y0 + (np.arange(shape[0]) + 0.5) * (y1 - y0) / shape[0], 0, mask.shape[0] - 1).astype(int)
    cols = np.clip(x0 + (np.arange(shape[1]) + 0.5) * (x1 - x0) / shape[1], 0, mask.shape[1] - 1).astype(int)
    return np.asarray(mask[rows][:, cols], dtype=np.bool_)
