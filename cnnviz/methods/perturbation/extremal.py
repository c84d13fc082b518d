"""Extremal perturbations: the region of a given size that, alone, the network sees the class best in.

Fong, Patrick & Vedaldi, "Understanding Deep Networks via Extremal Perturbations and Smooth Masks", ICCV 2019.

    m_a = argmax over smooth masks m of area a of  f(m * x)                                       (equation 3)

m * x    each pixel is blurred the more the smaller its m: x under a Gaussian of sigma (1 - m) sigma_max, interpolated
         between 8 levels (section 3.2).
smooth   a mask is a set of cells of a lattice, its edges smoothed by a Gaussian of 0.3 cells: nothing smaller than a
         cell can be kept or left out.
argmax   by backward elimination and exchange, on the scores themselves. From the whole image the cells without which
         the score stays highest go first, a quarter of them each round, each judged by a forward pass with what is
         left; blocks of 2 x 2 cells as long as more than 30 % of the image is there. Elimination can end between the
         parts of an object that are only recognised together, so the best compact window of the same area is tried
         too, and the better of both is kept. Cells inside are then exchanged for better ones within two cells of the
         region, as long as the score rises.

The paper climbs the gradient of f(m * x) - lambda R_a(m) instead, R_a the distance of the sorted mask from zeros and
ones. This is another solver for the same problem, not the paper's. An earlier ascent of ours did not converge; why is
not settled, and the paper's own schedule (800 steps) was not tried. In short ascents of other kinds (40 to 48 steps)
masks of intermediate values often scored well and, cut at their area, little. Elimination needs no gradient, and
scores that differ by less than QUANTUM of f(x) - f(blurred x) mostly count as equal, the first cell in reading order
winning, so that rounding seldom decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.perturbed_scores import answers, chunk_size, chunks
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.errors import CnnvizError
from cnnviz.methods.heatmap import Heatmap
from cnnviz.models.blur import blurred
from cnnviz.models.graph.structures import map_tensors
from cnnviz.registry.perturbation import ExtremalOptions

LEVELS = 8
EDGE = 0.3
"""Standard deviation of a mask's edges, in cells."""
ROUND = 0.25
"""Share of the cells that one round of the elimination removes."""
BLOCK, BLOCKS_ABOVE = 2, 0.3
"""Side of the blocks that go together while the region is larger than this share of the image."""
EXCHANGED = (3, 1)
"""Cells exchanged at once: first as many as this, then, where that does not help, as few as that."""
REACH = 2
"""How far from the region, in cells, what is exchanged for a part of it may lie."""
QUANTUM = 1e-4
GAMES = ("preserve", "delete")

Judge = Callable[[Tensor], Tensor]
"""Regions [B, rows, columns], bool, to what is to be as high as possible [B], in whole quanta."""


def extremal(run: ForwardPass, target: Target, params: ExtremalOptions) -> Heatmap:
    """Extremal perturbation.

        m_a = argmax over masks m of area a of  f(m * x)

    Images are treated one at a time. The areas of an image are found from the largest to the smallest, each from the
    one before.

    Args:
        run: A forward pass, pixels [N, C, H, W].
        target: Score [N] of the logits.
        params: ``areas``: shares of the image, such as ``0.05,0.1``; ``steps``: exchanges at each area, at most;
            ``game``: ``preserve`` keeps the region and blurs the rest, ``delete`` blurs the region so that the score
            falls; ``cells``: of the lattice, along the shorter side; ``blur``: sigma_max as a share of the shorter
            side.

    Returns:
        Heatmap with values [N, H, W] in [0, 1], the mean of the masks; array ``masks`` [N, areas, H, W]; scores
        ``areas``, ``reached_areas`` [N, areas] (the mean of each mask), ``perturbed_scores`` [N, areas] (f where the
        mask acts) and ``exchanges`` [N, areas] (how many raised the score).

    Raises:
        CnnvizError: ``areas`` are no numbers between 0 and 1.
    """
    areas = parse_areas(params.areas)
    found = [_one(run, target, image, areas, params) for image in range(len(run.pixels))]
    masks, reached, exchanges = (torch.stack([row[i] for row in found]) for i in range(3))
    figures = {
        "areas": list(areas),
        "reached_areas": rt.wide(masks).mean((2, 3)).float(),
        "perturbed_scores": reached,
        "exchanges": exchanges,
    }
    return Heatmap(masks.mean(1), facts={"game": params.game}, scores=figures, arrays={"masks": masks})


