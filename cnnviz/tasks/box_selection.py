"""Which boxes are explained of each image: the words of ``--class`` and ``--target`` of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from cnnviz.errors import CnnvizError, ImageError, shown
from cnnviz.geometry.boxes import Box
from cnnviz.io.sources import ImageRef
from cnnviz.tasks.base import DifferenceRequest, Predictions, Request, SeenImage, Selected, Selector, Words
from cnnviz.tasks.box_words import BoxWord, parse_box, two_boxes
from cnnviz.tasks.class_selection import asked_of, kind_of
from cnnviz.tasks.class_words import ClassWords
from cnnviz.tasks.elsewhere import KINDS as ELSEWHERE

if TYPE_CHECKING:
    from cnnviz.tasks.detection import BoxRequest, Detection, FoundBox, FoundBoxes

KINDS = ("class", "box", "diff", *ELSEWHERE)
_SIDES = ("class", "box")
# Below this IoU a box is not the one that was asked for.
_LEAST_IOU = 0.5


@dataclass(frozen=True, eq=False)
class _Seen:
    """An image of a batch, with what the network says of it."""

    item: SeenImage
    said: FoundBoxes
    place: int

    @property
    def boxes(self) -> Sequence[FoundBox]:
        return self.said.found[self.place]


class _Nothing(Exception):
    """A target matches nothing in an image; the reason."""


class BoxSelector(Selector):
    """Turns ``--class`` and ``--target`` into boxes, for each image.

    Args:
        words: The grammar is in :mod:`cnnviz.tasks.box_words`; a class means its best box, ``pred`` the best of all,
            ``top:K`` the K best, ``all`` every one.
        task: What the network is for.

    Raises:
        CnnvizError: A spec that means nothing, before anything is run.
    """

    def __init__(self, words: Words, task: Detection) -> None:
        self.task, self.marked = task, words.marked
        if words.only is not None:
            raise CnnvizError(
                f"--only {words.only} is of images that have one class; this network finds several boxes in each.",
                "Leave out --only.",
            )
        self._asked, self.elsewhere = asked_of(words, KINDS)
        self._words: dict[str, ClassWords] = {}
        for kind, spec in self._asked:
            self._check(kind, spec)
        self._labels = ClassWords([spec for kind, spec in self._asked if kind == "class"], task.classes, self.marked)

    def _check(self, kind: str, spec: str) -> None:
        if kind == "diff":
            parts = two_boxes(spec.partition(":")[2])
            if parts is None:
                raise CnnvizError(
                    f"--target {shown(spec)}: expected diff:A,B with two boxes.",
                    "For example diff:box:1,box:2 or diff:car,bus; a name with a comma goes in quotes.",
                )
            for part in parts:
                self._check(kind_of(part, _SIDES), part)
            scores = [word is None or word.part == "score" for word in map(parse_box, parts)]
            if scores[0] != scores[1]:
                raise CnnvizError(
                    f"--target {shown(spec)}: the score of a box and the place of an edge have no common scale.",
                    "Compare two scores, or two places.",
                )
            return
        word = parse_box(spec) if kind == "box" else None
        name = spec.removeprefix("class:").strip() if word is None else word.name
        if name:
            self._words[name] = ClassWords([name], self.task.classes, self.marked)

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
        found += self.elsewhere
        if not found:
            raise ImageError("no-target", "; ".join(dict.fromkeys(reason for _, reason in unmatched)))
        return Selected.distinct(found, unmatched)

    def _made(self, kind: str, spec: str, seen: _Seen) -> Sequence[Request]:
        if kind == "diff":
            parts = two_boxes(spec.partition(":")[2])
            assert parts is not None
            first, second = (self._made(kind_of(part, _SIDES), part, seen)[0] for part in parts)
            if first.slug == second.slug:
                raise _Nothing("both sides are the same box")
            return [DifferenceRequest(first, second, spec)]
        if not seen.boxes:
            raise _Nothing(f"the network finds no box in this image{self.task.of_lower_scores()}")
        word = parse_box(spec) if kind == "box" else None
        if word is not None:
            return [self._box(word, seen)]
        return self._classes(spec.removeprefix("class:").strip(), seen)

    def _classes(self, name: str, seen: _Seen) -> list[BoxRequest]:
        if name in ("pred", "all") or name.startswith("top:"):
            # As classes are counted; where there are more boxes than classes, all of them are meant.
            ranked = list(range(len(seen.boxes)))
            count = {"pred": 1, "all": len(ranked)}.get(name) or int(name[4:])
            return [self._request(place, f"box:{place + 1}", seen) for place in ranked[:count]]
        indices = self._words[name].indices(
            seen.item.ref, seen.item.truth, [box.class_index for box in seen.boxes], seen.said.scores[seen.place]
        )
        found = [(index, self._best(index, seen)) for index in indices]
        if not any(place is not None for _, place in found):
            labels = ", ".join(self.task.label(index) for index, _ in found)
            what = f"{labels} is none of the boxes" if labels else "nothing that --truth marks is a class of the model"
            raise _Nothing(what)
        return [self._request(place, f"class:{name}", seen) for _, place in found if place is not None]

    def _best(self, index: int, seen: _Seen) -> int | None:
        """The best box of a class."""
        return next((place for place, box in enumerate(seen.boxes) if box.class_index == index), None)

    def _box(self, word: BoxWord, seen: _Seen) -> BoxRequest:
        if word.region is not None:
            return self._nearest(word, seen)
        if word.number > len(seen.boxes):
            count = len(seen.boxes)
            raise _Nothing(f"there is no box {word.number}: the network finds {count} box{'es' * (count != 1)}")
        if word.number:
            return self._request(word.number - 1, word.spec, seen, word)
        [index] = self._words[word.name].indices(
            seen.item.ref, seen.item.truth, [box.class_index for box in seen.boxes], seen.said.scores[seen.place]
        )[:1] or [-1]
        place = self._best(index, seen)
        if place is None:
            raise _Nothing(f"{word.name if index < 0 else self.task.label(index)} is none of the boxes")
        return self._request(place, word.spec, seen, word)

    def _nearest(self, word: BoxWord, seen: _Seen) -> BoxRequest:
        """The box with the largest IoU with the one that was asked for."""
        assert word.region is not None
        asked: Box = word.region.box(seen.item.geometry.image_size)
        ious = [self.task.on_photograph(box, seen.item).iou(asked) for box in seen.boxes]
        place = max(range(len(ious)), key=ious.__getitem__)
        if ious[place] < _LEAST_IOU:
            label = self.task.label(seen.boxes[place].class_index)
            most = f"the largest, of {label}, is {ious[place]:.2g}" if ious[place] > 0 else "none overlaps with it"
            raise _Nothing(f"no box has an IoU of {_LEAST_IOU} with it; {most}")
        return self._request(place, word.spec, seen, word, ious[place])

    def _request(
        self, place: int, spec: str, seen: _Seen, word: BoxWord | None = None, iou: float | None = None
    ) -> BoxRequest:
        from cnnviz.tasks.detection import BoxRequest

        box = seen.boxes[place]
        part = "score" if word is None else word.part
        return BoxRequest(box, place + 1, self.task.on_photograph(box, seen.item), spec, part, iou, self.task)

    def rehearsal(self, output: Tensor) -> list[list[Request]]:
        from cnnviz.tasks.detection import BoxRequest

        probes: list[Request] = []
        box = self.task.likeliest(output, 0)
        if self._asked and box.score > 0:  # a probe without any candidate has nothing to rehearse with
            probes.append(BoxRequest(box, 1, Box(0, 0, 1, 1), "box:1", "score", None, self.task))
        return [[*probes, *self.elsewhere]]

    def truth(self, ref: ImageRef) -> str | None:
        return self._labels.truth(ref)
