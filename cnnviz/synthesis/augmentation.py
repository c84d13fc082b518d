"""What keeps an ascent on pictures that say something: penalties, and the random views that the network gets."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def l2(images: Tensor) -> Tensor:
    """[N]: mean of (x - 1/2)^2 over the pixels and channels of images [N, C, H, W] in 0–1.

    The decay of Simonyan et al. (ICLR workshop 2014), towards grey.
    """
    return (images - 0.5).square().flatten(1).mean(dim=1)


def total_variation(images: Tensor) -> Tensor:
    """[N]: sum of (x[i, j+1] - x[i, j])^2 and (x[i+1, j] - x[i, j])^2, over the number of pixels and channels.

    The total variation of Mahendran & Vedaldi (CVPR 2015) with beta = 2, which they found best.
    """
    across = (images[..., :, 1:] - images[..., :, :-1]).square().flatten(1).sum(dim=1)
    down = (images[..., 1:, :] - images[..., :-1, :]).square().flatten(1).sum(dim=1)
    return (across + down) / images[0].numel()


@dataclass(frozen=True)
class Augmentation:
    """How far views differ.

    Attributes:
        jitter: Largest shift in pixels, in every direction.
        rotate: Largest angle in degrees.
        scale: Largest relative change of size.
        noise: Standard deviation of the Gaussian noise on the first view, for pixels in 0–1; it falls to none after
            two thirds of the steps. The gradient is then that of the score averaged over the noise, as in randomized
            smoothing (Cohen et al., ICML 2019).
    """

    jitter: int = 16
    rotate: float = 5.0
    scale: float = 0.1
    noise: float = 0.0


class Views:
    """The windows through which the network sees a canvas that is larger than its input by a margin of ``jitter``.

    A shift moves the window over the margin, so nothing wraps and no edge comes into sight; what a rotation or a
    smaller scale asks for beyond the canvas is its mirror image. All of it is one bilinear sampling a step for all
    images; shifts alone are whole pixels, and a slice.

    Args:
        size: Height and width of the window.
        shaking: How far it moves.
        seeds: One for each image: its views do not depend on the others.
        steps: How many there will be.
        device: Where the images are.
    """

    def __init__(
        self, size: tuple[int, int], shaking: Augmentation, seeds: Sequence[int], steps: int, device: torch.device
    ) -> None:
        self.size = size
        self.margin = shaking.jitter
        self._noise, self._seeds, self._steps = shaking.noise, tuple(seeds), steps
        self._canvas = (size[0] + 2 * self.margin, size[1] + 2 * self.margin)
        self._bends = shaking.rotate > 0 or shaking.scale > 0
        # Everything is drawn now: a draw a step would make an accelerator wait.
        drawn = torch.stack([torch.rand(steps, 4, generator=torch.Generator().manual_seed(seed)) for seed in seeds], 1)
        self._shifts = torch.floor(drawn[:, :, :2] * (2 * self.margin + 1)).long().clamp_max(2 * self.margin)
        angles = torch.deg2rad((2 * drawn[:, :, 2] - 1) * shaking.rotate)
        spans = torch.exp((2 * drawn[:, :, 3] - 1) * math.log1p(shaking.scale))
        self._matrices = self._affine(angles, spans).to(device) if self._bends else None

    def _affine(self, angles: Tensor, spans: Tensor) -> Tensor:
        """[steps, N, 2, 3]: window positions to canvas positions, both in -1 to 1 from edge to edge."""
        (height, width), (tall, wide) = self.size, self._canvas
        cos, sin = torch.cos(angles) * spans, torch.sin(angles) * spans
        shifts = (self._shifts - self.margin).float() * 2
        rows = [cos * width / wide, -sin * height / wide, shifts[..., 1] / wide]
        rows += [sin * width / tall, cos * height / tall, shifts[..., 0] / tall]
        return torch.stack(rows, dim=-1).reshape(*angles.shape, 2, 3)

    def __call__(self, canvas: Tensor, step: int) -> Tensor:
        """The windows [N, C, h, w] of canvases [N, C, h + 2 margin, w + 2 margin] at a step."""
        windows = self._windows(canvas, step)
        # Gone for the last third: the picture that is kept has none, and must be one of the class without it.
        noise = self._noise * max(0.0, 1.0 - 1.5 * step / self._steps)
        if noise == 0:
            return windows
        drawn = [torch.randn(windows.shape[1:], generator=_source(seed, step)) for seed in self._seeds]
        return windows + noise * torch.stack(drawn).to(windows)

    def _windows(self, canvas: Tensor, step: int) -> Tensor:
        height, width = self.size
        if self._matrices is not None:
            grid = F.affine_grid(self._matrices[step], [len(canvas), 1, height, width], align_corners=False)
            return F.grid_sample(canvas, grid.to(canvas.dtype), "bilinear", "reflection", align_corners=False)
        if self.margin == 0:
            return canvas
        corners = zip(canvas, self._shifts[step].tolist(), strict=True)
        return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in corners])

    def moved(self, mask: Tensor, step: int) -> Tensor:
        """Where a part of the window that is kept [1, 1, h, w] lies in the windows at a step [N, 1, h, w]."""
        wide = F.pad(mask, (self.margin,) * 4).expand(len(self._seeds), -1, -1, -1)
        return self._windows(wide, step)

    def centre(self, canvas: Tensor) -> Tensor:
        """The window that is kept in the end."""
        (height, width), margin = self.size, self.margin
        return canvas[:, :, margin : margin + height, margin : margin + width]

    def widen(self, images: Tensor) -> Tensor:
        """Canvases whose centre are these images; their margin is the mirror image."""
        return mirrored(images, (self.margin,) * 4)


def _source(seed: int, step: int) -> torch.Generator:
    """The noise of one image at one step, whatever was drawn before."""
    return torch.Generator().manual_seed(zlib.crc32(b"%d:%d" % (seed, step)))


def mirrored(images: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
    """Images [N, C, H, W] continued by their mirror image, also further than they are wide.

    Args:
        images: Any values.
        sides: Pixels to add left, right, above and below.
    """
    left, right, above, below = sides
    rows = _reflected(images.shape[2], above, below).to(images.device)
    columns = _reflected(images.shape[3], left, right).to(images.device)
    return images.index_select(2, rows).index_select(3, columns)


def _reflected(length: int, before: int, after: int) -> Tensor:
    """The pixel that stands at each place from ``-before`` to ``length + after``: 2 1 | 0 1 2 | 1 0."""
    if length == 1:
        return torch.zeros(before + 1 + after, dtype=torch.long)
    at = torch.arange(-before, length + after).remainder(2 * (length - 1))
    return torch.minimum(at, 2 * (length - 1) - at)
