"""A map as colours on its image, and as a grey picture of its own.

``out = (1 - w) * image + w * colour``, never divided by its own maximum, so the brightness of the image does not
vary with the map. In a sequential colour map w = alpha everywhere, and the values from the lower to the upper limit
run through all colours; the lower limit of an unsigned map is zero. In a diverging one zero is neutral, equal
magnitudes are equally far from it, and w = min(1, 1.6 alpha |v| / m) with m the larger magnitude of the limits: where
the map says nothing the photograph shows as it is, so that colour may cover more of it where the map is strong. What
the network did not see is light grey behind a thin frame, and a map that is zero everywhere leaves the image grey:
neither looks cold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import CnnvizError
from cnnviz.geometry.placement import PlacedMap, Rect, seen_part
from cnnviz.render.colormap import AUTO, NEUTRAL, SIGNED_DEFAULT, UNSIGNED_DEFAULT, colormap, is_diverging

# Light and without colour: neither a cold place nor a dark one.
UNSEEN = "grey, outside the frame: not shown to the network"
_UNSEEN_CONTRAST, _UNSEEN_LIGHT = 0.4, 140.0
_UNSEEN_FRAME = (64, 64, 64)
# Of a layer that is laid over the image: colour and weight.
_UNSEEN_LAYER = (225, 225, 225, 150)
_STRIP_PIXELS = 1 << 20
_MAGNITUDE_GAIN = 1.6


@dataclass(frozen=True)
class Style:
    """How maps are drawn.

    Attributes:
        colormap: A name of :data:`cnnviz.render.colormap.COLORMAPS`, or ``auto``: turbo, and for signed maps
            :data:`~cnnviz.render.colormap.SIGNED_DEFAULT`.
        alpha: Share of the colour in the blend, 0 to 1.
        limits: The smallest and the largest value that the colours tell apart; None takes those of each map.
        opacity: ``even``: w = alpha in a sequential colour map; ``magnitude``: w grows with the value in those, too.
    """

    colormap: str = AUTO
    alpha: float = 0.5
    limits: tuple[float, float] | None = None
    opacity: str = "even"

    def __post_init__(self) -> None:
        if self.colormap != AUTO:
            colormap(self.colormap)
        if not 0.0 <= self.alpha <= 1.0:
            raise CnnvizError(f"alpha is {self.alpha}, expected 0 to 1", "0 is the image, 1 the map alone.")
        if self.limits is not None:
            low, high = self.limits
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise CnnvizError(f"limits are {low}, {high}, expected two numbers, the smaller one first")


def limits_of(placed: PlacedMap) -> tuple[float, float]:
    """The map's own drawing limits: zero and its extremes; (0, 0) when flat."""
    low = min(float(placed.values.min()), 0.0) if placed.signed else 0.0
    return low, max(float(placed.values.max()), 0.0)


def is_flat(placed: PlacedMap) -> bool:
    """Whether there is nothing to draw: no value above zero, nor (signed) below it."""
    return limits_of(placed) == (0.0, 0.0)


def drawn_colormap(placed: PlacedMap, style: Style) -> str:
    """The name of the colour map that this map is drawn with."""
    if style.colormap != AUTO:
        return style.colormap
    return SIGNED_DEFAULT if placed.signed else UNSIGNED_DEFAULT


def drawn_limits(placed: PlacedMap, style: Style) -> tuple[float, float]:
    """The smallest and the largest value that the colours tell apart."""
    return limits_of(placed) if style.limits is None else style.limits


def resized(placed: PlacedMap, size: tuple[int, int]) -> PlacedMap:
    """The map at another size (W, H)."""
    width, height = size
    if placed.values.shape == (height, width):
        return placed
    shrinks = width < placed.values.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    scale = np.array([width / placed.values.shape[1], height / placed.values.shape[0]] * 2)
    x0, y0, x1, y1 = (round(float(edge)) for edge in np.array(placed.seen) * scale)
    # A seen part of less than a pixel is still one pixel.
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    values = np.zeros((height, width), dtype=np.float32)
    cv2.resize(placed.values, (width, height), dst=values, interpolation=method)
    return PlacedMap(values, (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)), placed.signed)


def entry(value: float, limits: tuple[float, float], centred: bool) -> int:
    """The entry of a colour table in which a value is drawn."""
    return int(_levels(np.array([value], dtype=np.float32), limits, centred)[0])


def coloured(placed: PlacedMap, style: Style) -> NDArray[np.uint8]:
    """The map's colours alone [H, W, 3]."""
    name = drawn_colormap(placed, style)
    levels = _levels(placed.values, drawn_limits(placed, style), is_diverging(name))
    return _u8(cv2.applyColorMap(levels, colormap(name).reshape(256, 1, 3)))


