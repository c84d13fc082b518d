"""Does the prediction depend on a part of the picture: what happens when it is replaced.

The background of an image (all that is not its object) is exchanged for that of another image, from which the object
there was painted out. Pasting leaves seams, and so does painting out: beside each exchange stands a *control*, in which
the image's own background, painted out and blurred in the same way, is put back around the object. A flip counts where
the exchange flips the prediction and the control does not. For a rectangle the control is a random rectangle of the
same size elsewhere in what the network saw, filled in the same way, and the share of flips is that beyond it.

Pictures are changed at the size at which the network is shown them: what it sees of a photograph that is many times
larger is no other, and takes as long.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.audit.check import Check, Judged, mean, rate
from cnnviz.audit.verdict import Observation, Statement
from cnnviz.errors import out_of
from cnnviz.geometry.placement import seen_part
from cnnviz.metrics.region_energy import rectangle
from cnnviz.metrics.seen_region import BACKGROUND, in_words, share_seen

if TYPE_CHECKING:
    from cnnviz.maps.second_look import Photograph, SecondLook
    from cnnviz.tasks.base import Predictions

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
_FEATHER = 64  # of the longer side
_LARGEST = 0.95
# What is painted out is smooth: a network sees no more of it than this.
_SIDE = 128
# Photographs that are held at once: a few threads, the own and the next of each.
_HELD = 6


class Counterfactual(Check):
    """Predictions stay when a region, or the background, is replaced."""

    def statements(self, method: str, judged: Sequence[Judged], look: SecondLook) -> list[Statement]:
        if not look.of_classes:
            why = "the network has no class for the whole image that could flip"
            return [Statement("flips", "rate", False, self.params.max_flips or 0.0, (), why)]
        changes = changed(judged, look, (self.params.replace, self.params.with_), self.policy.truth_labels)
        hidden = self.hidden({path: each["seen"] for path, each in changes.items()}, self.params.replace)
        left_out = ""
        if self.params.replace == BACKGROUND and judged:
            left_out = self.unmarked(judged, changes, "nothing, or less than 5 % of what the network saw,")
            left_out += "" if changes else "; or replace a rectangle"
        elif judged:
            left_out = self._filled(judged, changes)
        self._one_class(judged)
        changes = {path: each for path, each in changes.items() if each["seen"]}
        why = "" if changes else "; ".join(filter(None, (hidden, left_out)))
        found = []
        if self.params.max_flips is not None:
            before = {each.path: each.predicted for each in judged}
            flips = [
                Observation(path, float(each["flip"]), each["group"], _flip(before[path], each, look.labels))
                for path, each in changes.items()
            ]
            found.append(rate("flips", self.params.max_flips, flips, at_least=False))
        if self.params.max_drop is not None:
            drops = [Observation(path, each["drop"], each["group"]) for path, each in changes.items()]
            found.append(mean("drop", self.params.max_drop, drops, at_least=False, low=-1.0))
        return [dataclasses.replace(each, why_not=why) for each in found]

    def _one_class(self, judged: Sequence[Judged]) -> None:
        """Tell where what is exchanged comes from images of the same class, which may have the same reason for it."""
        said = {each.record["predictions"][0]["label"] for each in judged}
        if self.params.with_ == "shuffle" and len(said) == 1 and len(judged) > 1:
            self.remarks.append(
                f"all {len(judged)} images are predicted as {said.pop()}: what is put in comes from images of the same "
                "class, and where these have the same mark or background the prediction stays; "
                "with: mean, or images of other classes, take it away"
            )

    def _filled(self, judged: Sequence[Judged], seen: Collection[str]) -> str:
        """That images are left out, because the rectangle is nearly all that the network saw; empty where none is."""
        region = self.params.replace
        out = [each for each in judged if each.path not in seen and _fills(region, each.record)]
        if not out:
            return ""
        first = f"{out[0].path}{', ...' * (len(out) > 1)}"
        of = out_of(len(out), len(judged), "image")
        nearly = f"{in_words(region)} is more than 95 % of what the network saw of {of}"
        text = f"{nearly}, left out, for nothing is left beside it: {first}"
        if seen:
            self.remarks.append(text)
        return text


def _flip(before: str, change: Mapping[str, Any], labels: Sequence[str]) -> str:
    """From which class to which a prediction goes; empty where it stays."""
    return f"{before} becomes {labels[change['to']]}" if change["flip"] else ""


def changed(
    judged: Sequence[Judged],
    look: SecondLook,
    how: tuple[str, str],
    objects: str,
    others: Sequence[Judged] = (),
) -> dict[str, dict[str, Any]]:
    """By path: whether a prediction flips where the control's does not, and how much more probability it loses; and the
    share of what is replaced that the network saw: where that is none, nothing else.

    Args:
        judged: The images.
        look: Photographs, and the network on changed ones.
        how: What is replaced, and by what.
        objects: What the truth of an image is: ``class`` or ``any``.
        others: Where other images are taken from; from the same without it.
    """
    every = [each.record for each in (*judged, *others)]
    what = {"counterfactual": list(how), "objects": objects, "judged": len(judged), "partners": "of other classes"}
    answer = look.answered(what, every, lambda: _changed(judged, look, how, objects, others))
    return {judged[int(place)].path: {**row, "group": judged[int(place)].group} for place, row in answer.items()}


@dataclass(frozen=True, eq=False)
class _Known:
    """A photograph of which it is known what is replaced; ``seen`` is the share of that which the network saw, and
    ``window`` what it saw: x0, y0, x1, y1.
    """

    photo: Photograph
    mask: Mask
    window: tuple[int, int, int, int]
    seen: float

    @cached_property
    def emptied(self) -> Picture:
        """It without its object."""
        return painted_out(self.photo.rgb, ~self.mask)


def _changed(
    judged: Sequence[Judged], look: SecondLook, how: tuple[str, str], objects: str, others: Sequence[Judged]
) -> dict[str, dict[str, Any]]:
    """The same by the image's place, without its group.

    Images are gone through in an order by chance, and the other image is the next one, as :func:`_partners` has them:
    each is read once or so, and few are held at once.
    """
    replace, fill = how
    pool = sorted(others or judged, key=seed_of)
    place = {each.path: number for number, each in enumerate(pool)}

    @lru_cache(maxsize=_HELD)
    def known(each: Judged) -> _Known | None:
        photo = look.seen(each.record)
        mask = None if photo is None else _replaced(photo, each, look, replace, objects)
        if photo is None or mask is None or not mask.any():
            return None
        window = _window(each.record, mask.shape)
        if part_of(mask, window).mean() > _LARGEST:
            return None
        return _Known(photo, mask, window, share_seen(mask, window) or 0.0)

    def another(each: Judged) -> _Known | None:
        start = place.get(each.path, -1) + 1
        some = _partners(each, pool[start:] + pool[:start])
        return next((found for other in some if (found := known(other)) is not None), None)

    def pictures(each: Judged) -> tuple[list[Picture], float] | None:
        own = known(each)
        if own is None or not own.seen:
            return None if own is None else ([], 0.0)
        other = own if fill != "shuffle" else another(each)
        return None if other is None else (_pictures(own, other, (replace, fill), seed_of(each)), own.seen)

    def change(some: Sequence[Judged]) -> list[dict[str, Any] | None]:
        made = [pictures(each) for each in some]
        every = [picture for own in made if own is not None for picture in own[0]]
        said = look.predict(every) if every else None
        found: list[dict[str, Any] | None] = []
        at = 0
        for each, own in zip(some, made, strict=True):
            if own is None:
                found.append(None)
                continue
            found.append({"seen": own[1], **(_told(each, said, at) if said is not None and own[0] else {})})
            at += len(own[0])
        return found

    order = sorted(range(len(judged)), key=lambda number: seed_of(judged[number]))
    most = max(1, look.together // 2)
    groups = [[judged[number] for number in order[at : at + most]] for at in range(0, len(order), most)]
    rows = dict(zip(order, (row for some in look.each(change, groups) for row in some), strict=True))
    return {str(number): row for number, row in sorted(rows.items()) if row is not None}


def _partners(each: Judged, order: Sequence[Judged]) -> Iterator[Judged]:
    """The images that a part may come from: first those that are predicted as another class.

    Images of one class may all have the background, or the mark, that makes the network say it: put back in its own
    place it would be no change.
    """
    yield from (other for other in order if _said(other) != _said(each))
    yield from (other for other in order if _said(other) == _said(each) and other.path != each.path)


def _said(judged: Judged) -> int:
    return int(judged.record["predictions"][0]["class_index"])


def _told(each: Judged, said: Predictions, at: int) -> dict[str, Any]:
    """What became of a prediction: picture ``at`` is the exchange, the next one its control."""
    before = each.record["predictions"][0]
    index = int(before["class_index"])
    best = said.scores[at : at + 2].argmax(dim=1).tolist()
    loss = [float(before["probability"]) - float(share) for share in said.shares[at : at + 2, index]]
    return {
        "flip": best[0] != index and best[1] == index,
        "to": best[0],
        "control": best[1] != index,
        "drop": loss[0] - max(0.0, loss[1]),
    }


def _replaced(photo: Photograph, each: Judged, look: SecondLook, replace: str, objects: str) -> Mask | None:
    """bool [h, w]: what is replaced of a photograph, at the size at which the network is shown it."""
    if replace != BACKGROUND:
        return rectangle(replace, (photo.rgb.shape[0], photo.rgb.shape[1]))
    mask = background(photo, each, look, objects)
    size = (photo.rgb.shape[1], photo.rgb.shape[0])
    if mask is None or mask.shape == size[::-1]:
        return mask
    return np.asarray(cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_AREA), dtype=np.bool_)


def _window(record: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """What the network saw of a photograph that is held at [H, W]: x0, y0, x1, y1, half-open."""
    height, width = shape
    if (seen := record.get("seen_xywh")) is None:
        return 0, 0, width, height
    across, down = width / record["width"], height / record["height"]
    left, top = seen[0] * across, seen[1] * down
    return seen_part((left, top, left + seen[2] * across, top + seen[3] * down), (width, height))


def background(photo: Photograph, each: Judged, look: SecondLook, objects: str) -> Mask | None:
    """bool [H, W]: all that is not the object, of the photograph as it is; None where nothing says where that is.

    Args:
        photo: The photograph, of any size.
        each: What is known of it.
        look: What labels mean.
        objects: What the truth of an image is: ``class`` or ``any``.
    """
    truth = photo.truth
    if truth is None:
        return None
    marked = (*truth.object_labels, *truth.masks)
    wanted = {name for row in _true(each.record) for name in look.labels_of(row["class_index"])}
    labels = [name for name in dict.fromkeys(marked) if objects == "any" or name in wanted]
    return ~truth.region_of(labels) if labels else None


def _true(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = record.get("true_classes") or record["predictions"][:1]
    return found


def _pictures(own: _Known, other: _Known, how: tuple[str, str], seed: int) -> list[Picture]:
    """The exchange, and its control."""
    rgb, mask, (replace, fill) = own.photo.rgb, own.mask, how
    rng = np.random.default_rng(seed)
    if replace == BACKGROUND:
        new = _as_large(other.emptied, rgb) if fill == "shuffle" else filled(own.emptied, fill, rng)
        return blended(rgb, new, mask, own.emptied)
    elsewhere = moved(mask, own.window, rng)
    new = _as_large(other.photo.rgb, rgb) if fill == "shuffle" else filled(rgb, fill, rng)
    return [*blended(rgb, new, mask), *blended(rgb, new, elsewhere)]


def _as_large(picture: Picture, rgb: Picture) -> Picture:
    size = (rgb.shape[1], rgb.shape[0])
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def painted_out(rgb: Picture, gone: Mask) -> Picture:
    """The picture with a part filled in from what surrounds it (Telea, 2004)."""
    height, width = rgb.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    shown = cv2.resize(rgb, small, interpolation=cv2.INTER_AREA)
    part = gone.astype(np.uint8)
    hole = cv2.dilate(cv2.resize(part, small, interpolation=cv2.INTER_NEAREST), np.ones((5, 5)))
    filled_in = cv2.inpaint(shown, hole, 3, cv2.INPAINT_TELEA)
    large = cv2.resize(filled_in, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.copyTo(large, part, rgb.copy()), dtype=np.uint8)


def filled(rgb: Picture, fill: str, rng: np.random.Generator) -> Picture:
    """A picture of the same size that says little: blurred, one colour, or noise of its colours."""
    if fill == "blur":
        sigma = max(rgb.shape[:2]) / 16
        return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma), dtype=np.uint8)
    mean, spread = rgb.reshape(-1, 3).mean(0), rgb.reshape(-1, 3).std(0)
    if fill == "mean":
        return np.broadcast_to(np.rint(mean).astype(np.uint8), rgb.shape).copy()
    return np.clip(rng.normal(mean, spread, rgb.shape), 0, 255).astype(np.uint8)


def blended(rgb: Picture, new: Picture, mask: Mask, *others: Picture) -> list[Picture]:
    """The picture with another, or one of several, in the place of a part, across a soft edge."""
    sigma = max(rgb.shape[:2]) / _FEATHER / 4
    weight = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)
    left = 1 - weight
    return [np.asarray(cv2.blendLinear(rgb, each, left, weight), dtype=np.uint8) for each in (new, *others)]


def _fills(region: str, record: Mapping[str, Any]) -> bool:
    """Whether a rectangle leaves too little of what the network saw beside it."""
    shape = record["height"], record["width"]
    return float(part_of(rectangle(region, shape), _window(record, shape)).mean()) > _LARGEST


def part_of(mask: Mask, window: tuple[int, int, int, int]) -> Mask:
    """What of a mask lies in a window (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = window
    return mask[y0:y1, x0:x1]


def moved(mask: Mask, window: tuple[int, int, int, int], rng: np.random.Generator) -> Mask:
    """A rectangle as large as what the network saw of this one, elsewhere in what it saw, at random; where it overlaps
    least of ten tries. Beside that the network would not see it, and any region would count for more than chance.

    Args:
        mask: [H, W], of which a pixel at least lies in the window.
        window: What the network saw: x0, y0, x1, y1, half-open.
        rng: What is random.
    """
    part = part_of(mask, window)
    rows, cols = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    height, width = int(rows[-1] - rows[0] + 1), int(cols[-1] - cols[0] + 1)
    best, least = mask, np.inf
    for _ in range(10):
        top = window[1] + int(rng.integers(0, part.shape[0] - height + 1))
        left = window[0] + int(rng.integers(0, part.shape[1] - width + 1))
        other = np.zeros_like(mask)
        other[top : top + height, left : left + width] = True
        shared = float((other & mask).sum())
        if shared < least:
            best, least = other, shared
    return best


def seed_of(each: Judged) -> int:
    """Of what is random for an image: the same whatever else is looked at."""
    digest = hashlib.sha256(str(each.record["name"]).encode("utf-8", "surrogatepass")).hexdigest()
    return int(digest[:8], 16)
