"""What stands in for the parts of an image that are hidden, and where paths to an image begin."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from PIL import ImageColor
from torch import Tensor

from cnnviz.engine.seeding import generator_for, generators_for
from cnnviz.errors import CnnvizError, ImageError, nearest
from cnnviz.models.background import Background
from cnnviz.models.blur import blurred
from cnnviz.models.preprocess import Preprocess, in_order

BASELINES = ("zero", "mean", "blur", "noise", "black", "gray")
_MANY_COLOURS = ("blur", "noise", "random")
_PHOTOGRAPHS = 16


def baseline(pixels: Tensor, kind: str, window: tuple[int, int], seed: int, preprocess: Preprocess | None) -> Tensor:
    """What stands in the windows, [N, C, H, W] in the network's own (normalised) values.

    Mean, blur and noise are made in normalised values: normalisation is affine, so they equal those made in pixels.
    The blur is Gaussian with a standard deviation of half the window's shorter side (nothing as small as the window
    survives); the noise is normal with the image's own mean and standard deviation by channel, limited to the image's
    range, and drawn from the seed and the image's content.
    """
    if kind == "zero":
        return torch.zeros_like(pixels)
    if kind == "mean":
        return pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)
    if kind == "blur":
        return blurred(pixels, min(window) / 2)
    if kind == "noise":
        return torch.stack([_noise(image, seed) for image in pixels])
    colour = _colour(kind, pixels.shape[1])
    if preprocess is None or len(preprocess.mean) != pixels.shape[1]:
        raise CnnvizError(
            f"baseline={kind!r} needs to know how pixels become the network's input.",
            "Load the network with cnnviz.load_model(...), or use baseline zero, mean, blur or noise.",
        )
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
    value = (torch.tensor(colour) * preprocess.scale - mean) / std
    return in_order(value.to(pixels).reshape(1, -1, 1, 1), preprocess).expand_as(pixels)


def path_start(pixels: Tensor, kind: str, seed: int, preprocess: Preprocess | None) -> Tensor:
    """Where a way to the image begins [N, C, H, W]: a baseline, or ``random`` values within the image's range."""
    if kind == "random":
        drawn = torch.stack([torch.rand(pixels.shape[1:], generator=each) for each in generators_for(pixels, seed)])
        low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
        return low + (high - low) * drawn.to(pixels)
    height, width = pixels.shape[2:]
    side = max(1, min(height, width) // 5)  # the blur's sigma is half of it
    return baseline(pixels, kind, (side, side), seed, preprocess)


class Start(Protocol):
    """Options that say where a way to the image begins."""

    @property
    def baseline(self) -> str: ...

    @property
    def background(self) -> str | None: ...

    @property
    def seed(self) -> int: ...


def start_of(pixels: Tensor, options: Start, number: int, preprocess: Preprocess | None) -> Tensor:
    """The start of this number: of ``--background`` its photographs one after the other, else a baseline.

    Raises:
        CnnvizError: The photographs were not read.
        ImageError: They have another size than the images.
    """
    background = options.background
    if background is None:
        return path_start(pixels, options.baseline, options.seed + number, preprocess)
    if not isinstance(background, Background):
        raise CnnvizError(
            f"background={background!r}: nobody knows how files become inputs of this network.",
            "Load it with cnnviz.load_model(...), or give a tensor [B, C, H, W].",
        )
    photograph = background.pixels[number % len(background.pixels)]
    if photograph.shape != pixels.shape[1:]:
        raise ImageError(
            "other-size",
            f"--background {background}: its photographs are {list(photograph.shape)}, the images "
            f"{list(pixels.shape[1:])}.",
            "Use --view crop or --view squash.",
        )
    return photograph.to(pixels).expand_as(pixels)


def starts(options: Start, trials: int | None) -> int:
    """How many starts are averaged: as many as are asked for, and as there are photographs."""
    background = options.background
    if not isinstance(background, Background):
        return trials or 1
    return min(trials or _PHOTOGRAPHS, len(background.pixels))


def start_name(options: Start) -> str:
    """What a record calls the start."""
    return options.baseline if options.background is None else "photographs"


def start_figures(options: Start, pixels: Tensor, preprocess: Preprocess | None) -> dict[str, Any]:
    """What a record says of the start of a map, listed among its scores."""
    if options.background is not None:
        return {"baseline": start_name(options)}
    return baseline_figures(options.baseline, pixels, preprocess)


def baseline_figures(kind: str, pixels: Tensor, preprocess: Preprocess | None) -> dict[str, Any]:
    """The name of a baseline and, where it is one colour, the colour of each image [N, C] in levels from 0 to 255.

    Several baselines are greys that nobody tells apart: the mean of the training images, that of the image, and gray.
    """
    if kind in _MANY_COLOURS or preprocess is None or len(preprocess.mean) != pixels.shape[1]:
        return {"baseline": kind}
    values = in_order(baseline(pixels, kind, (1, 1), 0, preprocess)[:, :, :1, :1], preprocess).flatten(1).cpu().double()
    mean, std = (torch.tensor(each, dtype=torch.float64) for each in (preprocess.mean, preprocess.std))
    return {"baseline": kind, "baseline_pixel": ((values * std + mean) / preprocess.scale).round(decimals=1)}


def start_facts(options: Start, used: int) -> dict[str, Any]:
    """What a record says of the photographs, where there are any."""
    background = options.background
    return {"background": background.facts(used)} if isinstance(background, Background) else {}


def _noise(image: Tensor, seed: int) -> Tensor:
    drawn = torch.randn(image.shape, generator=generator_for(image, seed)).to(image)
    flat = image.flatten(1)
    mean, std = flat.mean(1)[:, None, None], flat.std(1, correction=0)[:, None, None]
    low, high = flat.amin(1)[:, None, None], flat.amax(1)[:, None, None]
    return torch.minimum(torch.maximum(mean + std * drawn, low), high)


def _colour(text: str, channels: int) -> tuple[float, ...]:
    """A colour as 0-255 values, one a channel."""
    rgb: tuple[float, ...]
    parts = text.split(",")
    if text == "gray":
        rgb = (127.5, 127.5, 127.5)
    elif len(parts) in (1, 3) and all(part.strip().replace(".", "", 1).isdigit() for part in parts):
        rgb = tuple(float(part) for part in (parts if len(parts) == 3 else parts * 3))
    else:
        try:
            rgb = tuple(float(v) for v in ImageColor.getrgb(text)[:3])
        except ValueError:
            hint = nearest(text, (*BASELINES, *ImageColor.colormap)) or "For example red, #ff8800 or 255,136,0."
            raise CnnvizError(f"baseline={text!r}: expected {', '.join(BASELINES)}, or a colour.", hint) from None
    if max(rgb) > 255:
        raise CnnvizError(f"baseline={text!r}: a colour's values are 0 to 255.", "For example 255,136,0.")
    if channels == 1:
        return (0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2],)
    return rgb
