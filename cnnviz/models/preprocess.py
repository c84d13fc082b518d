"""From the decoded image to the network's input, and back.

The weights' own transform is repeated on bytes, 3 to 15 times faster than Pillow and equal to it but for its
rounding: one count of 255 apart in about half a per cent of the values, two in one of ten thousand. Where
Pillow 13 runs its vertical pass first (portraits narrower than 2:5; one axis grows and the other shrinks) the
rounding between the passes differs in a quarter of the values, still by one count almost always.

Beside it the rectangle of the image that fills the network's input is kept, so that a map drawn on a centre
crop lands where it belongs. What of the image the network is shown is the ``view``: the weights' own centre crop,
overlapping crops at the same scale over the whole image (``tiles``: :mod:`cnnviz.models.tiles` cuts them), the
``whole`` image at its aspect ratio, or the whole image squashed into the input size.

Two coordinate systems occur, both with edge coordinates (a pixel ``i`` covers ``[i, i + 1]``):
network pixels of the input tensor, and pixels of the upright image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from cnnviz.errors import CnnvizError, ImageError, nearest
from cnnviz.models.loading import normalization
from cnnviz.models.loading.normalization import per_channel
from cnnviz.settings import CHANNEL_ORDERS, VIEWS, ChannelOrder, check_choice

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# A 1 x 30000 strip whose short side becomes 256 would need 6 GB; beyond this many pixels only the part that
# the crop keeps is computed. It costs the fast path, so ordinary photographs do not go this way.
_LARGEST_RESIZED = 1 << 24
# What a view of the whole image costs grows with its aspect ratio, and tiles of an image that is not resized with its
# size: in multiples of the shorter side, and of the area of a tile.
_LONGEST, _MOST_TILES = 64, 400


@dataclass(frozen=True)
class Preprocess:
    """What a network expects to see.

    Args:
        input_size: Channels (1 or 3), height, width of the network's input.
        resize: Length of the shorter side, or (height, width) as ``fit`` says; None leaves the size alone.
        mean: One value a channel in the order R, G, B (whatever the network's is), subtracted after ``scale``.
        std: One value a channel, divided by; in the same order.
        interpolation: ``"bilinear"``, ``"bicubic"``, ``"lanczos"`` or ``"nearest"``.
        antialias: Low-pass before shrinking (Pillow always does).
        scale: Factor from 0–255 to the range that ``mean`` is given in.
        fit: What (height, width) in ``resize`` mean: ``"stretch"`` to exactly these, or keep the aspect ratio
            and ``"cover"`` them or be ``"contain"``ed in them.
        fill: Colour of the padding, 0–255, one value or one a channel.
        view: What is shown of the resized image. ``"crop"``: its centre, ``input_size`` large, padded with ``fill``
            where it reaches outside. ``"tiles"``: all of it, to be cut into crops of ``input_size``; padded where it
            is smaller than one. ``"whole"``: all of it, the shorter side ``resize`` (or that of ``input_size``) and
            both sides rounded to multiples of ``stride``. ``"squash"``: all of it pressed into ``input_size``;
            ``resize`` has no part in it.
        stride: Pixels from one cell of the network's last map to the next; for ``"whole"``.
        channel_order: ``"rgb"``, or ``"bgr"``: of the network's input. What :func:`prepare` gives is in R, G, B in any
            case, as pictures are; :func:`normalize` changes the order.

    Raises:
        CnnvizError: if the values do not fit together.
    """

    input_size: tuple[int, int, int]
    resize: int | tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    antialias: bool = True
    scale: float = 1 / 255
    fit: str = "stretch"
    fill: tuple[int, ...] = (0,)
    view: str = "crop"
    stride: int = 32
    channel_order: ChannelOrder = "rgb"

    def __post_init__(self) -> None:
        channels, height, width = self.input_size
        _check_channels(channels)
        resize = (self.resize,) if isinstance(self.resize, int) else self.resize or ()
        if min(height, width, *resize) < 1:
            raise CnnvizError(
                f"a size must be at least 1 pixel; got input size {height}x{width}, resize {self.resize}",
                "give --input-size 224 or --input-size 224,320",
            )
        if self.interpolation not in _PILLOW:
            raise CnnvizError(
                f"unknown interpolation {self.interpolation!r}; known are {', '.join(_PILLOW)}",
                nearest(self.interpolation, _PILLOW),
            )
        check_choice(self.view, VIEWS, "--view")
        check_choice(self.channel_order, CHANNEL_ORDERS, "--channel-order")
        if self.channel_order != "rgb" and channels != 3:
            raise CnnvizError(
                f"--channel-order {self.channel_order} is of three channels; the network's input has {channels}",
                "leave --channel-order out",
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(per_channel(name, values, channels)) != len(values):
                raise CnnvizError(f"--{name} needs {channels} values, one a channel; got {values}", "")
        normalization.check(self.mean, self.std, self.scale)


@dataclass(frozen=True)
class Geometry:
    """Where the network's input lies in the image.

    Args:
        image_size: Width and height of the upright image.
        rect: x0, y0, x1, y1 in image pixels: the part that fills the network's input. It reaches outside the
            image where the crop was padded.
    """

    image_size: tuple[int, int]
    rect: tuple[float, float, float, float]

    def to_image(self, x: float, y: float, size: tuple[int, int]) -> tuple[float, float]:
        """The image position of a network position.

        Args:
            x: Network pixel, edge coordinate: 0 is the left edge of the first pixel, 0.5 its centre.
            y: The same, downwards.
            size: Width and height of the network's input (or of any map laid over it).

        Returns:
            ``x0 + x / width * (x1 - x0)`` and likewise for y, in image pixels.
        """
        x0, y0, x1, y1 = self.rect
        return x0 + x / size[0] * (x1 - x0), y0 + y / size[1] * (y1 - y0)


def prepare(rgb: NDArray[np.uint8], spec: Preprocess) -> tuple[torch.Tensor, Geometry]:
    """Resize and crop one image as the weights' own transform does, or as ``spec.view`` says; safe to call from many
    threads.

    Args:
        rgb: ``(H, W, 3)`` uint8, upright.
        spec: What the network expects.

    Returns:
        uint8 ``[C, h, w]`` on the host, not yet normalised, and where it lies in the image. (h, w) is the input size
        for the views ``crop`` and ``squash``.

    Raises:
        ImageError: if the image has no pixels, or (views ``tiles`` and ``whole``) is too long for its width.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ImageError("empty", f"expected height x width x 3 with pixels in it, got {rgb.shape}")
    height, width = rgb.shape[:2]
    resized = _resized_size(height, width, spec)
    frame = _frame(resized, spec)
    _check_shown(frame, spec, (height, width))
    top, left = _crop_offset(resized[0], frame[0]), _crop_offset(resized[1], frame[1])
    # The part of the resized image that is kept: y0, x0, y1, x1.
    kept = (max(top, 0), max(left, 0), min(top + frame[0], resized[0]), min(left + frame[1], resized[1]))
    pixels = _resample(rgb, resized, kept, spec)
    if pixels.shape[1:] != frame:
        padded = torch.empty((pixels.shape[0], *frame), dtype=torch.uint8)
        padded[:] = torch.tensor(spec.fill, dtype=torch.uint8)[:, None, None]
        padded[:, kept[0] - top : kept[2] - top, kept[1] - left : kept[3] - left] = pixels
        pixels = padded
    across, down = width / resized[1], height / resized[0]
    rect = (left * across, top * down, (left + frame[1]) * across, (top + frame[0]) * down)
    return pixels.contiguous(), Geometry((width, height), rect)


def resized(rgb: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.uint8]:
    """The whole image at the size at which a part of it is shown: :func:`prepare` of it cuts out the same pixels.

    As it is where :func:`prepare` does not make that: of networks that see grey, of strips that would be very large,
    and of those of which a whole view in steps of the stride would resize the result again.
    """
    size = _resized_size(rgb.shape[0], rgb.shape[1], spec)
    if spec.input_size[0] == 1 or size[0] * size[1] > _LARGEST_RESIZED or _resized_size(*size, spec) != size:
        return rgb
    return np.ascontiguousarray(_resample(rgb, size, (0, 0, *size), spec).permute(1, 2, 0).numpy())


def _check_shown(frame: tuple[int, int], spec: Preprocess, size: tuple[int, int]) -> None:
    tile = spec.input_size[1] * spec.input_size[2]
    too_long = spec.view in ("tiles", "whole") and max(frame) > _LONGEST * max(min(frame), spec.stride)
    if too_long or (spec.view == "tiles" and frame[0] * frame[1] > _MOST_TILES * tile):
        raise ImageError(
            "too-large",
            f"--view {spec.view} would show the network {frame[1]} x {frame[0]} pixels of this image of {size[1]} x "
            f"{size[0]}, which would take very long; --view crop shows its centre",
        )


def normalize(batch: torch.Tensor, spec: Preprocess) -> torch.Tensor:
    """``(x * scale - mean) / std`` in float32 on the batch's own device, in its memory format, and in the channel order
    of the network.

    Args:
        batch: uint8 ``[N, C, H, W]`` in R, G, B.
        spec: Where scale, mean, std and the channel order come from.

    Returns:
        float32 ``[N, C, H, W]``.
    """
    factor, offset = _scaling(spec.scale, tuple(spec.mean), tuple(spec.std), batch.device)
    values = in_order(batch, spec).to(torch.float32)  # as bytes they are turned in a quarter of the time
    return values.mul_(in_order(factor, spec)).add_(in_order(offset, spec))


@lru_cache(maxsize=32)
def _scaling(
    scale: float, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and offset of each channel [C, 1, 1], to which nobody may write.

    Made once for a device: sending them to a graphics card would make the host wait, at the start of every batch, for
    all that was asked of it before.
    """
    with torch.inference_mode(False):
        factor = torch.tensor(scale / np.array(std), dtype=torch.float32, device=device)
        offset = torch.tensor(-np.array(mean) / np.array(std), dtype=torch.float32, device=device)
    return factor[:, None, None], offset[:, None, None]


def in_order(values: torch.Tensor, spec: Preprocess) -> torch.Tensor:
    """``[..., C, H, W]`` from R, G, B to the channel order of the network, or back: it is the same step."""
    return values.flip(-3) if spec.channel_order == "bgr" else values


def override(
    spec: Preprocess,
    *,
    input_size: Sequence[int] | None = None,
    resize: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    view: str | None = None,
    channel_order: ChannelOrder | None = None,
) -> Preprocess:
    """The spec with what the user asked for instead of what came with the weights.

    Args:
        spec: The weights' own preprocessing.
        input_size: S, (H, W) or (C, H, W). Without ``resize`` the share that the crop keeps stays the same.
        resize: Length of the shorter side before the crop, or of the whole image.
        mean: One value, or one a channel.
        std: One value, or one a channel.
        view: ``crop``, ``tiles``, ``whole`` or ``squash``. ``crop`` is what the weights do themselves: the whole
            picture, where they crop nothing.
        channel_order: ``rgb`` or ``bgr``.

    Raises:
        CnnvizError: if the values do not fit together.
    """
    view = spec.view if view is None or (view == "crop" and spec.view == "whole") else view
    if view == "squash" and resize is not None:
        raise CnnvizError(
            f"--resize {resize} and --view squash exclude each other",
            "--view squash presses the whole image into --input-size; give one of the two",
        )
    size = _input_size(input_size, spec.input_size)
    new_resize, fit = spec.resize, spec.fit
    if resize is not None:
        new_resize = resize
    elif view == "whole":
        new_resize = min(size[1:])
    elif view == "squash":
        new_resize, fit = (size[1], size[2]), "stretch"
    elif size[1:] != spec.input_size[1:]:
        new_resize, fit = _scaled_resize(spec, size)
    return dataclasses.replace(
        spec,
        input_size=size,
        resize=new_resize,
        fit=fit,
        view=view,
        channel_order=spec.channel_order if channel_order is None else channel_order,
        mean=per_channel("mean", spec.mean if mean is None else mean, size[0]),
        std=per_channel("std", spec.std if std is None else std, size[0]),
        fill=spec.fill if len(spec.fill) in (1, size[0]) else (round(sum(spec.fill) / len(spec.fill)),),
    )


def _input_size(asked: Sequence[int] | None, old: tuple[int, int, int]) -> tuple[int, int, int]:
    if asked is None:
        return old
    if len(asked) not in (1, 2, 3):
        raise CnnvizError(
            f"--input-size takes 1 to 3 numbers, got {len(asked)}: {tuple(asked)}",
            "give --input-size 224, 224,320 (height, width) or 1,224,224 (channels, height, width)",
        )
    channels = int(asked[0]) if len(asked) == 3 else old[0]
    _check_channels(channels)
    return channels, int(asked[-1 if len(asked) == 1 else -2]), int(asked[-1])


def _scaled_resize(spec: Preprocess, size: tuple[int, int, int]) -> tuple[int | tuple[int, int] | None, str]:
    """The resize that keeps the crop's share of the picture at another input size."""
    if spec.resize is None:
        return None, spec.fit
    old = (spec.resize, spec.resize) if isinstance(spec.resize, int) else spec.resize
    pairs = zip(old, size[1:], spec.input_size[1:], strict=True)
    rows, columns = (max(1, round(side * new / was)) for side, new, was in pairs)
    if isinstance(spec.resize, int):
        return (rows, "stretch") if rows == columns else ((rows, columns), "cover")
    return (rows, columns), spec.fit


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise CnnvizError(
            f"the network's input has {channels} channels; images have 1 (grey) or 3 (RGB)",
            "give --input-size H, H,W or C,H,W with C = 1 or 3",
        )


def _resized_size(height: int, width: int, spec: Preprocess) -> tuple[int, int]:
    """Height and width after the resize, rounded as torchvision (shorter side) and timm (the rest) do."""
    if spec.view == "squash":
        return spec.input_size[1:]
    if spec.view == "whole":
        short = spec.resize if isinstance(spec.resize, int) else min(spec.resize or spec.input_size[1:])
        rows, columns = (short * side / min(height, width) / spec.stride for side in (height, width))
        return max(1, round(rows)) * spec.stride, max(1, round(columns)) * spec.stride
    if spec.resize is None:
        return height, width
    if isinstance(spec.resize, int):
        long = int(spec.resize * max(height, width) / min(height, width))
        return (long, spec.resize) if width <= height else (spec.resize, long)
    if spec.fit == "stretch":
        return spec.resize
    pick = min if spec.fit == "cover" else max
    ratio = pick(height / spec.resize[0], width / spec.resize[1])
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def shown_size(height: int, width: int, spec: Preprocess) -> tuple[int, int]:
    """Height and width of what :func:`prepare` makes of an image of this size."""
    return _frame(_resized_size(height, width, spec), spec)


def _frame(resized: tuple[int, int], spec: Preprocess) -> tuple[int, int]:
    """Height and width of what is shown of the resized image."""
    if spec.view == "crop":
        return spec.input_size[1:]
    if spec.view == "tiles":
        return max(resized[0], spec.input_size[1]), max(resized[1], spec.input_size[2])
    return resized


def _crop_offset(size: int, crop: int) -> int:
    """Where a centre crop begins; negative where torchvision pads."""
    return round((size - crop) / 2.0) if size >= crop else -((crop - size) // 2)


def _resample(
    rgb: NDArray[np.uint8], resized: tuple[int, int], kept: tuple[int, int, int, int], spec: Preprocess
) -> torch.Tensor:
    """uint8 ``[C, y1 - y0, x1 - x0]``: the part ``kept`` of the image resized to ``resized``."""
    y0, x0, y1, x1 = kept
    height, width = rgb.shape[:2]
    grey = spec.input_size[0] == 1
    huge = resized[0] * resized[1] > _LARGEST_RESIZED
    native = (height, width) == resized or spec.interpolation in ("bilinear", "bicubic")
    if native and not grey and not huge:
        # Copied only if it cannot be shared: torch warns about arrays that it must not write to.
        pixels = torch.from_numpy(np.require(rgb, requirements=("C", "W"))).permute(2, 0, 1)[None]
        if (height, width) != resized:
            pixels = F.interpolate(pixels, resized, mode=spec.interpolation, antialias=spec.antialias)
        return pixels[0, :, y0:y1, x0:x1]
    image = Image.fromarray(rgb)
    image = image.convert("L") if grey else image  # ITU-R 601: 0.299 R + 0.587 G + 0.114 B
    method = _PILLOW[spec.interpolation]
    if huge:
        across, down = width / resized[1], height / resized[0]
        box = (x0 * across, y0 * down, min(x1 * across, width), min(y1 * down, height))
        image = image.resize((x1 - x0, y1 - y0), method, box=box)
    else:
        image = image.resize((resized[1], resized[0]), method).crop((x0, y0, x1, y1))
    array = np.array(image, dtype=np.uint8).reshape(y1 - y0, x1 - x0, -1)
    return torch.from_numpy(array).permute(2, 0, 1)
