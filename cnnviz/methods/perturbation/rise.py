"""RISE: which pixels were visible when the class was recognised through random masks.

Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.

    S(u) = sum_i f(x * M_i) M_i(u) / (N E[M])

equation 6, with f the probability of the class and N masks. A mask is a grid of s x s cells, each 1 with probability p,
upsampled bilinearly to (s + 1) cells of ceil(H/s) x ceil(W/s) pixels and cut out at a random offset of up to one cell
(section 3.2). E[M] = p. With ``coverage=observed`` the mean of the masks that were drawn stands in its place at every
pixel, which is the average of the score over the masks that show the pixel: free of the noise of how often that was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.perturbed_scores import Changes, chunk_size, chunks, scores
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.errors import CnnvizError
from cnnviz.methods.chance import certainty
from cnnviz.methods.heatmap import Heatmap
from cnnviz.registry.perturbation import DRISEOptions, RISEOptions

COVERAGES = ("expected", "observed")
# A map that varies by no more than this share of its maximum varies by rounding; so few masks tell nothing of others.
_TINY, _FEW = 1e-12, 10


def rise(run: ForwardPass, target: Target, params: RISEOptions) -> Heatmap:
    """RISE.

    The masks depend on the seed alone: every image of a run is seen through the same ones. The score is the class's
    probability as in the paper, also where a logit is explained otherwise; the logarithm of the probability and
    functions are taken as they are.

    Args:
        run: A forward pass over pixels [N, C, H, W].
        target: Score [N] of the logits.
        params: ``masks`` N, ``cells`` s, ``p``, ``coverage``, ``seed``. A hidden pixel has the network's value zero
            (the mean colour).

    Returns:
        Heatmap with values [N, H, W], in units of the score: the expected score when the pixel is visible. Half of the
        image is visible even where it shows nothing of the class, so they have a floor: maps [N, H, W] are the values
        above it, and the score ``floor`` is the lowest value of each image. ``standard_error`` and ``reliability`` say
        how far chance moves values, and how alike the maps of two seeds would be.
    """
    if target.unit == "logit":
        target = target.in_unit("probability") or target
    return _masked(run, target, params, {"score": target.unit})


def drise(run: ForwardPass, target: Target, params: DRISEOptions) -> Heatmap:
    """D-RISE (Petsiuk et al., "Black-box Explanation of Object Detectors via Saliency Maps", CVPR 2021).

        S(u) = sum_i s(x * M_i) M_i(u) / (N E[M])
        s(x') = max_j IoU(box_j, box) cos(P_j, P) O_j

    with box and P the box that is explained and its class probabilities in the whole image, and j the candidates of the
    masked one, before suppression; O_j is the objectness. What is taken where a network has none, and of an end-to-end
    output, says :class:`cnnviz.engine.box_targets.SimilarBox`. The masks are those of RISE; their number, cells and p
    (5,000, 16, 0.5) are those with which the code of ODAM's authors runs it. The sum is divided as in RISE: it is then
    an expected similarity.

    Args:
        run: A forward pass over pixels [N, C, H, W].
        target: A box of a detector.
        params: As those of RISE.

    Returns:
        Heatmap as :func:`rise` has it, values from 0 to 1.

    Raises:
        CnnvizError: What is explained is no box.
    """
    alike = target.alike
    if alike is None:
        raise CnnvizError(
            "D-RISE compares boxes: it explains the score of a box of a detector, and nothing else.",
            "Use --variant rise.",
        )
    return _masked(run, alike, params, {"score": alike.unit})


def _masked(run: ForwardPass, target: Target, params: RISEOptions | DRISEOptions, facts: dict[str, Any]) -> Heatmap:
    pixels = run.pixels.detach().float()
    size = (int(pixels.shape[2]), int(pixels.shape[3]))
    asked = (params.masks, params.cells, params.p, params.seed)
    masks = draw_masks(size, *asked)

    def hide(image: int, positions: range) -> Tensor:
        return pixels[image] * rt.moved(masks.at(positions), pixels.device).to(pixels)[:, None]

    found = scores(run, target, Changes(len(masks), hide, key=("rise", asked))).cpu().double()
    total = torch.zeros(len(pixels), size[0] * size[1], dtype=torch.float64)
    seen = torch.zeros(size[0] * size[1], dtype=torch.float64)
    for part in chunks(len(masks), chunk_size(run)):
        flat = masks.at(part).flatten(1).double()
        total += found[:, part.start : part.stop] @ flat
        seen += flat.sum(0)
    if params.coverage == "expected":
        seen = torch.full_like(seen, len(masks) * params.p)
    values = torch.where(seen > 0, total / seen, 0.0).reshape(-1, *size).float()
    floor = values.amin((1, 2))
    figures = {"masks": len(masks), "floor": floor, **_certainties(masks, found, values, seen, params.coverage)}
    return Heatmap(values, values - floor[:, None, None], facts=facts, scores=figures)


def _certainties(masks: Masks, found: Tensor, values: Tensor, seen: Tensor, coverage: str) -> dict[str, Tensor]:
    """How far chance moves maps, and how alike those of two seeds would be, from what each mask adds.

        r_i(u) = (f_i M_i(u) / p - S(u)) / N            coverage expected
        r_i(u) = (f_i - S(u)) M_i(u) / sum_i M_i(u)     coverage observed
        standard_error^2 = N / (N - 1) sum_i mean over u of r_i(u)^2

    What moves all pixels alike makes no two maps less alike, nor does what makes a map a multiple of what it is, as a
    few masks with high scores do: for the reliability both are left out.

    Args:
        masks: N masks.
        found: Scores f [images, N].
        values: Maps S [images, H, W].
        seen: What the sums were divided by [H * W].
        coverage: How that was found.

    Returns:
        ``standard_error`` [images], root mean square over pixels, in the unit of the score, and ``reliability``
        [images] of :func:`cnnviz.methods.chance.certainty`; NaN of a single mask, the reliability also where less than
        ten masks, evenly weighed, would have as much of the error: others would differ by more than these tell. Of 32 x
        32 pixels evenly over the image: masks are smooth.
    """
    count, (rows, columns) = len(masks), (_evenly(length) for length in values.shape[1:])
    few = replace(masks, down=masks.down[:, rows], across=masks.across[:, columns])
    maps = values[:, rows][:, :, columns].flatten(1).double()
    often = seen.reshape(values.shape[1:])[rows][:, columns].flatten()
    # Sums over masks of r^2, of it without what moves all pixels alike or by a factor, and of the square of that.
    sums = torch.zeros(len(maps), 3, dtype=torch.float64)
    for start in range(0, count, 1024):
        part = range(start, min(count, start + 1024))
        share = torch.where(often > 0, few.at(part).flatten(1).double() / often, 0.0)
        for image, (value, scores_of) in enumerate(zip(maps, found[:, part.start : part.stop, None], strict=True)):
            own = scores_of - value if coverage == "observed" else scores_of
            moved = own * share - (value / count if coverage == "expected" else 0.0)
            apart = _apart(moved, value).square().mean(1)
            sums[image] += torch.stack([moved.square().mean(1).sum(), apart.sum(), apart.square().sum()])
    of_all = count / (count - 1) if count > 1 else math.nan
    stated = [_stated(value, own.tolist(), of_all) for value, own in zip(maps, sums, strict=True)]
    return {key: torch.tensor([each[key] for each in stated]) for key in ("standard_error", "reliability")}


def _apart(rows: Tensor, map_: Tensor) -> Tensor:
    """What of each row [N, P] is neither the same everywhere nor a multiple of the map [P]."""
    rows, shape = rows - rows.mean(1, keepdim=True), map_ - map_.mean()
    length = shape.square().sum()
    return rows - (rows @ shape)[:, None] * shape / length if float(length) > 0 else rows


def _stated(map_: Tensor, sums: Sequence[float], of_all: float) -> dict[str, float]:
    square, apart, of_few = sums
    if float(map_.std()) <= _TINY * float(map_.abs().max()):
        apart = 0.0  # of a score that no mask changes only rounding varies
    elif apart**2 < _FEW * of_few:
        apart = math.nan
    return {
        "standard_error": math.sqrt(square * of_all),
        "reliability": certainty(map_.numpy(), apart * of_all)["reliability"],
    }


def _evenly(length: int) -> Tensor:
    """Up to 32 positions of ``length``, evenly: the middle of each of as many parts."""
    parts = min(length, 32)
    return (torch.arange(parts) * 2 + 1) * length // (2 * parts)


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks that are made when they are needed.

    Attributes:
        grids: [N, s, s], zeros and ones.
        down, across: [offsets, H, s] and [offsets, W, s]: bilinear interpolation of a grid's rows and columns, for each
            offset of the cut.
        offsets: [N, 2].
    """

    grids: Tensor
    down: Tensor
    across: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.grids)

    def at(self, positions: range) -> Tensor:
        """Masks [B, H, W] at these positions."""
        part = slice(positions.start, positions.stop)
        top, left = self.offsets[part].unbind(1)
        return self.down[top] @ self.grids[part] @ self.across[left].transpose(1, 2)


def draw_masks(size: tuple[int, int], count: int, cells: int, p: float, seed: int) -> Masks:
    """The masks for images of ``size`` (height, width); the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    grids = (torch.rand((count, cells, cells), generator=generator) < p).float()
    sides = [-(-length // cells) for length in size]
    offsets = torch.stack([torch.randint(side, (count,), generator=generator) for side in sides], 1)
    down, across = (_interpolation(length, cells, side) for length, side in zip(size, sides, strict=True))
    return Masks(grids, down, across, offsets)


def _interpolation(length: int, cells: int, side: int) -> Tensor:
    """[side, length, cells]: ``cells`` values upsampled to (cells + 1) * side, cut at each offset below ``side``."""
    every = torch.nn.functional.interpolate(
        torch.eye(cells)[None], size=(cells + 1) * side, mode="linear", align_corners=False
    )[0].T
    return torch.stack([every[offset : offset + length] for offset in range(side)])
