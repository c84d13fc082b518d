"""What an ascent changes: pixels, or the Fourier coefficients of decorrelated colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cnnviz.models.blur import blurred

# Square root of the covariance of ImageNet's colours, and its largest column norm: what uncorrelated channels are
# multiplied by to be correlated as in photographs (tensorflow/lucid).
_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
_FAINT = 0.01
_DARKEST = 0.5 / 255


def correlation(channels: int) -> Tensor:
    """[C, C]: uncorrelated channels to colours; for one channel (grey) the identity."""
    if channels != 3:
        return torch.eye(channels)
    root = torch.tensor(_COLOURS)
    return root.div(root.norm(dim=0).max())


def frequencies(height: int, width: int) -> Tensor:
    """[H, W // 2 + 1]: frequency of each coefficient of ``rfft2``, in cycles a pixel."""
    return torch.sqrt(torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2)


def noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """[N, *shape] of standard normal values; each image's come from its own seed."""
    drawn = [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn)


class Canvas:
    """Images in 0–1 as a function of what is optimised.

    Attributes:
        leaf: What is optimised.
        rate: Step of Adam that suits it.
    """

    leaf: Tensor
    rate: float

    def image(self) -> Tensor:
        """[N, C, H, W] in 0–1."""
        raise NotImplementedError

    def blur(self, sigma: float) -> None:
        """Blur what is optimised by a Gaussian of ``sigma`` pixels."""
        raise NotImplementedError

    def settle(self) -> None:
        """Bring what is optimised back into its range after a step."""


class Pixels(Canvas):
    """The pixels themselves, clipped to 0–1 after every step.

    Args:
        start: [N, C, H, W] in 0–1.
    """

    rate = 0.03

    def __init__(self, start: Tensor) -> None:
        self.leaf = start.detach().clone().requires_grad_()

    @classmethod
    def of_noise(cls, size: tuple[int, int, int], seeds: Sequence[int], device: torch.device) -> Pixels:
        """Faint noise on grey, [N, *size]."""
        return cls((0.5 + _FAINT * noise(size, seeds)).to(device))

    def image(self) -> Tensor:
        return self.leaf

    def blur(self, sigma: float) -> None:
        with torch.no_grad():
            self.leaf.copy_(blurred(self.leaf, sigma))

    def settle(self) -> None:
        with torch.no_grad():
            self.leaf.clamp_(0.0, 1.0)


class Fourier(Canvas):
    """Fourier coefficients z with 1/f scaling, of decorrelated colours: x = sigmoid(M irfft2(s z) / 4).

    s(f) = sqrt(H W) / max(f, 1 / max(H, W)), f in cycles a pixel, gives every scale the same say, as in photographs;
    M are the colours of :func:`correlation` (Olah, Mordvintsev & Schubert, Feature Visualization, Distill 2017).

    Args:
        coefficients: Real and imaginary parts of z, [N, C, H, W // 2 + 1, 2].
        width: W, which the coefficients leave open.
    """

    rate = 0.05

    def __init__(self, coefficients: Tensor, width: int) -> None:
        self.size = (coefficients.shape[2], width)
        self.leaf = coefficients.detach().clone().requires_grad_()
        self._frequencies = frequencies(*self.size).to(self.leaf)
        # One factor for 1/f, for the transform's own 1/(HW) and for the 4 that Lucid divides by.
        self._scale = self.scale(*self.size).to(self.leaf) / 4.0
        self._mixing = correlation(coefficients.shape[1]).to(self.leaf)

    @staticmethod
    def scale(height: int, width: int) -> Tensor:
        """s(f), [H, W // 2 + 1]."""
        floor = 1.0 / max(height, width)
        return math.sqrt(height * width) / frequencies(height, width).clamp_min(floor)

    @classmethod
    def of_noise(cls, size: tuple[int, int, int], seeds: Sequence[int], device: torch.device) -> Fourier:
        """Faint 1/f noise, [N, *size]."""
        channels, height, width = size
        drawn = noise((channels, height, width // 2 + 1, 2), seeds)
        return cls((_FAINT * drawn).to(device), width)

    @classmethod
    def of_images(cls, images: Tensor) -> Fourier:
        """The coefficients of images [N, C, H, W] in 0–1; pure black and white become half a level grey."""
        height, width = images.shape[2:]
        grey = torch.logit(images.detach().float().clamp(_DARKEST, 1.0 - _DARKEST))
        inverse = torch.linalg.inv(correlation(images.shape[1]).double()).to(grey)
        plain = torch.einsum("dc,nchw->ndhw", inverse, grey)
        spectrum = torch.fft.rfft2(plain) / (cls.scale(height, width).to(grey) / 4.0)
        return cls(torch.view_as_real(spectrum), width)

    def image(self) -> Tensor:
        spectrum = torch.view_as_complex(self.leaf) * self._scale
        plain = torch.fft.irfft2(spectrum, s=self.size)
        count, channels = plain.shape[:2]
        if channels > 1:
            plain = (self._mixing @ plain.reshape(count, channels, -1)).reshape(plain.shape)
        return torch.sigmoid(plain)

    def blur(self, sigma: float) -> None:
        """The Gaussian's own transfer function exp(-2 (pi sigma f)^2), before the sigmoid."""
        with torch.no_grad():
            self.leaf.mul_(torch.exp(-2.0 * (math.pi * sigma * self._frequencies) ** 2)[..., None])
