"""``--view tiles`` for maps: every tile has a pass of its own, and their maps are joined on the whole image.

The record's predictions are those of the *deciding* tile: the one whose first prediction has the highest probability
of all tiles (of equals the first, reading row by row). A target's own score, and a method's own figures, are those of
the tile in which that target is most probable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.geometry.mosaic import join
from cnnviz.models import tiles
from cnnviz.models.preprocess import Preprocess
from cnnviz.records import Record
from cnnviz.run.images import DecodedImage
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.images import Tile
from cnnviz.tasks.base import Predictions

# Arrays that are maps like the one that is drawn; of all others each tile's own is stored.
_MAPS = ("gradcam", "gradient")


@dataclass(frozen=True, eq=False)
class ComputedMap:
    """What a method made of one image (or tile) for one target; ``layer`` where it was chosen for this map."""

    drawn: NDArray[np.float32]
    raw: NDArray[np.float32]
    facts: dict[str, Any]
    scores: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    layer: str | None = None


@dataclass(frozen=True, eq=False)
class Tiles:
    """The tiles of one image.

    Attributes:
        item: The image, resized as a whole.
        corners: Top and left of each tile in it.
        size: Height and width of a tile.
        rows: Where the tiles stand among those that run together.
    """

    item: DecodedImage
    corners: list[tuple[int, int]]
    size: tuple[int, int]
    rows: range

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width of the resized image."""
        return int(self.item.pixels.shape[1]), int(self.item.pixels.shape[2])

    def cut(self) -> Tensor:
        return tiles.cut(self.item.pixels, self.corners, self.size)

    def xywh(self) -> list[tuple[float, float, float, float]]:
        """Where the tiles lie in the image, in its pixels."""
        return [tiles.xywh(corner, self.size, self.shown, self.item.geometry) for corner in self.corners]


def together(items: Sequence[DecodedImage], spec: Preprocess, most: int) -> Iterator[list[Tiles]]:
    """Images whose tiles run together: up to ``most`` tiles, or one image of more."""
    size, batch, count = spec.input_size[1:], list[Tiles](), 0
    for item in items:
        corners = tiles.corners((int(item.pixels.shape[1]), int(item.pixels.shape[2])), size)
        if batch and count + len(corners) > most:
            yield batch
            batch, count = [], 0
        batch.append(Tiles(item, corners, size, range(count, count + len(corners))))
        count += len(corners)
    if batch:
        yield batch


def deciding(predictions: Predictions, rows: range) -> int:
    """The row of the tile whose first prediction is the most probable."""
    return rows[int(predictions.shares[rows.start : rows.stop].amax(dim=1).argmax())]


def showing(predictions: Predictions, rows: range, index: int) -> int:
    """The row of the tile in which a class is most probable; of equally sure ones, that of the highest score."""
    part = slice(rows.start, rows.stop)
    shares, scores = predictions.shares[part, index], predictions.scores[part, index]
    return rows[int(torch.where(shares == shares.max(), scores, -torch.inf).argmax())]


def select_targets(
    prepared: PreparedModel, mosaic: Tiles, predictions: Predictions, decides: int
) -> list[int] | Record:
    """The classes that ``--class`` asks of an image, by what the network says of its deciding tile."""
    broken = [row for row in mosaic.rows if not predictions.usable[row]]
    return prepared.select_targets(mosaic.item, predictions, broken[0] if broken else decides)


def joined(mosaic: Tiles, made: Sequence[ComputedMap], chosen: int) -> ComputedMap:
    """One map of the whole image from those of its tiles.

    Args:
        mosaic: The tiles.
        made: For each tile, what the method made of it for one target.
        chosen: The tile whose figures stand for the image.
    """

    def whole(maps: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        return join(maps, mosaic.corners, mosaic.size, mosaic.shown)

    drawn = whole([each.drawn for each in made])
    first = made[0]
    # Values on a grid of their own, such as those of a sliding window, become a picture as the method draws them.
    as_drawn = first.raw is first.drawn or first.raw.shape[-2:] not in (mosaic.size, first.drawn.shape[-2:])
    raw = drawn if as_drawn else whole([each.raw for each in made])
    arrays: dict[str, NDArray[Any]] = {
        "tiles": np.stack([each.raw for each in made]),
        "tiles_xywh": np.asarray(mosaic.xywh(), dtype=np.float64),
    }
    for name in first.arrays:
        every = [each.arrays[name] for each in made]
        arrays[name] = whole(every) if name in _MAPS else np.stack(every)
    return ComputedMap(drawn, raw, first.facts, {**made[chosen].scores, "tile": chosen}, arrays)


def facts(mosaic: Tiles, predictions: Predictions, prepared: PreparedModel, decides: int) -> Mapping[str, list[Tile]]:
    """What the record says of the tiles: where each lies and what the network says of it."""
    return {
        "tiles": [
            {
                "xywh": [round(value, 2) for value in box],
                "predictions": [score.to_dict() for score in prepared.top_predictions(predictions, row)],
                "decides": row == decides,
            }
            for row, box in zip(mosaic.rows, mosaic.xywh(), strict=True)
        ]
    }
