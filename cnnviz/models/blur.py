"""Gaussian blur, along one axis after the other. (torchvision's goes over both at once: wide ones take minutes.)"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def blurred(pixels: Tensor, sigma: float) -> Tensor:
    """Pixels [N, C, H, W] under a Gaussian of this standard deviation in pixels; the border is repeated."""
    reach = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=pixels.device, dtype=pixels.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = pixels.reshape(-1, 1, *pixels.shape[2:])
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="replicate"), kernel.reshape(1, 1, -1, 1))
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="replicate"), kernel.reshape(1, 1, 1, -1))
    return flat.reshape(pixels.shape)
