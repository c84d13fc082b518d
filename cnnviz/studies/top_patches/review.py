"""The second look at the images that won: is each activation reproduced, what does the patch look like?"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.session import Session
from cnnviz.errors import ImageError
from cnnviz.io.decode import decode
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.sources import ImageRef, read_bytes
from cnnviz.io.store import Store
from cnnviz.io.write_tables import Spool
from cnnviz.models.preprocess import Geometry, in_order, normalize, prepare
from cnnviz.models.receptive_field.field import ReceptiveField
from cnnviz.records import Record
from cnnviz.render.patches import Edges, Tile, cut, fit_box, gradient_crop, square
from cnnviz.run.images import DecodedImage
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.studies.top_patches.unit_gradients import unit_gradients

RULES = {"guided": "guided", "deconvnet": "deconvnet", "saliency": "backprop"}
TOLERANCE = 1e-3
"""How much a reproduced activation may differ, relative to the unit's strongest."""
_NEARLY_ALL = 0.6
_LARGEST_CROP = 1024
_AHEAD = 4
_PNG = ImageFormat("png")


@dataclass(eq=False)
class Patch:
    """One of the strongest patches of a unit.

    Attributes:
        unit: Its channel.
        rank: From 1.
        image: Number of the image.
        value: The activation as recorded in the pass.
        row, col: Position in the layer.
        scale: The unit's strongest activation.
        path, label: Of the image.
        unclipped, clipped: The receptive field in pixels of the image as x, y, w, h.
        problem: Why it could not be reproduced; empty when it was.
        place: Where its tile is kept; None for a patch that is not shown.
    """

    unit: int
    rank: int
    image: int
    value: float
    row: int
    col: int
    scale: float
    path: str = ""
    label: str | None = None
    unclipped: tuple[float, ...] = ()
    clipped: tuple[float, ...] = ()
    problem: str = "not looked at"
    place: int | None = None
    field: Edges = (0.0, 0.0, 0.0, 0.0)
    cell: Edges | None = None

    @property
    def shown(self) -> bool:
        """A patch that does not activate its unit is listed, not shown."""
        return self.value > 0.0


@dataclass(frozen=True, eq=False)
class _Asked(DecodedImage):
    """An image with one patch of it."""

    patch: Patch


@dataclass(frozen=True)
class Look:
    """How patches are looked at.

    Attributes:
        field: The layer's receptive field; None where it is not known: then the whole input.
        size: (h, w) of the layer.
        side: Side of the tiles in pixels.
        rule: ``guided``, ``deconvnet``, ``saliency`` or ``none``.
        name: Of the layer, as part of file names.
        crops: Also write each crop to a file.
    """

    field: ReceptiveField | None
    size: tuple[int, int]
    side: int
    rule: str
    name: str
    crops: bool = False


@dataclass
class _Tiles:
    """Squares of one size, kept on the disk."""

    side: int
    spool: Spool = field(default_factory=Spool)

    def append(self, picture: NDArray[np.uint8]) -> int:
        self.spool.append(picture.tobytes())
        return len(self.spool) - 1

    def __getitem__(self, place: int) -> NDArray[np.uint8]:
        return np.frombuffer(self.spool[place], dtype=np.uint8).reshape(self.side, self.side, 3)


