"""Mosaics of images that the network gets right, made and explained when all images have been seen.

The grid pointing game looks at four images at once, which no batch holds: which four is known at the end of a run. The
images are then read again, as the network is shown them, and put together at their own size where the network takes
twice its input each way, else at half of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.other_size import holds_at
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.errors import CnnvizError, ImageError, counted
from cnnviz.geometry.placement import PlacedMap, place
from cnnviz.io.decode import open_image
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.sources import ImageRef, open_file
from cnnviz.io.store import Store
from cnnviz.maps.prepared_method import PreparedMethod
from cnnviz.metrics.contract import Row
from cnnviz.metrics.grid_pointing import CELLS, SIDE, Mosaic, choose, score
from cnnviz.models.preprocess import normalize, prepare
from cnnviz.registry.localization_metrics import GridPointingOptions
from cnnviz.registry.metrics import MetricRequest
from cnnviz.render.comparison import Cell, comparison
from cnnviz.render.overlay import Style, overlay
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.images import Figure
from cnnviz.schema.mosaics import MosaicRow, Mosaics
from cnnviz.tasks.base import Request

PICTURE = "mosaics.png"


@dataclass(frozen=True, eq=False)
class Played:
    """What came of the mosaics of a run.

    Attributes:
        report: As the report has it; None where there was none.
        rows: By the name of what made the maps, a row for each map.
        notes: What people should know.
        first: The first mosaic with its maps; None without one.
    """

    report: Mosaics | None = None
    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    first: Shown | None = None


@dataclass(frozen=True, eq=False)
class Shown:
    """A mosaic as people see it.

    Attributes:
        rgb: [H, W, 3].
        labels: Of its four classes.
        maps: By the name of what made them, the four maps on it.
    """

    rgb: NDArray[np.uint8]
    labels: tuple[str, ...]
    maps: Mapping[str, Sequence[PlacedMap]]


def pictures(played: Played, methods: Sequence[str], style: Style, store: Store) -> list[Figure]:
    """Write the first mosaic, in a row for each method with the maps of its four classes."""
    shown = played.first
    if shown is None:
        return []
    rows = []
    for name in methods:
        maps = zip(shown.labels, shown.maps[name], strict=True)
        cells = [Cell(name, overlay(shown.rgb, placed, style), label) for label, placed in maps]
        rows.append([Cell("mosaic", shown.rgb), *cells])
    title = "Grid pointing game: the first mosaic"
    store.write(PICTURE, encode(comparison(rows, title), ImageFormat("png")))
    return [{"file": PICTURE, "caption": title}]


def asked(requests: Iterable[MetricRequest]) -> MetricRequest | None:
    """The metric that wants mosaics, if any does."""
    return next((each for each in requests if each.spec.measures == "mosaics"), None)


def check_view(requests: Iterable[MetricRequest], view: str) -> None:
    """Raises a CnnvizError where a metric wants mosaics, and images are not shown in one size."""
    if asked(requests) is not None and view not in ("crop", "squash"):
        raise CnnvizError(
            f"--view {view}: the grid pointing game puts together images that are shown in one size.",
            "Use --view crop or squash.",
        )


def play(
    prepared: PreparedModel,
    makers: Sequence[PreparedMethod],
    request: MetricRequest,
    records: Iterable[Mapping[str, Any]],
) -> Played:
    """Choose mosaics, explain the four classes of each by every method, and measure.

    Args:
        prepared: The network of the run.
        makers: The methods, and what stands beside them.
        request: The metric with its options.
        records: Of all images.
    """
    params = request.params
    assert isinstance(params, GridPointingOptions)
    paths: dict[str, str] = {}
    by_class: dict[int, list[str]] = {}
    for record in records:
        if record.get("error") is None and record.get("outcome") == "correct":
            paths[record["name"]] = record["path"]
            by_class.setdefault(record["predictions"][0]["class_index"], []).append(record["name"])
    mosaics = choose(by_class, params.mosaics, params.seed)
    if not mosaics:
        has = counted(len(by_class), "class")
        return Played(notes=(f"{request.spec.title}: needs right predictions of {CELLS} classes; there are {has}",))
    prepared.note(
        f"{request.spec.title}: {counted(len(mosaics), 'mosaic')} of {CELLS} images; a map that knows nothing has 0.25"
    )
    tiles = _Tiles(prepared, paths)
    _, height, width = prepared.preprocess.input_size
    session, size = prepared.session, (SIDE * height, SIDE * width)
    full = not session.compiled and holds_at(session, prepared.loaded.module, size)
    size = size if full else (height, width)
    energy = _Energies(prepared, makers, size)
    kept: list[Mosaic] = []
    most = max(1, prepared.batch_size // CELLS)
    with rt.threads(prepared.lanes.one.threads):
        for start in range(0, len(mosaics), most):
            some = [each for each in mosaics[start : start + most] if tiles.has(each)]
            if some:
                energy.add([tiles.mosaic(each, size) for each in some], some)
                kept += some
    played = _played(request, prepared, kept, energy.found, (full, len(mosaics) - len(kept)))
    return replace(played, first=energy.first)


def _played(
    request: MetricRequest,
    prepared: PreparedModel,
    mosaics: Sequence[Mosaic],
    found: Mapping[str, Sequence[Sequence[float]]],
    told: tuple[bool, int],
) -> Played:
    full, unread = told
    params, labels = request.params, prepared.classes.labels
    assert isinstance(params, GridPointingOptions)
    rows = {
        name: [Row({"energy": value}, f"mosaic {number}", None) for number, own in enumerate(every) for value in own]
        for name, every in found.items()
    }
    listed: list[MosaicRow] = [
        {
            "names": list(mosaic.names),
            "classes": [{"class_index": index, "label": labels[index]} for index in mosaic.classes],
            "energy": {name: [round(value, 6) for value in every[number]] for name, every in found.items()},
        }
        for number, mosaic in enumerate(mosaics)
    ]
    notes = []
    if not full:
        notes.append(f"{request.spec.title}: images at half their size, because the network runs at one input size")
    if len(mosaics) + unread < params.mosaics:
        notes.append(f"{request.spec.title}: {params.mosaics} were asked for; there are no more different ones")
    if unread:
        why = f"an image of {'it' if unread == 1 else 'theirs'} can no longer be read"
        notes.append(f"{request.spec.title}: {counted(unread, 'mosaic')} left out: {why}")
    return Played({"full_size": full, "seed": params.seed, "mosaics": listed}, rows, tuple(notes))


class _Tiles:
    """The images of mosaics as the network is shown them, read once each."""

    def __init__(self, prepared: PreparedModel, paths: Mapping[str, str]) -> None:
        self._prepared, self._paths = prepared, paths
        self._read: dict[str, Tensor | None] = {}

    def has(self, mosaic: Mosaic) -> bool:
        """Whether all its images can be read."""
        return all(self._of(name) is not None for name in mosaic.names)

    def _of(self, name: str) -> Tensor | None:
        if name not in self._read:
            try:
                with open_file(ImageRef(self._paths[name], name, 0)) as stream:
                    rgb = open_image(stream).decode().rgb
                self._read[name] = prepare(rgb, self._prepared.preprocess)[0]
            except ImageError:
                self._read[name] = None
        return self._read[name]

    def mosaic(self, mosaic: Mosaic, size: tuple[int, int]) -> Tensor:
        """uint8 [C, H, W] of a size (H, W): the images row by row, shrunk where they are larger than their cells."""
        four = torch.stack([tile for name in mosaic.names if (tile := self._of(name)) is not None])
        cell = size[0] // SIDE, size[1] // SIDE
        if tuple(four.shape[-2:]) != cell:
            small = torch.nn.functional.interpolate(four.float(), cell, mode="area")
            four = small.round().clamp(0, 255).to(torch.uint8)
        rows = [torch.cat(list(four[row * SIDE : (row + 1) * SIDE]), dim=2) for row in range(SIDE)]
        return torch.cat(rows, dim=1)


class _Energies:
    """Explains mosaics, and measures of each map the share in its own cell."""

    def __init__(self, prepared: PreparedModel, makers: Sequence[PreparedMethod], size: tuple[int, int]) -> None:
        self._prepared, self._makers, self._size = prepared, makers, size
        self.found: dict[str, list[list[float]]] = {maker.spec.name: [] for maker in makers}
        self.first: Shown | None = None

    def add(self, mosaics: Sequence[Tensor], which: Sequence[Mosaic]) -> None:
        """Mosaics, uint8 [C, H, W] each; in halves where they need more memory than there is."""
        try:
            placed = self._explained(torch.stack(list(mosaics)), which)
        except Exception as error:
            if not rt.is_out_of_memory(error) or len(which) == 1:
                raise
            rt.release_memory(self._prepared.runtime.device)
            half = (len(which) + 1) // 2
            self.add(mosaics[:half], which[:half])
            self.add(mosaics[half:], which[half:])
            return
        for name, every in placed.items():
            self.found[name] += [[score(each.values, cell) for cell, each in enumerate(own)] for own in every]
        if self.first is None:
            labels = tuple(self._prepared.classes.labels[index] for index in which[0].classes)
            self.first = Shown(_rgb(mosaics[0]), labels, {name: every[0] for name, every in placed.items()})

    def _explained(self, mosaics: Tensor, which: Sequence[Mosaic]) -> dict[str, list[list[PlacedMap]]]:
        """By the name of what made them, for each mosaic the maps of its four classes."""
        prepared = self._prepared
        wanted: list[list[Request]] = [
            [prepared.classification.request(index) for index in each.classes] for each in which
        ]
        runs: dict[Session, ForwardPass] = {}
        found = {}
        with rt.scope():
            pixels = normalize(mosaics.to(prepared.session.device), prepared.preprocess)
            for maker in self._makers:
                if maker.session not in runs:
                    runs[maker.session] = maker.session.forward(pixels)
                maps = maker.unmeasured(runs[maker.session], wanted)
                found[maker.spec.name] = self._placed(maps, maker.spec.signed)
        return found

    def _placed(self, maps: Sequence[Sequence[NDArray[np.float32]]], signed: bool) -> list[list[PlacedMap]]:
        height, width = self._size
        return [[place(each, (0, 0, width, height), (width, height), signed=signed) for each in own] for own in maps]


def _rgb(mosaic: Tensor) -> NDArray[np.uint8]:
    """[H, W, 3] of [C, H, W]: of other than three channels the first, in grey."""
    shown = mosaic if len(mosaic) == 3 else mosaic[:1].expand(3, -1, -1)
    return np.ascontiguousarray(shown.permute(1, 2, 0).numpy())
