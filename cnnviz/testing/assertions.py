"""Assertions about the map of one image."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnviz.api import Model, explain, load_model
from cnnviz.audit.check import likeness_of_ranks
from cnnviz.errors import CnnvizError
from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap, Rect, place
from cnnviz.io.decode import open_image
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.kept_maps import Part, read_map, write_map, write_picture
from cnnviz.io.sources import ImageRef, open_file
from cnnviz.metrics.derived import nowhere
from cnnviz.metrics.seen_region import share_seen
from cnnviz.models.preprocess import normalize, prepare
from cnnviz.registry.lookup import find_method
from cnnviz.render.legend import with_box
from cnnviz.render.overlay import Style, overlay

_FOLDER = "CNNVIZ_FAILURES"
_USUAL = "cnnviz-failures"
# Of the picture's sides: edges are rounded to pixels of the network's input, and its resolution may be another one.
_NEAR = 0.005

ModelLike = Model | nn.Module | str
ImageLike = Any
"""A path, a picture of PIL, a uint8 array [H, W, 3]; for a module also a prepared tensor [C, H, W] or [1, C, H, W]."""


@dataclass(frozen=True, eq=False)
class _Looked:
    """A map on its picture."""

    placed: PlacedMap
    raw: NDArray[np.float32]
    rect: Rect
    rgb: NDArray[np.uint8] | None
    said: str

    @property
    def part(self) -> Part:
        """What the map covers, as shares of the picture."""
        height, width = self.placed.values.shape
        x0, y0, x1, y1 = self.rect
        return x0 / width, y0 / height, x1 / width, y1 / height

    def in_pixels(self, part: Part) -> Rect:
        """A part of the picture in its pixels."""
        height, width = self.placed.values.shape
        return part[0] * width, part[1] * height, part[2] * width, part[3] * height

    def share(self, box: Box) -> float:
        """The share of the map's positive values in a box.

        Raises:
            AssertionError: The network saw nothing of the box, or the map lies nowhere: no share of it is in a box or
                beside it.
        """
        if why := self._hidden(box):
            raise AssertionError(f"{self.said}: {why}{_kept(self, box.xywh)}")
        if why := nowhere(self.placed):
            raise AssertionError(f"{self.said}: the map lies nowhere: it {why}{_kept(self, box.xywh)}")
        values = np.maximum(self.placed.values, 0).astype(np.float64)
        height, width = values.shape
        return float(values[box.pixels((width, height))].sum()) / float(values.sum())

    def _hidden(self, box: Box) -> str:
        """Why the network could not look at a box; empty where it saw a pixel of it."""
        height, width = self.placed.values.shape
        inside = np.zeros((height, width), dtype=np.bool_)
        inside[box.pixels((width, height))] = True
        seen = share_seen(inside, self.placed.seen)
        if seen is None:
            return f"the box {_shown(box.xywh)} has no pixel of the picture, which is {width} x {height}"
        x0, y0, x1, y1 = self.placed.seen
        shown = _shown((x0, y0, x1 - x0, y1 - y0))
        hint = 'load_model(..., view="whole") shows it the whole picture'
        return "" if seen else f"the network saw nothing of the box {_shown(box.xywh)}: it was shown {shown}; {hint}"


def assert_looks_at(
    model: ModelLike, image: ImageLike, box: Sequence[float], at_least: float = 0.5, **how: Any
) -> None:
    """That at least this share of the map's positive values lies in a box.

    Args:
        model: What ``cnnviz.load_model`` returned, an ``nn.Module``, or a name as ``--model`` takes it.
        image: A path, a picture of PIL or an array [H, W, 3]; for a module a prepared tensor [C, H, W].
        box: x, y, width, height in pixels of the picture (of the tensor, where one is given).
        at_least: 0 to 1.
        how: ``method``, ``target``, ``layer`` and further options of :func:`cnnviz.explain`.

    Raises:
        AssertionError: Less lies there; the message says how much, and where the picture is. So for a box of which the
            network saw nothing, and for a map that lies nowhere, as the audit has it: it is the same everywhere, or has
            no positive values.
    """
    looked = _look(model, image, how)
    share = looked.share(Box(*map(float, box)))
    if share < at_least:
        raise AssertionError(
            f"{looked.said}: {share:.3g} of it lies in {_shown(box)}, expected at least {at_least:g}"
            f"{_kept(looked, box)}"
        )


def assert_ignores(model: ModelLike, image: ImageLike, box: Sequence[float], at_most: float = 0.1, **how: Any) -> None:
    """That at most this share of the map's positive values lies in a box; arguments as :func:`assert_looks_at`.

    Raises:
        AssertionError: More lies there; or the network saw nothing of the box, or the map lies nowhere, which do not
            tell what the network ignores.
    """
    looked = _look(model, image, how)
    share = looked.share(Box(*map(float, box)))
    if share > at_most:
        raise AssertionError(
            f"{looked.said}: {share:.3g} of it lies in {_shown(box)}, expected at most {at_most:g}{_kept(looked, box)}"
        )


def assert_no_drift(
    model: ModelLike, image: ImageLike, accepted: str | os.PathLike[str], at_least: float = 0.9, **how: Any
) -> None:
    """That the raw map is the accepted one, by rank correlation; the first run accepts it and writes the file.

    Args:
        model, image, how: As :func:`assert_looks_at`.
        accepted: File (.npz) with the map; delete it to accept another.
        at_least: -1 to 1.

    Raises:
        AssertionError: The map is less alike, has another size, or covers another part of the picture, as behind
            another ``view`` or ``resize``: its cells are not those of the accepted one. Of maps that are the same
            everywhere, which have no ranks, two are alike, and one beside another map is not.
    """
    looked = _look(model, image, how)
    found = read_map(os.fspath(accepted))
    if found is None:
        write_map(os.fspath(accepted), looked.raw, looked.part)
        return
    before, part = found
    if before.shape != looked.raw.shape:
        shapes = f"{list(looked.raw.shape)}, accepted was {list(before.shape)}"
        raise AssertionError(f"{looked.said}: the map has the size {shapes}{_kept(looked, None)}")
    if part is not None and not np.allclose(part, looked.part, rtol=0, atol=_NEAR):
        parts = f"{_by_size(looked.rect)}, the accepted one {_by_size(looked.in_pixels(part))}"
        again = f"the network is shown another part; delete {accepted} to accept this one"
        raise AssertionError(
            f"{looked.said}: the map covers x,y,w,h {parts} of the picture: {again}{_kept(looked, None)}"
        )
    value = likeness_of_ranks(before.astype(np.float32), looked.raw)
    if value is None or value < at_least:
        shown = "undefined" if value is None else f"{value:.3g}"
        flat = [name for name, own in (("the accepted map", before), ("the map", looked.raw)) if own.min() == own.max()]
        why = f": {' and '.join(flat)} is the same everywhere" if flat else ""
        raise AssertionError(
            f"{looked.said}: rank correlation with {accepted} is {shown}, expected at least {at_least:g}{why}"
            f"{_kept(looked, None)}"
        )


def _look(model: ModelLike, image: ImageLike, how: dict[str, Any]) -> _Looked:
    network = load_model(model) if isinstance(model, str) else model
    method = str(how.pop("method", "gradcam"))
    signed = find_method(method).signed
    if isinstance(image, Tensor):
        batch = image[None] if image.dim() == 3 else image
        rgb, size = None, (int(batch.shape[3]), int(batch.shape[2]))
        rect = (0.0, 0.0, float(size[0]), float(size[1]))
    else:
        if not isinstance(network, Model):
            raise CnnvizError(
                "A module alone does not say how pictures become its input.",
                "Pass a prepared tensor [C, H, W], or load the model with cnnviz.load_model('file.py:function').",
            )
        rgb = _picture(image)
        pixels, geometry = prepare(rgb, network.loaded.preprocess)
        batch = normalize(pixels[None], network.loaded.preprocess)
        rect, size = geometry.rect, geometry.image_size
    found = explain(network, batch, method, **how)
    raw = found.raw[0].numpy()
    drawn = found.maps[0].numpy() if raw.ndim != 2 else raw
    placed = place(drawn, rect, size, signed=signed)
    label = _label(network, int(found.target[0]))
    return _Looked(placed, raw, rect, rgb, f"{method} of {label}")


def _picture(image: ImageLike) -> NDArray[np.uint8]:
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        with open_file(ImageRef(path, os.path.basename(path), 0)) as stream:
            return open_image(stream).decode().rgb
    return np.ascontiguousarray(image.convert("RGB") if hasattr(image, "convert") else image, dtype=np.uint8)


def _label(network: Model | nn.Module, index: int) -> str:
    labels = network.labels if isinstance(network, Model) else ()
    return labels[index] if 0 <= index < len(labels) else f"class {index}"


def _shown(box: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"


def _by_size(rect: Rect) -> str:
    x0, y0, x1, y1 = rect
    return _shown((x0, y0, x1 - x0, y1 - y0))


def _kept(looked: _Looked, box: Sequence[float] | None) -> str:
    """Write the picture of a failure, and say where."""
    folder = os.environ.get(_FOLDER, _USUAL)
    if not folder:
        return ""
    rgb = looked.rgb
    if rgb is None:
        rgb = np.full((*looked.placed.values.shape, 3), 128, dtype=np.uint8)
    picture = overlay(rgb, looked.placed, Style("auto", 0.5, None))
    if box is not None:
        picture = with_box(picture, Box(*map(float, box)))
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" (")[0].rpartition("::")[2] or "failure"
    path = Path(folder) / f"{re.sub(r'[^A-Za-z0-9_.=-]+', '_', test)[:120]}.png"
    write_picture(str(path), encode(picture, ImageFormat("png")))
    return f"; see {path}"
