"""Extremal perturbations: the region of a given size that, alone, the network sees the class best in.

Fong, Patrick & Vedaldi, "Understanding Deep Networks via Extremal Perturbations and Smooth Masks", ICCV 2019.

    m_a = argmax over smooth masks m of  f(m * x) - lambda R_a(m),     R_a(m) = mean (sort(m) - r_a)^2

with r_a the sorted mask of area a: zeros for a share 1 - a of the pixels, then ones (equations 3 and 4).

m * x    each pixel is blurred the more the smaller its m: x under a Gaussian of sigma (1 - m) sigma_max, interpolated
         between 8 levels (section 3.2).
smooth   a mask is the smooth maximum of kernels at the cells of a coarse grid g in [0, 1]:
         m(u) = sum_v F_v e^(F_v/T) / sum_v e^(F_v/T),  F_v = k(|u - v|) g_v,  k(d) = exp(-max(0, d - 1)^2 / 4),
         T = 1/20, distances in cells (section 3.3). It is taken at the cells, over the neighbours of up to 5 cells, and
         interpolated bilinearly to the pixels.
argmax   gradient ascent with momentum from a mask of ones. Both terms are scaled: f by |f(x) - f(blurred x)|, so that
         logits and probabilities are treated alike, and the sum of the two by 1 + lambda, so that steps stay small.
         lambda rises evenly in its logarithm from 0.05, where the score decides alone, to 100, where the area is kept:
         what matters least goes first, and is judged anew at every step. (Published code starts at 300 and
         rises 16-fold: here the area term would outweigh the score at once, and its first order would stay.) The
         area term waits one step: in a mask of ones all values tie, and their order would be that of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine.session import Pass
from cnnviz.engine.targets import ClassTarget, Target
from cnnviz.errors import CnnvizError
from cnnviz.methods.heatmap import Heatmap
from cnnviz.methods.occlusion import blurred

LEVELS = 8
TEMPERATURE = 1 / 20
# Reach of a kernel in cells, beyond which it is below a fiftieth; so far the grid goes on beyond the image.
MARGIN = 5
MOMENTUM, RATE = 0.9, 0.005
WEIGHTS = (0.05, 100.0)
GAMES = ("preserve", "delete")


def extremal(run: Pass, target: Target, params: Mapping[str, Any]) -> Heatmap:
    """Extremal perturbation.

    Images are treated one at a time, the areas of an image together: hundreds of steps would let the rounding of other
    batches grow.

    Args:
        run: A forward pass that starts at the image, pixels [N, C, H, W].
        target: Score [N] of the logits.
        params: ``areas``: shares of the image, such as ``0.05,0.1``; ``steps``; ``game``: ``preserve`` keeps the region
            and blurs the rest, ``delete`` blurs the region so that the score falls; ``cells``: of the grid, along the
            shorter side; ``blur``: sigma_max as a share of the shorter side.

    Returns:
        Heatmap with values [N, H, W] in [0, 1], the mean of the masks; array ``masks`` [N, areas, H, W]; scores
        ``areas``, ``reached_areas`` [N, areas] (the mean of each mask) and ``perturbed_scores`` [N, areas] (f where the
        mask acts).

    Raises:
        CnnvizError: ``areas`` are no numbers between 0 and 1.
    """
    areas = parse_areas(params["areas"])
    found = [_one(run, target, image, areas, params) for image in range(len(run.pixels))]
    masks, reached = (torch.stack([pair[i] for pair in found]) for i in (0, 1))
    figures = {
        "areas": list(areas),
        "reached_areas": masks.double().mean((2, 3)).float(),
        "perturbed_scores": reached,
        "steps": params["steps"],
    }
    return Heatmap(masks.mean(1), facts={"game": params["game"]}, scores=figures, arrays={"masks": masks})


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
    run: Pass, target: Target, image: int, areas: tuple[float, ...], params: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Masks [A, H, W] and scores [A] of one image."""
    pixels = run.pixels[image : image + 1].detach().float()
    size = (int(pixels.shape[2]), int(pixels.shape[3]))
    smooth = SmoothMask.of(size, params["cells"], pixels.device)
    pyramid = blur_pyramid(pixels, params["blur"] * min(size))
    deletes = params["game"] == "delete"
    sign = -1.0 if deletes else 1.0
    grid = smooth.ones(len(areas))
    velocity = torch.zeros_like(grid)
    wanted = template(areas, size, pixels.device)

    def perturbed(masks: Tensor) -> Tensor:
        return perturb(pyramid, 1 - masks if deletes else masks)

    ends = score_of(run, target, image, run.session.logits(torch.cat([pyramid[:1], pyramid[-1:]]))).detach()
    scale = float((ends[0] - ends[1]).abs()) or 1.0
    for step in range(params["steps"]):
        grid.requires_grad_()
        masks = smooth(grid)
        changed = perturbed(masks)
        there = run.session.forward(changed.detach())
        uphill = there.gradients(score_of(run, target, image, there.logits))[0]
        weight = area_weight(step, params["steps"])
        off = area_error(masks, wanted).sum()
        (gradient,) = torch.autograd.grad((changed, off), grid, (-sign / scale * uphill, torch.full_like(off, weight)))
        velocity = MOMENTUM * velocity + gradient * (grid[0].numel() / (1 + weight))
        grid = (grid.detach() - RATE * velocity).clamp(0, 1)
    with torch.no_grad():
        masks = smooth(grid)
        reached = score_of(run, target, image, run.session.logits(perturbed(masks)))
    return masks, reached.detach().float()


