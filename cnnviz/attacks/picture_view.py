"""A picture as the network sees it, and back: resize and crop as two matrices, whose transposes carry gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.attacks.linf import LEVELS, Back, Network
from cnnviz.models.preprocess import Geometry, Preprocess, prepare, shown_size

_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class View:
    """Resize and crop of one picture as a linear map: y = rows @ x @ columns.T, a padded border added.

    Attributes:
        rows: [h, H]; rows of padding are zero.
        columns: [w, W].
        padding: [C, h, w] in 0–1: the colour of what lies outside the picture, zero elsewhere.
        grey: Whether the network takes one channel.
    """

    rows: Tensor
    columns: Tensor
    padding: Tensor
    grey: bool

    def forward(self, image: Tensor) -> Tensor:
        """[3, H, W] in 0–1 to [C, h, w], not rounded."""
        if self.grey:
            image = (image * image.new_tensor(_GREY)[:, None, None]).sum(dim=0, keepdim=True)
        return self.rows @ image @ self.columns.T + self.padding

    def back(self, gradient: Tensor) -> Tensor:
        """The transpose: a gradient [C, h, w] at what the network sees to one [3, H, W] at the picture."""
        found = self.rows.T @ gradient @ self.columns
        return found * found.new_tensor(_GREY)[:, None, None] if self.grey else found

    def seen(self) -> Tensor:
        """[H, W] bool: the pixels that what the network sees depends on."""
        return (self.rows != 0).any(dim=0)[:, None] & (self.columns != 0).any(dim=0)[None]


def view(geometry: Geometry, spec: Preprocess, device: torch.device | None = None) -> View:
    """The linear map that :func:`cnnviz.models.preprocess.prepare` is, but for its rounding.

    Lanczos is taken as bicubic here. Attacks judge their images by ``prepare`` itself, so that only their direction
    depends on this.

    Args:
        geometry: What ``prepare`` said of the picture.
        spec: What it was prepared for.
        device: Where the gradients are.
    """
    channels = spec.input_size[0]
    height, width = shown_size(geometry.image_size[1], geometry.image_size[0], spec)
    x0, y0, x1, y1 = geometry.rect
    columns = _matrix(geometry.image_size[0], (x0, x1), width, spec)
    rows = _matrix(geometry.image_size[1], (y0, y1), height, spec)
    outside = ((rows == 0).all(dim=1)[:, None] | (columns == 0).all(dim=1)[None]).float()
    fill = torch.tensor(spec.fill, dtype=torch.float32).expand(channels) / LEVELS
    return View(rows.to(device), columns.to(device), (fill[:, None, None] * outside).to(device), channels == 1)


def _matrix(size: int, span: tuple[float, float], crop: int, spec: Preprocess) -> Tensor:
    """[crop, size]: one axis resized and cropped."""
    resized = round(size * crop / (span[1] - span[0]))
    first = round(span[0] * resized / size)
    whole = torch.eye(size)
    if resized != size:
        if spec.interpolation == "nearest":
            whole = F.interpolate(whole[None, None], (resized, size), mode="nearest-exact")[0, 0]
        else:
            mode = "bilinear" if spec.interpolation == "bilinear" else "bicubic"
            whole = F.interpolate(whole[None, None], (resized, size), mode=mode, antialias=True)[0, 0]
    found = torch.zeros(crop, size)
    low, high = max(first, 0), min(first + crop, resized)
    found[low - first : high - first] = whole[low:high]
    return found


def through_view(network: Network, seeing: View) -> Network:
    """The network as a function of one picture [1, 3, H, W] with real values."""

    def look(images: Tensor) -> tuple[Tensor, Back]:
        logits, back = network(seeing.forward(images[0].float())[None])
        return logits, lambda scores: seeing.back(back(scores)[0])[None].to(images.dtype)

    return look


def through_prepare(network: Network, seeing: View, spec: Preprocess) -> Network:
    """The network as a function of one picture of 8 bits [1, 3, H, W], seen exactly as its file will be.

    Gradients pass straight through the rounding after the resize.
    """

    def look(images: Tensor) -> tuple[Tensor, Back]:
        pixels, _ = prepare(to_rgb(images[0]), spec)
        logits, back = network(pixels[None].to(images.device).float() / LEVELS)
        return logits, lambda scores: seeing.back(back(scores)[0])[None].to(images.dtype)

    return look


def to_rgb(image: Tensor) -> NDArray[np.uint8]:
    """[C, H, W] in 0–1, of 8 bits, as the picture [H, W, 3]; one channel in all three."""
    levels = (image.detach() * LEVELS).round().to(torch.uint8).cpu()
    return np.ascontiguousarray(levels.expand(3, -1, -1).permute(1, 2, 0).numpy())


def from_rgb(rgb: NDArray[np.uint8], device: torch.device | None = None) -> Tensor:
    """The picture [H, W, 3] as [1, 3, H, W] in 0–1."""
    return (torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].to(device).float() / LEVELS).contiguous()
