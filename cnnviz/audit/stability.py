"""Does the map follow the picture: shifted, mirrored, brightened, compressed.

The map of the changed photograph, with the change undone in the map's own cells, is compared with the map of the
photograph, for the class of the photograph, by rank correlation. A shift is by a whole number of the map's cells, so
that it can be undone exactly; what enters the picture is its mirror image, and the cells that show it are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.audit.check import Check, Judged, likeness_of_ranks, mean
from cnnviz.audit.verdict import Observation, Statement

if TYPE_CHECKING:
    from cnnviz.maps.second_look import SecondLook

Picture = NDArray[np.uint8]
Map = NDArray[np.float32]
_QUALITY, _BRIGHTER = 50, 1.25


class Stable(Check):
    """The map follows the picture."""

    def statements(self, method: str, judged: Sequence[Judged], look: SecondLook) -> list[Statement]:
        seen: list[Observation] = []
        if not look.of_classes or any("class_index" not in row["target"] for each in judged for row in each.maps[:1]):
            why = "only maps of classes of the whole image are made again of changed pictures"
            return [Statement("similarity", "mean", True, self.params.min_similarity, (), why)]
        classes = [int(each.maps[0]["target"]["class_index"]) if each.maps else None for each in judged]

        def of_one(item: tuple[Judged, int | None]) -> list[float]:
            each, index = item
            photo = None if index is None else look.photograph(each.record)
            return [] if photo is None or index is None else self._similarities(method, photo.rgb, index, look)

        def similarities() -> list[list[float]]:
            return look.each(of_one, list(zip(judged, classes, strict=True)))

        what = {"stable": method, "under": list(self.params.under), "classes": classes}
        answer = look.answered(what, [each.record for each in judged], similarities)
        for each, values in zip(judged, answer, strict=True):
            seen += [each.seen(value) for value in values]
        return [mean("similarity", self.params.min_similarity, seen, at_least=True, low=-1.0)]

    def _similarities(self, method: str, rgb: Picture, index: int, look: SecondLook) -> list[float]:
        [first] = look.maps(method, [rgb], index)
        rect = look.shown(rgb)[1].rect
        pitch = (rect[3] - rect[1]) / first.shape[0], (rect[2] - rect[0]) / first.shape[1]
        changed = [with_change(name, rgb, pitch) for name in self.params.under]
        found = []
        for name, other in zip(self.params.under, look.maps(method, changed, index), strict=True):
            before, after = undone(name, first, other)
            value = likeness_of_ranks(before, after)
            if value is not None:
                found.append(value)
        return found


def with_change(name: str, rgb: Picture, pitch: tuple[float, float]) -> Picture:
    """The photograph, changed; ``pitch`` is the size of a cell (y, x) in its pixels."""
    if name == "flip":
        return np.ascontiguousarray(rgb[:, ::-1])
    if name == "brightness":
        brighter: Picture = np.clip(np.rint(rgb * _BRIGHTER), 0, 255).astype(np.uint8)
        return brighter
    if name == "jpeg":
        _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None, "it was just encoded"
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    down, right = max(1, round(pitch[0])), max(1, round(pitch[1]))
    padded = cv2.copyMakeBorder(rgb, down, 0, right, 0, cv2.BORDER_REFLECT_101)
    return np.ascontiguousarray(padded[: rgb.shape[0], : rgb.shape[1]])


def undone(name: str, before: Map, after: Map) -> tuple[Map, Map]:
    """Two maps whose cells show the same parts of the photograph."""
    if name == "flip":
        return before, after[:, ::-1]
    if name == "shift" and min(before.shape) > 1:
        return before[:-1, :-1], after[1:, 1:]
    return before, after
