"""What top-patches gathered of shares of the inputs, joined: the strongest of all are among the strongest of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.io.sources import ImageRef
from cnnviz.run.share import packed, unpacked
from cnnviz.studies.top_patches.dissection import Quantiles
from cnnviz.studies.top_patches.top_units import TopUnits

Folders = Counter[str | None]


@dataclass(frozen=True, eq=False)
class Winner:
    """An image that holds a patch: all that is kept of it."""

    ref: ImageRef
    label: str | None


def state_of(
    top: TopUnits, quantiles: Quantiles | None, winners: Mapping[int, Winner], folders: Folders
) -> dict[str, NDArray[Any]]:
    """The arrays of a share.

    Args:
        top: The strongest patches of its images.
        quantiles: Of its activations, for a dissection.
        winners: Its images, by the numbers that ``top`` has.
        folders: How many images each folder has.
    """
    numbers = sorted(set(np.unique(top.images).tolist()) - {-1})
    found: dict[str, NDArray[Any]] = {
        "values": top.values,
        "positions": top.positions,
        # Places in the list of names: numbers of images are those of the share alone.
        "images": np.where(top.images < 0, -1, np.searchsorted(numbers, top.images)) if numbers else top.images,
        "names": packed([[winners[number].ref.name, winners[number].ref.folder] for number in numbers]),
        "folders": packed(list(folders.items())),
        "fired": top.fired,
        "count": np.array([top.count]),
        "sums": top.sums,
    }
    return found if quantiles is None else {**found, "quantiles": quantiles.counts}


def folders_of(states: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, str | None]:
    """The folders of the images that hold a patch in their share, by name."""
    return {name: folder for state in states for name, folder in unpacked(state["names"])}


def join(
    states: Sequence[Mapping[str, NDArray[Any]]],
    numbers: Mapping[str, int],
    top: TopUnits,
    quantiles: Quantiles | None,
    folders: Folders,
) -> None:
    """Fold what shares gathered.

    Args:
        states: Of all shares.
        numbers: The place of each image among all inputs, by name.
        top: Folded into.
        quantiles: Folded into, for a dissection.
        folders: Counted into.
    """
    for state in states:
        own = np.array([numbers[name] for name, _ in unpacked(state["names"])], dtype=np.int64)
        images = state["images"].astype(np.int64)
        placed = np.where(images < 0, -1, own[images]) if len(own) else images
        top.join(state["values"], placed, state["positions"])
        top.fired += state["fired"]
        top.count += int(state["count"][0])
        top.sums += state["sums"]
        if quantiles is not None:
            quantiles.counts += state["quantiles"]
        folders.update(dict(unpacked(state["folders"])))