def overlay(rgb: NDArray[np.uint8], placed: PlacedMap, style: Style) -> NDArray[np.uint8]:
    """The map's colours blended into its image.

    Args:
        rgb: [H, W, 3], the upright input image.
        placed: The map at that size.

    Returns:
        [H, W, 3]. With ``alpha`` 1 the value of largest magnitude has exactly the last colour on its side.
    """
    if rgb.shape != (*placed.values.shape, 3):
        raise ValueError(f"image {rgb.shape} and map {placed.values.shape} differ in size")
    rgb = np.ascontiguousarray(rgb)
    x0, y0, x1, y1 = placed.seen
    out = np.empty_like(rgb)
    _draw_unseen(rgb, placed.seen, out)
    paint = _painter(placed, style)
    for rows in _strips(y0, y1, x1 - x0):
        out[rows, x0:x1] = paint(rgb[rows, x0:x1], placed.values[rows, x0:x1])
    return out


def with_unseen(
    picture: NDArray[np.uint8], rgb: NDArray[np.uint8], rect: Rect, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """A picture of a photograph, with what the network did not see of it as :func:`overlay` draws that.

    Args:
        picture: [h, w, 3].
        rgb: The photograph at that size.
        rect: What it saw, in pixels of the photograph.
        size: (W, H) of that.
    """
    height, width = picture.shape[:2]
    across, down = width / size[0], height / size[1]
    around = (rect[0] * across, rect[1] * down, rect[2] * across, rect[3] * down)
    out = picture.copy()
    _draw_unseen(np.ascontiguousarray(rgb), seen_part(around, (width, height)), out)
    return out


def _draw_unseen(rgb: NDArray[np.uint8], seen: tuple[int, int, int, int], out: NDArray[np.uint8]) -> None:
    """What the network did not see, in light grey, and the frame, which covers nothing that was explained."""
    height, width = rgb.shape[:2]
    line = max(1, round(max(rgb.shape) / 600))
    x0, y0, x1, y1 = seen
    left, top, right, bottom = max(0, x0 - line), max(0, y0 - line), min(width, x1 + line), min(height, y1 + line)
    # Around the frame, then the frame around what was seen.
    for part in _around((left, top, right, bottom), (0, 0, width, height)):
        for rows in _strips(part[0].start, part[0].stop, part[1].stop - part[1].start):
            out[rows, part[1]] = _grey(rgb[rows, part[1]], _UNSEEN_CONTRAST, _UNSEEN_LIGHT)
    for part in _around(seen, (left, top, right, bottom)):
        out[part] = _UNSEEN_FRAME


def _around(inner: tuple[int, int, int, int], outer: tuple[int, int, int, int]) -> Iterator[tuple[slice, slice]]:
    """The parts of a rectangle (x0, y0, x1, y1) that lie around one within it: rows and columns of each."""
    (x0, y0, x1, y1), (left, top, right, bottom) = inner, outer
    middle, across = slice(y0, y1), slice(left, right)
    for rows, columns in (
        (slice(top, y0), across), (middle, slice(left, x0)), (middle, slice(x1, right)), (slice(y1, bottom), across),
    ):  # fmt: skip
        if rows.start < rows.stop and columns.start < columns.stop:
            yield rows, columns


def layer(placed: PlacedMap, style: Style) -> NDArray[np.uint8]:
    """The map's colours with their weights, to be laid over the image by whoever shows both: [H, W, 4].

    Laid over the image they give what :func:`overlay` draws, where the network saw it, to rounding. What it did not see
    is light grey of a fixed weight. A map that is zero everywhere is nothing at all.
    """
    height, width = placed.values.shape
    out = np.zeros((height, width, 4), dtype=np.uint8)
    out[..., :3], out[..., 3] = _UNSEEN_LAYER[:3], _UNSEEN_LAYER[3]
    x0, y0, x1, y1 = placed.seen
    if is_flat(placed):
        out[y0:y1, x0:x1, 3] = 0
        return out
    limits = drawn_limits(placed, style)
    out[y0:y1, x0:x1, :3] = coloured(placed, style)[y0:y1, x0:x1]
    weights: NDArray[np.float32] | float = style.alpha
    if is_diverging(drawn_colormap(placed, style)):
        largest = max(abs(limits[0]), abs(limits[1])) or 1.0
        weights = np.minimum(
            np.abs(placed.values[y0:y1, x0:x1]) * np.float32(_MAGNITUDE_GAIN * style.alpha / largest), 1
        )
    out[y0:y1, x0:x1, 3] = np.rint(np.float32(255) * weights)
    return out


def _painter(placed: PlacedMap, style: Style) -> Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.uint8]]:
    """What draws a part of the map on that part of the image."""
    if is_flat(placed):
        return lambda rgb, values: _grey(rgb)
    name, limits = drawn_colormap(placed, style), drawn_limits(placed, style)
    table, centred = colormap(name).reshape(256, 1, 3), is_diverging(name)

    def paint(rgb: NDArray[np.uint8], values: NDArray[np.float32]) -> NDArray[np.uint8]:
        colours = _u8(cv2.applyColorMap(_levels(values, limits, centred), table))
        if centred or style.opacity == "magnitude":
            return _blended_by_magnitude(rgb, colours, values, style.alpha, limits)
        return _u8(cv2.addWeighted(rgb, 1.0 - style.alpha, colours, style.alpha, 0.0))

    return paint