def parse_areas(text: str) -> tuple[float, ...]:
    """The numbers of ``0.05,0.1``, each between 0 and 1."""
    try:
        areas = tuple(float(part) for part in text.split(","))
    except ValueError:
        areas = ()
    if not areas or not all(0 < area < 1 for area in areas):
        raise CnnvizError(
            f"areas={text!r}: expected shares of the image between 0 and 1.", "For example --areas 0.05,0.1"
        )
    return areas


def _one(
    run: ForwardPass, target: Target, image: int, areas: tuple[float, ...], params: ExtremalOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks [A, H, W], scores [A] and exchanges [A] of one image."""
    pixels = run.pixels[image : image + 1].detach().float()
    size = (int(pixels.shape[2]), int(pixels.shape[3]))
    lattice = Lattice.of(size, params.cells, pixels.device)
    pyramid = blur_pyramid(pixels, params.blur * min(size))
    deletes = params.game == "delete"

    def scores(regions: Tensor) -> Tensor:
        made = []
        for part in chunks(len(regions), chunk_size(run)):
            masks = lattice(regions[part.start : part.stop].to(pixels))
            found = answers(run, image, perturb(pyramid, 1 - masks if deletes else masks))
            made.append(score_of(run, target, image, found).detach().cpu().double())
        return torch.cat(made)

    whole = torch.ones((1, *lattice.inner), dtype=torch.bool)
    ends = scores(torch.cat([whole, ~whole]))
    quantum = QUANTUM * float((ends[0] - ends[1]).abs()) or 1.0
    sign = -1.0 if deletes else 1.0
    regions, exchanges = search(lambda some: (sign * scores(some) / quantum).round(), whole[0], areas, params.steps)
    masks = lattice(regions.to(pixels))
    return masks.float(), scores(regions).float(), exchanges


def search(judge: Judge, whole: Tensor, areas: tuple[float, ...], steps: int) -> tuple[Tensor, Tensor]:
    """The best regions [A, rows, columns] that are found for these areas, and the exchanges [A] that helped."""
    regions: dict[float, Tensor] = {}
    counts: dict[float, int] = {}
    region = whole
    for area in sorted(set(areas), reverse=True):
        wanted = max(1, round(area * whole.numel()))
        region = _better(judge, eliminated(judge, region, wanted), best_window(judge, whole, wanted))
        region, counts[area] = exchanged(judge, region, steps)
        regions[area] = region
    return torch.stack([regions[area] for area in areas]), torch.tensor([counts[area] for area in areas])


def eliminated(judge: Judge, region: Tensor, wanted: int) -> Tensor:
    """The region [rows, columns] less what the score misses least, until ``wanted`` cells are left."""
    region = region.clone()
    while int(region.sum()) > wanted:
        spare = int(region.sum()) - wanted
        side = BLOCK if float(region.float().mean()) > BLOCKS_ABOVE and spare >= BLOCK**2 else 1
        blocks = _blocks(region, side)
        value = judge(region & ~blocks)
        order = torch.sort(value, descending=True, stable=True).indices.tolist()
        for place in order[: max(1, int(ROUND * len(order)))]:
            size = int((blocks[place] & region).sum())
            if size <= spare:
                region &= ~blocks[place]
                spare -= size
    return region


def best_window(judge: Judge, whole: Tensor, wanted: int) -> Tensor:
    """The best compact region of ``wanted`` cells: a square, or what of its last row is needed, wherever it fits."""
    rows, columns = whole.shape
    width = min(columns, math.ceil(math.sqrt(wanted)))
    height = min(rows, math.ceil(wanted / width))
    width = min(columns, math.ceil(wanted / height))
    shape = torch.arange(height * width).reshape(height, width) < wanted
    windows = []
    for top in range(rows - height + 1):
        for left in range(columns - width + 1):
            window = torch.zeros_like(whole)
            window[top : top + height, left : left + width] = shape
            windows.append(window)
    every = torch.stack(windows)
    return every[int(judge(every).argmax())]


def _better(judge: Judge, first: Tensor, second: Tensor) -> Tensor:
    """The region that scores higher; the first of equals."""
    values = judge(torch.stack([first, second]))
    return second if values[1] > values[0] else first


def _blocks(region: Tensor, side: int) -> Tensor:
    """[B, rows, columns]: the cells of the region that lie in each block of ``side`` x ``side`` cells."""
    rows, columns = region.shape
    number = torch.arange(rows)[:, None] // side * columns + torch.arange(columns) // side
    return torch.stack([(number == block) & region for block in number[region].unique(sorted=True)])


def exchanged(judge: Judge, region: Tensor, steps: int) -> tuple[Tensor, int]:
    """The region with cells exchanged for better ones nearby as long as that helps; and how often it did."""
    if steps < 1:
        return region, 0
    value, done = float(judge(region[None])[0]), 0
    sizes = [count for count in EXCHANGED if count < int(region.sum())]
    while sizes and done < steps:
        other = _exchange(judge, region, sizes[0])
        better = float("-inf") if other is None else float(judge(other[None])[0])
        if other is None or better <= value:
            sizes = sizes[1:]
            continue
        region, value, done = other, better, done + 1
    return region, done


def _exchange(judge: Judge, region: Tensor, count: int) -> Tensor | None:
    """The region with the ``count`` best cells nearby instead of what it then misses least; None if none are near."""
    wide = F.max_pool2d(region[None, None].float(), 2 * REACH + 1, 1, REACH)[0, 0] > 0
    near = _blocks(wide & ~region, 1) if bool((wide & ~region).any()) else None
    if near is None:
        return None
    best = torch.sort(judge(region | near), descending=True, stable=True).indices[:count]
    larger = region | near[best].any(0)
    parts = _blocks(larger, 1)
    least = torch.sort(judge(larger & ~parts), descending=True, stable=True).indices[: len(best)]
    return larger & ~parts[least].any(0)


def score_of(run: ForwardPass, target: Target, image: int, output: Any) -> Tensor:
    """Scores [A] of the network's answers to A copies of one image."""
    return target.of_image(image, output, map_tensors(Tensor.detach, run.output))


@dataclass(frozen=True, eq=False)
class Lattice:
    """Regions of cells [A, rows, columns] -> masks [A, H, W]: down @ region @ across^T.

    Attributes:
        down, across: [H, rows] and [W, columns]: the cell of each pixel, smoothed; each row sums to one.
    """

    down: Tensor
    across: Tensor

    @property
    def inner(self) -> tuple[int, int]:
        return self.down.shape[1], self.across.shape[1]

    @staticmethod
    def of(size: tuple[int, int], cells: int, device: torch.device) -> Lattice:
        """With ``cells`` along the shorter side, never more than pixels, and at the same density along the other."""
        shorter = min(size)
        counts = [max(1, round(length * min(cells, shorter) / shorter)) for length in size]
        down, across = (_axis(length, count).to(device) for length, count in zip(size, counts, strict=True))
        return Lattice(down, across)

    def __call__(self, regions: Tensor) -> Tensor:
        return (self.down @ regions @ self.across.T).clamp(0, 1)


def _axis(length: int, cells: int) -> Tensor:
    """[length, cells]: the share of each cell in each pixel of one axis."""
    cell = torch.arange(length) * cells // length
    own = F.one_hot(cell, cells).double()
    sigma = EDGE * length / cells
    apart = torch.arange(length)[:, None] - torch.arange(length)
    kernel = torch.exp(-0.5 * (apart / sigma) ** 2).double()
    return (kernel / kernel.sum(1, keepdim=True) @ own).float()


def blur_pyramid(pixels: Tensor, sigma: float) -> Tensor:
    """[LEVELS, C, H, W]: one image [1, C, H, W] from sharp to blurred by ``sigma`` pixels."""
    levels = [blurred(pixels, sigma * level / (LEVELS - 1)) for level in range(1, LEVELS)] if sigma > 0 else []
    return torch.cat([pixels, *levels, *([pixels] * (LEVELS - 1 - len(levels)))])


def perturb(pyramid: Tensor, masks: Tensor) -> Tensor:
    """Images [A, C, H, W]: at each pixel of the masks [A, H, W] the level (1 - m) (LEVELS - 1), between two levels."""
    level = (1 - masks) * (LEVELS - 1)
    low = level.floor().clamp_max(LEVELS - 2).long()
    share = (level - low)[:, None]
    every = pyramid.transpose(0, 1)[None].expand(len(masks), -1, -1, -1, -1)

    def at(which: Tensor) -> Tensor:
        places = which[:, None, None].expand(-1, every.shape[1], -1, -1, -1)
        return every.gather(2, places)[:, :, 0]

    return at(low) * (1 - share) + at(low + 1) * share
