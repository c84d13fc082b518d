"""Which classes in which regions are explained of each image: the words of ``--class`` and ``--target``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from cnnviz.errors import CnnvizError, ImageError, shown
from cnnviz.geometry.regions import Region, Weights, box_weights, mask_weights, seen_share, segments
from cnnviz.io.masks import read_mask
from cnnviz.io.names import safe_component
from cnnviz.io.sources import ImageRef
from cnnviz.tasks.base import DifferenceRequest, Predictions, Request, SeenImage, Selected, Selector, Words
from cnnviz.tasks.class_selection import asked_of, kind_of
from cnnviz.tasks.class_words import ClassWords
from cnnviz.tasks.elsewhere import KINDS as ELSEWHERE
from cnnviz.tasks.region_words import PREDICTED, RegionWord, parse_region, parse_segment, two_sides

if TYPE_CHECKING:
    from cnnviz.tasks.segmentation import DensePredictions, RegionRequest, Segmentation

KINDS = ("class", "segment", "diff", *ELSEWHERE)


@dataclass(frozen=True, eq=False)
class _Seen:
    """An image of a batch, with what the network says of it."""

    item: SeenImage
    said: DensePredictions
    place: int

    @property
    def cells(self) -> tuple[int, int]:
        rows, cols = self.said.labels.shape[1:]
        return int(rows), int(cols)


class _Nothing(Exception):
    """A target matches nothing in an image; the reason."""


class RegionSelector(Selector):
    """Turns ``--class`` and ``--target`` into classes in regions, for each image.

    Args:
        words: The grammar is in :mod:`cnnviz.tasks.region_words`; ``pred``, ``top:K`` and ``all`` are the classes that
            the network finds, by area, the background last (``pred`` and ``top`` leave it out).
        task: What the network is for.

    Raises:
        CnnvizError: A spec that means nothing, before anything is run.
    """

    def __init__(self, words: Words, task: Segmentation) -> None:
        self.task, self.marked = task, words.marked
        if words.only is not None:
            raise CnnvizError(
                f"--only {words.only} is of images that have one class; this network finds several in each.",
                "Leave out --only.",
            )
        self._asked, self.elsewhere = asked_of(words, KINDS)
        self._words: dict[str, ClassWords] = {}
        for kind, spec in self._asked:
            self._check(kind, spec)
        labels = [spec for kind, spec in self._asked if kind == "class" and self._parsed(spec).name == spec]
        self._labels = ClassWords(labels, task.classes, self.marked)

    def _check(self, kind: str, spec: str) -> None:
        if kind == "diff":
            parts = two_sides(spec.partition(":")[2])
            if parts is None:
                raise CnnvizError(
                    f"--target {shown(spec)}: expected diff:A,B with two classes, each in a region.",
                    "For example diff:road,sidewalk or diff:road@all,car@all; a name with a comma goes in quotes.",
                )
            for part in parts:
                name = self._parsed(part).name
                if name == "all" or name.startswith("top:"):
                    raise CnnvizError(
                        f"--target {shown(spec)}: {name} means several classes.", "Name one on each side."
                    )
                self._check(kind_of(part, ("class", "segment")), part)
        elif kind == "segment":
            parse_segment(spec)
        else:
            word = self._parsed(spec)
            if word.region.kind == "truth" and self.marked is None:
                raise CnnvizError(f"--target {shown(spec)}: nothing says what is in the images.", "Give --truth PATH.")
            self._words[word.name] = ClassWords([word.name], self.task.classes, self.marked)

    @property
    def explains_scores(self) -> bool:
        return bool(self._asked)

    @property
    def beyond_classes(self) -> bool:
        return True

    def requests(self, item: SeenImage, said: Predictions, place: int) -> Selected:
        seen = _Seen(item, said, place)  # type: ignore[arg-type]
        found: list[Request] = []
        unmatched: list[tuple[str, str]] = []
        for kind, spec in self._asked:
            try:
                found += self._made(kind, spec, seen)
            except _Nothing as error:
                unmatched.append((spec, str(error)))
            except ImageError as error:
                if error.kind != "mask":
                    raise
                unmatched.append((spec, error.message))
        found += self.elsewhere
        if not found:
            raise ImageError("no-target", "; ".join(dict.fromkeys(reason for _, reason in unmatched)))
        return Selected.distinct(found, unmatched)

    def _parsed(self, spec: str) -> RegionWord:
        return parse_region(spec.removeprefix("class:"), self.task.classes.labels)

    def _made(self, kind: str, spec: str, seen: _Seen) -> Sequence[Request]:
        if kind == "segment":
            return [self._segment(parse_segment(spec) or 0, seen)]
        if kind == "diff":
            parts = two_sides(spec.partition(":")[2])
            assert parts is not None
            first, second = (self._made(kind_of(part, ("class", "segment")), part, seen)[0] for part in parts)
            if first.slug == second.slug:
                raise _Nothing("both sides are the same class in the same region")
            return [DifferenceRequest(first, second, spec)]
        return self._classes(self._parsed(spec), seen)

    def _classes(self, word: RegionWord, seen: _Seen) -> list[RegionRequest]:
        said, place, item = seen.said, seen.place, seen.item
        ranked = self.task.ranked(said, place)
        inside = [index for index in ranked if index not in self.task.background]
        every = ranked if word.name == "all" else inside
        indices = self._words[word.name].indices(item.ref, item.truth, every, said.scores[place])
        if not indices and word.name != "truth":
            raise _Nothing("the network finds nothing but the background")
        if not indices:
            raise _Nothing("nothing that --truth marks on this image is a class of the model")
        return [self._request(index, word, seen) for index in indices]

    def _request(self, index: int, word: RegionWord, seen: _Seen) -> RegionRequest:
        from cnnviz.tasks.segmentation import RegionRequest

        weights, area = self._weights(index, word.region, seen)
        label = self.task.classes.labels[index]
        text = "pred" if word.region == PREDICTED else word.spec.rpartition("@")[2]
        if not weights.any():
            raise _Nothing(_why_empty(word.region, label, text, area))
        share = None if area is None else seen_share(weights, seen.item.geometry.rect, area)
        slug = self.task.classes.slug(index)
        name = slug if word.region == PREDICTED else f"{slug}-at-{file_part(text)}"
        return RegionRequest(index, weights, f"class:{word.spec}", text, name, self.task, share)

    def _segment(self, place: int, seen: _Seen) -> RegionRequest:
        from cnnviz.tasks.segmentation import RegionRequest

        found = segments(self.task.shown(seen.said, seen.place), self.task.background, place + 1)
        if len(found) <= place:
            has = f"has only {len(found)} segment{'s' * (len(found) != 1)} besides the background"
            raise _Nothing(
                f"there is no segment {place + 1}: the prediction {has} (segment:1 is its largest connected part, of "
                "whatever class; class:NAME is a class)"
            )
        index, cells = found[place].class_index, found[place].cells.astype(np.float32)
        name = f"segment-{place + 1}-{self.task.classes.slug(index)}"
        spec = f"segment:{place + 1}"
        return RegionRequest(index, cells, spec, spec, name, self.task)

    def _weights(self, index: int, region: Region, seen: _Seen) -> tuple[Weights, float | None]:
        """Weights of the positions, and the pixels of the photograph that the region has; None where it has its place
        in what the network saw.
        """
        geometry, cells = seen.item.geometry, seen.cells
        if region.kind == "pred":
            return seen.said.found[seen.place, index].numpy().astype(np.float32), None
        if region.kind == "all":
            return np.ones(cells, dtype=np.float32), None
        if region.kind in ("box", "point"):
            box, size = region.box(geometry.image_size), geometry.image_size
            whole = (0.0, 0.0, float(size[0]), float(size[1]))
            area = float(box_weights(box, size, whole, (1, 1))[0, 0]) * size[0] * size[1]
            return box_weights(box, size, geometry.rect, cells), area
        truth = seen.item.truth
        labels = () if self.marked is None else self.marked.labels_of(index)
        if region.kind == "mask":
            mask = read_mask(region.file, geometry.image_size, region.value)
        elif truth is None or not labels:
            return np.zeros(cells, dtype=np.float32), 0.0
        else:
            mask = truth.region_of(labels)
        return mask_weights(mask, geometry.rect, cells), float(np.count_nonzero(mask))

    def rehearsal(self, output: Tensor) -> list[list[Request]]:
        from cnnviz.tasks.segmentation import RegionRequest

        rows, cols = output.shape[2:]
        some = np.ones((int(rows), int(cols)), dtype=np.float32)
        probes: list[Request] = []
        if self._asked:
            probes.append(RegionRequest(0, some, "class:pred", "pred", "probe", self.task))
        return [[*probes, *self.elsewhere]]

    def truth(self, ref: ImageRef) -> str | None:
        return self._labels.truth(ref)


def only_regions(targets: Sequence[str], what: str) -> None:
    """Whether every ``--target`` is a class in a region, or a segment.

    Args:
        targets: As they were asked for.
        what: What they say, for the message.

    Raises:
        CnnvizError: One is another kind of target.
    """
    for target in targets:
        if kind_of(target, KINDS) not in ("class", "segment"):
            raise CnnvizError(
                f"--target {shown(target)}: expected {what}.", "For example class:car@box:10%,40%,30%,50% or segment:1."
            )


def _why_empty(region: Region, label: str, text: str, area: float | None) -> str:
    """Why a class has no region in an image; ``area`` is that of the region within the image, in pixels."""
    if region.kind == "pred":
        return f"{label} is found nowhere in this image"
    if area:
        what = f"the {label} that the annotations mark" if region.kind == "truth" else f"@{text}"
        return f"{what} lies outside the part of this image that the network saw; --view whole shows it all"
    if region.kind == "truth":
        return f"the annotations mark no {label} on this image"
    return f"@{text} lies outside this image" if region.kind != "mask" else f"@{text} is empty"


def file_part(text: str) -> str:
    """A region as part of a file name."""
    plain = text.replace("%", "pc").replace(":", "-").replace(",", "-").replace("/", "-").replace("#", "-")
    return safe_component(plain.replace(".", "_"))[-60:].lstrip("-")