def _strips(top: int, bottom: int, width: int) -> Iterator[slice]:
    """Rows in strips of about a megapixel: what is made on the way to a picture is larger than the picture."""
    rows = max(1, _STRIP_PIXELS // width)
    return (slice(first, min(first + rows, bottom)) for first in range(top, bottom, rows))


def _blended_by_magnitude(
    rgb: NDArray[np.uint8],
    colours: NDArray[np.uint8],
    values: NDArray[np.float32],
    alpha: float,
    limits: tuple[float, float],
) -> NDArray[np.uint8]:
    """The blend whose weight of the colour grows with the magnitude."""
    largest = max(abs(limits[0]), abs(limits[1]))
    if largest == 0.0:
        return np.ascontiguousarray(rgb)
    weights = np.abs(np.divide(values, np.float32(largest)))
    weights *= np.float32(_MAGNITUDE_GAIN * alpha)
    np.minimum(weights, 1.0, out=weights)
    # blendLinear takes one weight a pixel for all channels, and rounds to the nearest.
    return _u8(cv2.blendLinear(np.ascontiguousarray(rgb), colours, np.float32(1.0) - weights, weights))


def heatmap_image(placed: PlacedMap, style: Style) -> NDArray[np.uint8]:
    """The map as an 8-bit grey picture, [H, W]; where a part was not seen [H, W, 2], grey and alpha.

    Unsigned: 255 * v / max, zero stays 0. Signed: 128 + 127 * v / max |v|. With ``style.limits`` those limits
    instead. A flat map: 0, or 128 when signed. Outside of what was seen the same, with alpha 0: that nothing speaks
    there is not known.
    """
    neutral = NEUTRAL if placed.signed else 0
    height, width = placed.values.shape
    seen_whole = placed.seen == (0, 0, width, height)
    picture = np.zeros((height, width, 1 if seen_whole else 2), dtype=np.uint8)
    out = picture[..., 0]
    out[:] = neutral
    if not is_flat(placed):
        x0, y0, x1, y1 = placed.seen
        limits = drawn_limits(placed, style)
        for rows in _strips(y0, y1, x1 - x0):
            out[rows, x0:x1] = _levels(placed.values[rows, x0:x1], limits, placed.signed)
    if seen_whole:
        return out
    x0, y0, x1, y1 = placed.seen
    picture[y0:y1, x0:x1, 1] = 255
    return picture


def _levels(values: NDArray[np.float32], limits: tuple[float, float], centred: bool) -> NDArray[np.uint8]:
    """Values as entries of a colour table: low to 0, high to 255; when centred: -m, 0, m to 1, 128, 255."""
    low, high = limits
    if centred:
        span, offset, gain = max(abs(low), abs(high)), NEUTRAL, 127.0
        shifted = values
    else:
        span, offset, gain = high - low, 0, 255.0
        shifted = values if low == 0.0 else values - np.float32(low)
    if span <= 0.0:
        return np.where(shifted > 0.0, offset + int(gain), offset).astype(np.uint8)
    # Divided first: 255 / span would overflow for the tiny maxima that half precision leaves.
    scaled = np.divide(shifted, np.float32(span))
    np.clip(scaled, -1.0 if centred else 0.0, 1.0, out=scaled)
    scaled *= np.float32(gain)
    np.rint(scaled, out=scaled)
    if offset:
        scaled += np.float32(offset)
    return scaled.astype(np.uint8)


def _grey(rgb: NDArray[np.uint8], contrast: float = 1.0, light: float = 0.0) -> NDArray[np.uint8]:
    """The image without colour, contrast * grey + light, still [h, w, 3]."""
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    if contrast != 1.0:
        grey = cv2.convertScaleAbs(grey, alpha=contrast, beta=light)
    return _u8(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))


def _u8(image: object) -> NDArray[np.uint8]:
    return np.asarray(image, dtype=np.uint8)