class Review:
    """Reads the images again, runs them in batches, compares, and cuts the patches out.

    Args:
        prepared: The network, with the session that the pass used.
        store: Where single crops go.
        look: What is wanted.
        layer: The layer as :class:`Cut` names it.
    """

    def __init__(self, prepared: PreparedModel, store: Store, look: Look, layer: str) -> None:
        self.prepared, self.store, self.look = prepared, store, look
        self.tolerance = max(TOLERANCE, prepared.runtime.tolerance)
        self._crops, self._gradients = _Tiles(look.side), _Tiles(look.side)
        self._session: Session | None = None
        if look.rule != "none":
            self._session = prepared.open(Cut.at_image(layer))

    def look_at(self, patches: Sequence[Patch], refs: Mapping[int, ImageRef]) -> None:
        """Fill in everything of each patch that the image says; one reading and one forward pass an image."""
        by_image: dict[int, list[Patch]] = {}
        for patch in sorted(patches, key=lambda patch: patch.image):
            by_image.setdefault(patch.image, []).append(patch)
        workers = self.prepared.settings.runtime.workers or max(2, os.cpu_count() or 2)
        with ThreadPoolExecutor(workers, "draw", rt.use_threads, (1,)) as self._pool:
            self._in_batches(by_image, refs)

    def _in_batches(self, by_image: Mapping[int, Sequence[Patch]], refs: Mapping[int, ImageRef]) -> None:
        batch: list[DecodedImage] = []
        for number, got in self._read([(number, refs[number]) for number in by_image]):
            if isinstance(got, ImageError):
                for patch in by_image[number]:
                    patch.problem = f"{refs[number].uri} cannot be read again: {got.message}"
                continue
            batch.append(got)
            if len(batch) >= self.prepared.batch_size:
                self._batch(batch, by_image)
                batch = []
        if batch:
            self._batch(batch, by_image)

    def tile(self, patch: Patch) -> Tile | None:
        """A patch as it is drawn; None for one that is not shown."""
        if patch.place is None:
            return None
        gradient = None if self._session is None else self._gradients[patch.place]
        return Tile(self._crops[patch.place], gradient, patch.field, patch.cell, patch.value)

    def _read(self, wanted: Sequence[tuple[int, ImageRef]]) -> Iterator[tuple[int, DecodedImage | ImageError]]:
        """Decoded images in order, a bounded number ahead."""
        ahead: deque[tuple[int, Future[DecodedImage | ImageError]]] = deque()
        for number, ref in wanted:
            ahead.append((number, self._pool.submit(self._load, ref)))
            if len(ahead) > _AHEAD:
                number, future = ahead.popleft()
                yield number, future.result()
        while ahead:
            number, future = ahead.popleft()
            yield number, future.result()

    def _load(self, ref: ImageRef) -> DecodedImage | ImageError:
        try:
            rgb = decode(read_bytes(ref)).rgb
            pixels, geometry = prepare(rgb, self.prepared.preprocess)
        except ImageError as error:
            return error
        return DecodedImage(ref, rgb, pixels, geometry)

    def _batch(self, items: Sequence[DecodedImage], by_image: Mapping[int, Sequence[Patch]]) -> None:
        asked = [
            _Asked(item.ref, item.rgb, item.pixels, item.geometry, patch)
            for item in items
            for patch in by_image[item.ref.index]
        ]
        for one in asked:
            self._place(one.patch, one.geometry)
        self._compare(items, by_image)
        shown = [one for one in asked if one.patch.shown and not one.patch.problem]
        for start in range(0, len(shown), self.prepared.batch_size):
            some = shown[start : start + self.prepared.batch_size]
            gradients: list[NDArray[np.float32] | Record] = []
            if self._session is not None:
                gradients = self.prepared.guarded(some, self._back)
            drawn = self._pool.map(self._cut, some, gradients or [None] * len(some))
            for one, (picture, gradient) in zip(some, drawn, strict=True):
                one.patch.place = self._crops.append(picture)
                if gradient is not None:
                    self._gradients.append(gradient)

    def _place(self, patch: Patch, geometry: Geometry) -> None:
        height, width = self.prepared.preprocess.input_size[1:]
        box, seen = (0, 0, width, height), (0, 0, width, height)
        if self.look.field is not None:
            box = self.look.field.box(patch.row, patch.col)
            seen = self.look.field.clipped(patch.row, patch.col, (height, width))
        patch.unclipped = _xywh(_in_image(_edges(box), geometry, (width, height)))
        x0, y0, x1, y1 = _in_image(_edges(seen), geometry, (width, height))
        wide, high = geometry.image_size
        x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, wide), min(y1, high)
        patch.clipped = _xywh((x0, y0, max(x1, x0), max(y1, y0)))

    def _compare(self, items: Sequence[DecodedImage], by_image: Mapping[int, Sequence[Patch]]) -> None:
        """Run the images again and look for each activation at its place."""
        found: list[NDArray[np.float32] | Record] = self.prepared.guarded(items, self._again)
        for item, got in zip(items, found, strict=True):
            for patch in by_image[item.ref.index]:
                if isinstance(got, Record):
                    patch.problem = got.reason
                    continue
                value = float(got[patch.unit, patch.row, patch.col])
                near = abs(value - patch.value) <= self.tolerance * max(abs(patch.value), abs(patch.scale))
                said = f"{item.ref.uri}: {patch.value:.6g} in the pass, {value:.6g} when it was read again"
                patch.problem = "" if near else said

    def _again(self, items: Sequence[DecodedImage]) -> list[NDArray[np.float32]]:
        with rt.scope(), torch.no_grad():
            pixels = normalize(self.prepared.batch(items), self.prepared.preprocess)
            return list(self.prepared.session.forward(pixels).activations[0].detach().float().cpu().numpy())

    def _back(self, asked: Sequence[DecodedImage]) -> list[NDArray[np.float32]]:
        assert self._session is not None
        patches = [one.patch for one in asked if isinstance(one, _Asked)]
        units = torch.tensor([patch.unit for patch in patches])
        positions = torch.tensor([patch.row * self.look.size[1] + patch.col for patch in patches])
        with rt.scope():
            run = self._session.forward(normalize(self.prepared.batch(asked), self.prepared.preprocess))
            found = unit_gradients(run, units, positions, RULES[self.look.rule])
            return list(in_order(found, self.prepared.preprocess).cpu().numpy())

    def _cut(
        self, one: _Asked, gradient: NDArray[np.float32] | Record | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """The patch's two tiles, in a thread of the pool."""
        patch, side = one.patch, self.look.side
        size = self.prepared.preprocess.input_size[2], self.prepared.preprocess.input_size[1]
        window, cell = self._window(patch)
        box = _in_image(window, one.geometry, size)
        crop = cut(one.rgb, box, side)
        picture, corner = square(crop, side)
        scale = crop.shape[1] / (box[2] - box[0]), crop.shape[0] / (box[3] - box[1])
        clipped = (*patch.clipped[:2], patch.clipped[0] + patch.clipped[2], patch.clipped[1] + patch.clipped[3])
        patch.field = _on_tile((clipped[0], clipped[1], clipped[2], clipped[3]), box, scale, corner)
        if cell is not None:
            patch.cell = _on_tile(_in_image(cell, one.geometry, size), box, scale, corner)
        below = None
        if gradient is not None:
            raw = gradient if isinstance(gradient, np.ndarray) else np.zeros(one.pixels.shape, dtype=np.float32)
            if self.look.rule == "saliency":
                raw = np.abs(raw).max(axis=0, keepdims=True)
            drawn = gradient_crop(raw, window, fit_box(box, side))
            below = square(drawn, side, 128)[0]
        if self.look.crops:
            longest = min(_LARGEST_CROP, max(1, round(max(box[2] - box[0], box[3] - box[1]))))
            name = f"crops/{self.look.name}.{patch.unit}.{patch.rank}.png"
            self.store.write(name, encode(cut(one.rgb, box, longest), _PNG))
        return picture, below

    def _window(self, patch: Patch) -> tuple[Edges, Edges | None]:
        """What is cut out, in pixels of the network's input: the field with a margin around it, at most as large as
        the input, centred on the field wherever that lies, so that the crops of a unit align; and the unit's own cell
        where the field is nearly everything."""
        height, width = self.prepared.preprocess.input_size[1:]
        if self.look.field is None:
            return (0.0, 0.0, float(width), float(height)), None
        x, y, w, h = self.look.field.box(patch.row, patch.col)
        wide, high = min(w + 2 * max(2, w // 8), width), min(h + 2 * max(2, h // 8), height)
        middle = x + w / 2, y + h / 2
        window = (middle[0] - wide / 2, middle[1] - high / 2, middle[0] + wide / 2, middle[1] + high / 2)
        if w * h < _NEARLY_ALL * width * height:
            return window, None
        down, across = self.look.field.stride
        left, top = middle[0] - across / 2, middle[1] - down / 2
        return window, (left, top, left + across, top + down)


def _edges(box: tuple[int, int, int, int]) -> Edges:
    x, y, w, h = box
    return float(x), float(y), float(x + w), float(y + h)


def _in_image(edges: Edges, geometry: Geometry, size: tuple[int, int]) -> Edges:
    """Edges in the network's input, of (W, H) pixels, as edges in the image: crop and resize undone."""
    left, top = geometry.to_image(edges[0], edges[1], size)
    right, bottom = geometry.to_image(edges[2], edges[3], size)
    return left, top, right, bottom


def _xywh(edges: Edges) -> tuple[float, ...]:
    values = (edges[0], edges[1], edges[2] - edges[0], edges[3] - edges[1])
    return tuple(round(value, 3) + 0.0 for value in values)


def _on_tile(edges: Edges, box: Edges, scale: tuple[float, float], corner: tuple[int, int]) -> Edges:
    """Edges in the image as edges on the tile that shows ``box`` of it."""
    x0, x1 = ((x - box[0]) * scale[0] + corner[0] for x in (edges[0], edges[2]))
    y0, y1 = ((y - box[1]) * scale[1] + corner[1] for y in (edges[1], edges[3]))
    return x0, y0, x1, y1
