"""Activations of the pictures of a folder, which a concept is made of."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.decode import open_image
from cnnviz.io.sources import ImageRef, find_images, is_url, open_file
from cnnviz.models.preprocess import normalize, prepare
from cnnviz.run.prepared_model import PreparedModel

MOST_VALUES = 1 << 28
"""Activations of one folder at most: 1 GiB of float32."""


def vectors(maps: Tensor, pool: str) -> Tensor:
    """Maps [N, C, h, w] as rows: their C h w values (``none``), or the C means over positions (``mean``)."""
    return maps.mean(dim=(2, 3)) if pool == "mean" else maps.flatten(1)


def activations_of(
    prepared: PreparedModel, named: tuple[str, str], refs: Sequence[ImageRef], pool: str
) -> NDArray[np.float32]:
    """The activations [n, D] of all pictures of a folder at the session's layer, in their order.

    A picture that cannot be read is told and left out.

    Args:
        prepared: The network of the run.
        named: The option that named the folder, and the folder, for messages.
        refs: The pictures.
        pool: What of their maps counts.

    Raises:
        CnnvizError: There is no picture, or there are too many values to keep.
    """
    flag, folder = named
    prepared.say(f"{flag} {folder}: pictures are read, and the network runs on them")
    found: list[NDArray[np.float32]] = []
    for batch in _batches(prepared, flag, refs):
        with rt.scope():
            run = prepared.session.forward(normalize(batch.to(prepared.session.device), prepared.preprocess))
            rows = vectors(run.activations[0].detach().float(), pool).cpu().numpy()
        if len(refs) * rows.shape[1] > MOST_VALUES:
            raise CnnvizError(
                f"{flag} {folder}: {len(refs)} pictures of {rows.shape[1]} activations each are too many to keep.",
                "Use --pool mean, a later --layer or fewer pictures.",
            )
        found.append(rows[np.isfinite(rows).all(axis=1)])
    if not found or not sum(map(len, found)):
        raise CnnvizError(f"{flag} {folder}: no picture in it can be used.", "Name a folder of pictures.")
    return np.concatenate(found)


def pictures_apart(concepts: Sequence[str], random: str) -> tuple[list[list[ImageRef]], list[ImageRef]]:
    """The pictures of each concept, and the random ones; none is on both sides, however it is named.

    Raises:
        CnnvizError: A picture of a concept is one of the random ones too, or two concepts are the same pictures.
    """
    chance = _pictures("--random", random)
    others = _files(chance)
    found: list[list[ImageRef]] = []
    known: dict[frozenset[str], str] = {}
    for concept in concepts:
        found.append(_pictures("--concept", concept))
        own = _files(found[-1])
        if own and own in known:
            raise CnnvizError(f"--concept {concept} is given twice, as {known[own]}.", "Name each folder once.")
        known[own] = concept
        if shared := len(own & others):
            raise CnnvizError(
                f"--concept {concept}: {shared} of its {len(own)} pictures are among those of --random {random}, so "
                "that nothing tells the concept from chance.",
                "Give --random a folder, or a list (.txt), of other pictures.",
            )
    return found, chance


def _pictures(flag: str, folder: str) -> list[ImageRef]:
    try:
        return list(find_images([folder]))
    except CnnvizError as error:
        raise CnnvizError(f"{flag} {folder}: {error.message}", "Name a folder of pictures.") from error


def _files(refs: Sequence[ImageRef]) -> frozenset[str]:
    return frozenset(ref.uri if is_url(ref.uri) else os.path.realpath(ref.uri) for ref in refs)


def _batches(prepared: PreparedModel, flag: str, refs: Sequence[ImageRef]) -> Iterator[Tensor]:
    waiting: list[Tensor] = []
    for ref in refs:
        try:
            with open_file(ref) as stream:
                waiting.append(prepare(open_image(stream).decode().rgb, prepared.preprocess)[0])
        except ImageError as error:
            prepared.note(f"{flag}: {ref.uri} is left out: {error.message}")
        if len(waiting) == prepared.batch_size:
            yield torch.stack(waiting)
            waiting = []
    if waiting:
        yield torch.stack(waiting)
