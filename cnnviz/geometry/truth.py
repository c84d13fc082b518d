"""What is known of an image beside the network: where its objects are, in pixels of the uncropped photograph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.boxes import Box

if TYPE_CHECKING:
    from cnnviz.schema import images


@dataclass(frozen=True)
class TrueObject:
    """An object that somebody marked.

    Attributes:
        label: Its class, as the annotations name it.
        box: Where it is.
        difficult: Whether the annotations call it hard to recognise (Pascal VOC); measures usually leave it out.
        ignore: Whether the box is no object to find but a region that counts neither way (a crowd in COCO).
    """

    label: str
    box: Box
    difficult: bool = False
    ignore: bool = False

    def to_dict(self) -> images.TrueObject:
        """As a record has it."""
        row: images.TrueObject = {"label": self.label, "box_xywh": self.box.xywh}
        if self.difficult:
            row["difficult"] = True
        if self.ignore:
            row["ignore"] = True
        return row


@dataclass(frozen=True, eq=False)
class Truth:
    """The annotations of one image of (W, H) pixels.

    Attributes:
        size: (W, H).
        objects: Marked by boxes.
        masks: bool [H, W] by label: where the class is.
        labels: Classes of the image as a whole.
        ignored: bool [H, W]: pixels that count neither way; None where all count.
    """

    size: tuple[int, int]
    objects: tuple[TrueObject, ...] = ()
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    ignored: NDArray[np.bool_] | None = None

    def boxes(self, label: str | None = None, *, difficult: bool = True) -> tuple[Box, ...]:
        """Boxes of the objects of a class (None: of all), without regions to ignore.

        Args:
            label: The class.
            difficult: Whether those that are hard to recognise are among them.
        """
        return self.boxes_of(self.object_labels if label is None else (label,), difficult=difficult)

    @property
    def object_labels(self) -> tuple[str, ...]:
        """The classes of the objects, in order, without regions to ignore."""
        return tuple(dict.fromkeys(each.label for each in self.objects if not each.ignore))

    def boxes_of(self, labels: Collection[str], *, difficult: bool = True) -> tuple[Box, ...]:
        """Boxes of the objects of any of several classes, without regions to ignore.

        Args:
            labels: The classes; none have no boxes.
            difficult: Whether those that are hard to recognise are among them.
        """
        return tuple(
            each.box
            for each in self.objects
            if not each.ignore and each.label in labels and (difficult or not each.difficult)
        )

    def to_dict(self) -> images.Truth:
        """As a record has it; of masks only whose they are."""
        return {
            "labels": list(self.labels),
            "objects": [each.to_dict() for each in self.objects],
            "masks": list(self.masks),
        }

    def region(self, label: str) -> NDArray[np.bool_]:
        """bool [H, W]: where a class is, by its mask, or the pixels of its boxes where there is none."""
        return self.masks[label] if label in self.masks else self.region_of((label,))

    def region_of(self, labels: Collection[str]) -> NDArray[np.bool_]:
        """bool [H, W]: where any of several classes is, each by its mask, or by its boxes where it has none."""
        found = np.zeros((self.size[1], self.size[0]), dtype=np.bool_)
        for label in labels:
            if label in self.masks:
                found |= self.masks[label]
                continue
            for box in self.boxes_of((label,)):
                found[box.pixels(self.size)] = True
        return found

    def knows(self, what: str) -> bool:
        """Whether there are ``boxes``, ``masks`` or a ``label``; of ``nothing`` always."""
        has = {"boxes": bool(self.boxes()), "masks": bool(self.masks), "label": bool(self.labels), "nothing": True}
        return has[what]
