"""How the images of ``cnnviz embed`` are laid out, what is kept of each, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.errors import in_percent
from cnnviz.io.archives import is_fetched
from cnnviz.io.label_tables import is_label_table
from cnnviz.io.sources import SourceOptions, find_images
from cnnviz.render import embedding as drawing
from cnnviz.render.grid import thumbnail
from cnnviz.run.counting import Counts
from cnnviz.schema.studies.embed import Embedding
from cnnviz.settings import RunSettings
from cnnviz.studies.embed import embedding

THUMBNAIL = 160

Floats = NDArray[np.float64]


@dataclass
class Features:
    """An image's vector [D] float32, and its thumbnail once it is drawn: a JPEG file's bytes."""

    vector: NDArray[np.float32]
    thumbnail: bytes = b""


@dataclass(frozen=True)
class Entry:
    """What is kept of an image beside its vector and its thumbnail."""

    path: str
    file: str
    label: str | None
    prediction: str | None
    probability: float | None


@dataclass(frozen=True, eq=False)
class Layout:
    """The images laid out: projections by name (None where there are too few images), cells, neighbours."""

    pca: embedding.Projection
    points: Mapping[str, Floats | None]
    cells: NDArray[np.int64]
    shape: tuple[int, int]
    grid_of: Literal["tsne", "pca"]
    near: embedding.Neighbours
    labels: tuple[str | None, ...]
    labelled_by: Literal["given", "folder"] | None
    purity: Mapping[str, Floats]
    different: int


def takes_folders(settings: RunSettings, asked: Sequence[str]) -> bool:
    """Whether folders are the labels: where none are given, and there are several.

    Known before the first image, so that its record has its label. Standard input, and what would be fetched, cannot be
    looked through: there the folders are taken, however many they are.

    Args:
        settings: What was asked for.
        asked: What ``--class`` says.
    """
    if any(spec != "pred" for spec in asked):
        return False
    if "-" in settings.inputs or any(is_fetched(text) for text in settings.inputs):
        return True
    folders = set[str | None]()
    labelled = any(is_label_table(text) for text in settings.inputs)
    options = SourceOptions(left_out=Counts().leave_out(settings))
    for ref in islice(find_images(settings.inputs, options), settings.limit):
        if ref.label is not None:
            return False
        folders.add(ref.folder)
        if len(folders) > 1 and not labelled:  # without a table none of the others has a label either
            return True
    return len(folders) > 1


def pooled(activation: Tensor, channels_last: bool) -> Tensor:
    """Vectors [N, D] float32: the mean over positions of [N, D, …], or of […, D] when channels are last."""
    values = activation.float()
    if values.dim() < 3:
        return values.reshape(len(values), -1)
    if channels_last:
        return values.flatten(1, -2).mean(dim=1)
    return values.flatten(2).mean(dim=2)


def small(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At most ``THUMBNAIL`` pixels; the pixels of a tiny image become squares, so that a page shows more than a dot."""
    times = THUMBNAIL // max(rgb.shape[:2])
    return thumbnail(rgb, THUMBNAIL) if times < 2 else rgb.repeat(times, axis=0).repeat(times, axis=1)


def thumbnail_name(index: int) -> str:
    return f"thumbs/{index:06d}.jpg"


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spread."""
    if count <= most:
        return list(range(count))
    places: list[int] = np.linspace(0, count - 1, most).round().astype(int).tolist()
    return places


def legend_entries(known: drawing.Categories) -> list[tuple[str, int, str, bool]]:
    pairs = zip(known.names, known.counts, strict=True)
    return [(name, count, known.colour(k), known.is_diamond(k)) for k, (name, count) in enumerate(pairs)]


def headline(summary: Embedding) -> list[tuple[str, str]]:
    rows = [("images", str(summary["images"])), ("dimensions", str(summary["dimensions"]))]
    for kind, found in (("label", summary["purity"]["label"]), ("prediction", summary["purity"]["prediction"])):
        name = f"neighbours of the same {kind}"
        if found["value"] is not None and found["chance"] is not None:
            rows.append((name, f"{in_percent(found['value'])} (by chance {in_percent(found['chance'])})"))
        elif found["n"]:
            rows.append((name, f"undefined, as no two images share a {kind}"))
    return rows
