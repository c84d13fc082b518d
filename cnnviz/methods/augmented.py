"""Maps averaged over changed copies of the image, for any method.

The target stays that of the unchanged image; each copy's map is put back to where the copy came from, and raw maps are
averaged. Of the kinds that are asked for every combination is a copy:

    flip      the image, and its mirror image
    contrast  the network's input times 1, 0.9 and 1.1
    zoom      the image, and its middle seven eighths enlarged to the whole input

``flip`` with ``contrast`` are the six copies of pytorch-grad-cam's ``aug_smooth``, which scales each map to its own
maximum before it averages, so that a copy with a weak map counts as much as one with a strong map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.errors import CnnvizError
from cnnviz.methods.heatmap import Heatmap
from cnnviz.registry.params import Options
from cnnviz.settings import AUGMENTATIONS

_GEOMETRIC = ("flip", "zoom")
_MARGIN = 16
"""``zoom`` leaves out one in so many pixels at each side."""


@dataclass(frozen=True)
class Copy:
    """How a copy of an image is made.

    Attributes:
        flip: Whether it is mirrored.
        contrast: Factor of the network's input.
        zoom: Whether its middle part is enlarged.
    """

    flip: bool = False
    contrast: float = 1.0
    zoom: bool = False

    @property
    def name(self) -> str:
        """For a record: what was done, or ``unchanged``."""
        said = ["flip"] * self.flip + ["zoom"] * self.zoom
        said += [] if self.contrast == 1 else [f"contrast {self.contrast:g}"]
        return " + ".join(said) or "unchanged"

    def part(self, size: int) -> tuple[int, int]:
        """First pixel, and the one behind the last, that the copy shows of an axis of so many pixels."""
        margin = max(1, round(size / _MARGIN)) if self.zoom and size > 2 else 0
        return margin, size - margin

    def of(self, pixels: Tensor) -> Tensor:
        """The copy of images [N, C, H, W], of the same shape."""
        height, width = pixels.shape[2:]
        (y0, y1), (x0, x1) = self.part(height), self.part(width)
        if self.zoom:
            part = pixels[:, :, y0:y1, x0:x1]
            pixels = F.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)
        return (pixels.flip(-1) if self.flip else pixels) * self.contrast

    def put_back(self, values: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Values of the copy [..., h, w] on the cells of the image.

        Args:
            values: Whose cells divide the copy evenly.
            size: Height and width of the image.

        Returns:
            For each cell of the image the mean of what the copy says of the part that it shows, times the share of
            the cell that it shows; and these shares [h, w].
        """
        values = values.flip(-1) if self.flip else values
        if not self.zoom:
            return values, torch.ones_like(values[(0,) * (values.dim() - 2)])
        like = rt.wide(values)
        rows, columns = (
            overlaps(count, first / pixels, last / pixels).to(like)
            for count, pixels in zip(values.shape[-2:], size, strict=True)
            for first, last in [self.part(pixels)]
        )
        back = rows @ like @ columns.T
        return back.to(values), torch.outer(rows.sum(1), columns.sum(1)).to(values)


def overlaps(count: int, first: float, last: float) -> Tensor:
    """[count, count]: of cell i of an axis the share that lies in cell j of as many that divide [first, last] of it."""
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    inner = first + (last - first) * edges
    low = torch.maximum(edges[:-1, None], inner[None, :-1])
    high = torch.minimum(edges[1:, None], inner[None, 1:])
    return (high - low).clamp_min(0) * count


def copies(kinds: Sequence[str]) -> Iterator[Copy]:
    """Every combination of the kinds of :data:`cnnviz.settings.AUGMENTATIONS`; the unchanged image comes first."""
    flips = (False, True) if "flip" in kinds else (False,)
    zooms = (False, True) if "zoom" in kinds else (False,)
    contrasts = (1.0, 0.9, 1.1) if "contrast" in kinds else (1.0,)
    for zoom, flip, contrast in product(zooms, flips, contrasts):
        yield Copy(flip, contrast, zoom)


def averaged(
    method: Callable[[ForwardPass, Target], Heatmap],
    run: ForwardPass,
    target: Target,
    params: Options,
    kinds: Sequence[str],
) -> Heatmap:
    """The mean of a method's maps over copies of the images.

        M = sum over copies k of  U_k(m_k) / sum over copies k of  s_k

    with m_k the map of copy k for the target of the unchanged image, U_k what puts it back, and s_k the share of each
    cell that the copy shows (1 but at the border of ``zoom``).

    Args:
        method: Makes the map of a pass.
        run: The pass over the unchanged images.
        target: What is explained of them.
        params: The method's own.
        kinds: Of :data:`cnnviz.settings.AUGMENTATIONS`.

    Returns:
        The heatmap, with the fact ``augmentation``: the names of the copies. Scores are those of the unchanged image;
        arrays, which are of that image alone, are left out. Where the method's cells are positions of a window, which
        need not lie evenly in the image, its maps at the input's resolution are averaged, and are its values too.

    Raises:
        CnnvizError: The target or an option names a place in the image, which flips and zooms move; or the method
            chooses for each copy anew what it explains.
    """
    moving = [kind for kind in kinds if kind in _GEOMETRIC]
    why = "the target names a place in the image, which this moves" if target.placed and moving else ""
    if why := why or params.not_of_one_thing(moved=bool(moving)):
        hint = "Use --augment contrast, or leave it out." if moving else "Leave it out."
        raise CnnvizError(f"--augment {(moving or kinds)[0]}: {why}.", hint)
    size = int(run.pixels.shape[2]), int(run.pixels.shape[3])
    first: Heatmap | None = None
    values: list[tuple[Tensor, Tensor]] = []
    maps: list[tuple[Tensor, Tensor]] = []
    names = []
    for copy in copies(kinds):
        changed = run if first is None else run.session.forward(copy.of(run.pixels.detach().float()))
        made = method(changed, target)
        first = first or made
        names.append(copy.name)
        values = _added(values, copy.put_back(made.values.detach().float(), size))
        if made.maps is not None:
            maps = _added(maps, copy.put_back(made.maps.detach().float(), size))
    assert first is not None
    mean, drawn = _mean(values), _mean(maps) if maps else None
    if first.values.dim() == 3 and drawn is not None:
        mean = drawn
    return replace(first, values=mean, maps=drawn, facts={**first.facts, "augmentation": names}, arrays={})


def _added(before: list[tuple[Tensor, Tensor]], more: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(before[0][0] + more[0], before[0][1] + more[1])] if before else [more]


def _mean(sums: list[tuple[Tensor, Tensor]]) -> Tensor:
    [(total, shares)] = sums
    return total / shares


assert set(_GEOMETRIC) < set(AUGMENTATIONS)
