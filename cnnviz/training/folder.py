"""An image folder: its pictures, their classes, and which of them are learned from."""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from cnnviz.errors import CnnvizError, nearest, shown
from cnnviz.io.sources import ImageRef, SourceOptions, find_images, is_url

Part = Literal["train", "val"]
PARTS: tuple[Part, Part] = ("train", "val")


@dataclass(frozen=True)
class Picture:
    """A file of the folder.

    Attributes:
        ref: Where it is.
        label: Name of its class folder.
        part: What it is for.
    """

    ref: ImageRef
    label: str
    part: Part


@dataclass(frozen=True)
class Folder:
    """All pictures in input order.

    Attributes:
        pictures: Files that may turn out to be no pictures among them.
        split: ``folders``: ``train/`` and ``val/`` say what a picture is for; ``fraction``: the seed does.
        notes: What was left out.
    """

    pictures: tuple[Picture, ...]
    split: Literal["folders", "fraction"]
    notes: tuple[str, ...]


def read_folder(root: str, fraction: float, seed: int, told: Callable[[str], None]) -> Folder:
    """Look through an image folder. Nothing is opened.

    The class of a picture is the first folder below the root, or below ``train/`` and ``val/``.

    Args:
        root: A local folder.
        fraction: Share of each class that is for validation, where the folder does not say.
        seed: Of that choice, which depends on the names in a class and on nothing else.
        told: Told of output folders of runs that lie among the pictures and are passed over.

    Raises:
        CnnvizError: The path is not a folder, or it has fewer than two class folders.
    """
    if is_url(root) or not os.path.isdir(root):
        raise CnnvizError(f"{root} is no local folder.", "Give a folder that has a folder of pictures for each class.")
    found = [(ref, _steps(ref, root)) for ref in find_images((root,), SourceOptions(told=told))]
    tops = {steps[0] for _, steps in found if len(steps) > 1}
    if set(PARTS) <= tops:
        rows = [(ref, steps[0], steps[1:]) for ref, steps in found]
        others = sorted(tops - set(PARTS))
        notes = (f"left out, beside train/ and val/: {', '.join(others)}",) if others else ()
        pictures = [
            Picture(ref, steps[0], part) for ref, top, steps in rows for part in PARTS if part == top and len(steps) > 1
        ]
        _check(root, pictures)
        _check_validation(pictures)
        return Folder(tuple(pictures), "folders", notes)
    inside = tops == {"train"}  # its classes, not one class of that name
    labelled = [(ref, steps[inside:]) for ref, steps in found]
    pictures = [Picture(ref, steps[0], "train") for ref, steps in labelled if len(steps) > 1]
    _check(root, pictures)
    _check_pairs(pictures)
    return Folder(tuple(_divided(pictures, fraction, seed)), "fraction", ())


def _steps(ref: ImageRef, root: str) -> list[str]:
    return os.path.relpath(ref.uri, root).split(os.sep)


def _check(root: str, pictures: Sequence[Picture]) -> None:
    labels = sorted({picture.label for picture in pictures})
    layout = f"Put pictures into a folder for each class: {os.path.join(root, 'cat')}, {os.path.join(root, 'dog')}"
    if not labels:
        raise CnnvizError(f"{root} has no class folders with files in them.", layout)
    if len(labels) == 1:
        raise CnnvizError(f"{root} has one class, {shown(labels[0])}: there is nothing to tell it from.", layout)


def _check_validation(pictures: Iterable[Picture]) -> None:
    labels = {part: {picture.label for picture in pictures if picture.part == part} for part in PARTS}
    unknown = sorted(labels["val"] - labels["train"])
    if unknown:
        raise CnnvizError(
            f"val/ has the class {shown(unknown[0])}, which train/ does not have.",
            nearest(unknown[0], labels["train"]) or f"Add train/{unknown[0]}, or remove val/{unknown[0]}.",
        )


def _check_pairs(pictures: Iterable[Picture]) -> None:
    for label, members in _by_label(pictures).items():
        if len(members) == 1:
            raise alone(label)


def alone(label: str) -> CnnvizError:
    """What to say of a class that cannot be both learned and validated."""
    return CnnvizError(
        f"class {shown(label)} has a single picture, which cannot be both learned from and validated with.",
        "Add pictures to it, remove the class, or make the folders train/ and val/.",
    )


def _by_label(pictures: Iterable[Picture]) -> Mapping[str, Sequence[int]]:
    found = defaultdict[str, list[int]](list)
    for place, picture in enumerate(pictures):
        found[picture.label].append(place)
    return found


def _divided(pictures: Sequence[Picture], fraction: float, seed: int) -> Iterable[Picture]:
    """Of each class the share, rounded, at least one picture and never all."""
    chosen: set[int] = set()
    for label, places in _by_label(pictures).items():
        count = min(max(1, round(fraction * len(places))), len(places) - 1)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {label}".encode("utf-8", "surrogateescape")))
        order = torch.randperm(len(places), generator=generator).tolist()
        chosen.update(places[place] for place in order[:count])
    return (
        Picture(picture.ref, picture.label, "val" if place in chosen else "train")
        for place, picture in enumerate(pictures)
    )