def area_weight(step: int, steps: int) -> float:
    """lambda at a step."""
    first, last = WEIGHTS
    return first * (last / first) ** (step / max(1, steps - 1)) if step else 0.0


def score_of(run: Pass, target: Target, image: int, logits: Tensor) -> Tensor:
    """Scores [A] of logits [A, K] that all belong to one image."""
    if isinstance(target, ClassTarget):
        return replace(target, indices=target.indices[image].repeat(len(logits)))(logits)
    # A user's function may rely on the number of images: the others stay as they are.
    whole = run.logits.detach().to(logits.device)
    return torch.stack([target(torch.cat([whole[:image], row[None], whole[image + 1 :]]))[image] for row in logits])


@dataclass(frozen=True, eq=False)
class SmoothMask:
    """grid [A, 1, rows, columns] -> masks [A, H, W] by smooth maximum.

    The grid goes on beyond the image, so that the border has as many neighbours as the middle: with fewer, a mask of
    ones would be largest in the corners, and the area term would keep them.

    Attributes:
        inner: Rows and columns of cells on the image.
        size: Height and width of the masks.
        kernel: [neighbours, 1], k of the distances between a cell and its neighbours, MARGIN cells to each side.
    """

    inner: tuple[int, int]
    size: tuple[int, int]
    kernel: Tensor

    @staticmethod
    def of(size: tuple[int, int], cells: int, device: torch.device) -> SmoothMask:
        """With ``cells`` along the shorter side, at most one a pixel, and as many to the pixel along the other."""
        shorter = min(size)
        rows, columns = (max(1, round(length * min(cells, shorter) / shorter)) for length in size)
        reach = torch.arange(-MARGIN, MARGIN + 1, device=device)
        distance = (reach[:, None] ** 2 + reach**2).float().sqrt()
        kernel = torch.exp(-((distance - 1).clamp_min(0) ** 2) / 4)
        return SmoothMask((rows, columns), size, kernel.reshape(-1, 1))

    def ones(self, count: int) -> Tensor:
        """Grids that show everything."""
        rows, columns = (cells + 2 * MARGIN for cells in self.inner)
        return torch.ones((count, 1, rows, columns), device=self.kernel.device)

    def __call__(self, grid: Tensor) -> Tensor:
        seen = F.unfold(grid, 2 * MARGIN + 1) * self.kernel
        smooth = (torch.softmax(seen / TEMPERATURE, 1) * seen).sum(1).reshape(-1, 1, *self.inner)
        return F.interpolate(smooth, size=self.size, mode="bilinear", align_corners=False)[:, 0]


def blur_pyramid(pixels: Tensor, sigma: float) -> Tensor:
    """[LEVELS, C, H, W]: one image [1, C, H, W] from sharp to blurred by ``sigma`` pixels."""
    levels = [blurred(pixels, sigma * level / (LEVELS - 1)) for level in range(1, LEVELS)] if sigma > 0 else []
    return torch.cat([pixels, *levels, *([pixels] * (LEVELS - 1 - len(levels)))])


def perturb(pyramid: Tensor, masks: Tensor) -> Tensor:
    """Images [A, C, H, W]: at each pixel of the masks [A, H, W] the level (1 - m) (LEVELS - 1), between two levels."""
    level = (1 - masks) * (LEVELS - 1)
    which = torch.arange(LEVELS, device=masks.device)[:, None, None]
    share = (1 - (level[:, None] - which).abs()).clamp_min(0)
    return torch.einsum("alhw,lchw->achw", share, pyramid)


def template(areas: tuple[float, ...], size: tuple[int, int], device: torch.device) -> Tensor:
    """[A, H W]: the sorted mask of each area."""
    count = size[0] * size[1]
    place = torch.arange(count, device=device)
    return torch.stack([(place >= count - round(area * count)).float() for area in areas])


def area_error(masks: Tensor, wanted: Tensor) -> Tensor:
    """R_a [A] of masks [A, H, W]."""
    ordered = torch.sort(masks.flatten(1), dim=1, stable=True).values
    return (ordered - wanted).square().mean(1)
