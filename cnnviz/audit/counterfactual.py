"""Does the prediction depend on a part of the picture: what happens when it is replaced.

The background of an image (all that is not its object) is exchanged for that of another image, from which the object
there was painted out. Pasting leaves seams, and so does painting out: beside each exchange stands a *control*, in which
the image's own background, painted out and blurred in the same way, is put back around the object. A flip counts where
the exchange flips the prediction and the control does not. For a rectangle the control is a random rectangle of the
same size elsewhere, filled in the same way, and the share of flips is that beyond it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.audit.check import Check, Judged, mean, rate
from cnnviz.audit.verdict import Observation, Statement
from cnnviz.metrics.region_energy import BACKGROUND, rectangle

if TYPE_CHECKING:
    from cnnviz.maps.second_look import Photograph, SecondLook

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
_FEATHER = 64  # of the longer side
_LARGEST = 0.95
_SIDE = 512


class Counterfactual(Check):
    """Predictions stay when a region, or the background, is replaced."""

    def statements(self, method: str, judged: Sequence[Judged], look: SecondLook) -> list[Statement]:
        if not look.of_classes:
            why = "the network has no class for the whole image that could flip"
            return [Statement("flips", "rate", False, self.params.max_flips or 0.0, (), why)]
        changes = changed(judged, look, (self.params.replace, self.params.with_), self.policy.truth_labels)
        found = []
        if self.params.max_flips is not None:
            flips = [Observation(path, float(each["flip"]), each["group"]) for path, each in changes.items()]
            found.append(rate("flips", self.params.max_flips, flips, at_least=False))
        if self.params.max_drop is not None:
            drops = [Observation(path, each["drop"], each["group"]) for path, each in changes.items()]
            found.append(mean("drop", self.params.max_drop, drops, at_least=False, low=-1.0))
        return found


def changed(
    judged: Sequence[Judged],
    look: SecondLook,
    how: tuple[str, str],
    objects: str,
    others: Sequence[Judged] = (),
) -> dict[str, dict[str, Any]]:
    """By path: whether a prediction flips where the control's does not, and how much more probability it loses.

    Args:
        judged: The images.
        look: Photographs, and the network on changed ones.
        how: What is replaced, and by what.
        objects: What the truth of an image is: ``class`` or ``any``.
        others: Where other images are taken from; from the same without it.
    """
    every = [each.record for each in (*judged, *others)]
    what = {"counterfactual": list(how), "objects": objects, "judged": len(judged)}
    answer = look.answered(what, every, lambda: _changed(judged, look, how, objects, others))
    return {judged[int(place)].path: {**row, "group": judged[int(place)].group} for place, row in answer.items()}


def _changed(
    judged: Sequence[Judged], look: SecondLook, how: tuple[str, str], objects: str, others: Sequence[Judged]
) -> dict[str, dict[str, Any]]:
    """The same by the image's place, without its group."""
    replace, fill = how
    pool, unusable = list(others or judged), set[str]()

    def known(each: Judged) -> tuple[Photograph, Mask] | None:
        photo = None if each.path in unusable else look.photograph(each.record)
        mask = None if photo is None else _replaced(photo, each, look, replace, objects)
        if photo is None or mask is None or not mask.any() or mask.mean() > _LARGEST:
            unusable.add(each.path)
            return None
        return photo, mask

    def another(each: Judged) -> tuple[Photograph, Mask] | None:
        """One at a time is read, however many there are."""
        start = seed_of(each) % len(pool)
        some = (other for other in (*pool[start:], *pool[:start]) if other.path != each.path)
        return next((found for other in some if (found := known(other)) is not None), None)

    found: dict[str, dict[str, Any]] = {}
    for place, each in enumerate(judged):
        own = known(each)
        other = own if own is None or fill != "shuffle" else another(each)
        if own is None or other is None:
            continue
        pictures = _pictures(*own, other, (replace, fill), seed_of(each))
        said = look.predict([own[0].rgb, *pictures])
        index = int(said.scores[0].argmax())
        best = said.scores.argmax(dim=1).tolist()
        loss = [float(said.shares[0, index] - share) for share in said.shares[1:, index]]
        found[str(place)] = {
            "flip": best[1] != index and best[2] == index,
            "control": best[2] != index,
            "drop": loss[0] - max(0.0, loss[1]),
        }
    return found


def _replaced(photo: Photograph, each: Judged, look: SecondLook, replace: str, objects: str) -> Mask | None:
    """bool [H, W]: what is replaced of a photograph."""
    if replace != BACKGROUND:
        return rectangle(replace, (photo.rgb.shape[0], photo.rgb.shape[1]))
    return background(photo, each, look, objects)


def background(photo: Photograph, each: Judged, look: SecondLook, objects: str) -> Mask | None:
    """bool [H, W]: all that is not the object; None where nothing says where that is.

    Args:
        photo: The photograph.
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


def _pictures(
    photo: Photograph, mask: Mask, other: tuple[Photograph, Mask], how: tuple[str, str], seed: int
) -> list[Picture]:
    """The exchange, and its control."""
    rgb, (replace, fill) = photo.rgb, how
    rng = np.random.default_rng(seed)
    if replace == BACKGROUND:
        own = painted_out(rgb, ~mask)
        if fill == "shuffle":
            there = painted_out(other[0].rgb, ~other[1])
            new = cv2.resize(there, (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_AREA).astype(np.uint8)
        else:
            new = filled(own, fill, rng)
        return [blended(rgb, new, mask), blended(rgb, own, mask)]
    elsewhere = moved(mask, rng)
    source = other[0].rgb if fill == "shuffle" else rgb
    resized = cv2.resize(source, (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_AREA).astype(np.uint8)
    new = resized if fill == "shuffle" else filled(rgb, fill, rng)
    return [blended(rgb, new, mask), blended(rgb, new, elsewhere)]


def painted_out(rgb: Picture, gone: Mask) -> Picture:
    """The picture with a part filled in from what surrounds it (Telea, 2004)."""
    height, width = rgb.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    shown = cv2.resize(rgb, small, interpolation=cv2.INTER_AREA)
    hole = cv2.dilate(cv2.resize(gone.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST), np.ones((5, 5)))
    filled_in = cv2.inpaint(shown, hole, 3, cv2.INPAINT_TELEA)
    large = cv2.resize(filled_in, (width, height), interpolation=cv2.INTER_LINEAR)
    found: Picture = np.where(gone[..., None], large, rgb).astype(np.uint8)
    return found


def filled(rgb: Picture, fill: str, rng: np.random.Generator) -> Picture:
    """A picture of the same size that says little: blurred, one colour, or noise of its colours."""
    if fill == "blur":
        sigma = max(rgb.shape[:2]) / 16
        return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma), dtype=np.uint8)
    mean, spread = rgb.reshape(-1, 3).mean(0), rgb.reshape(-1, 3).std(0)
    if fill == "mean":
        return np.broadcast_to(np.rint(mean).astype(np.uint8), rgb.shape).copy()
    return np.clip(rng.normal(mean, spread, rgb.shape), 0, 255).astype(np.uint8)


def blended(rgb: Picture, new: Picture, mask: Mask) -> Picture:
    """The picture with another in the place of a part, across a soft edge."""
    sigma = max(rgb.shape[:2]) / _FEATHER / 4
    weight = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)[..., None]
    return np.asarray(np.rint(rgb * (1 - weight) + new * weight), dtype=np.uint8)


def moved(mask: Mask, rng: np.random.Generator) -> Mask:
    """A rectangle of the same size elsewhere, at random; where it overlaps least of ten tries."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = int(rows[-1] - rows[0] + 1), int(cols[-1] - cols[0] + 1)
    best, least = mask, np.inf
    for _ in range(10):
        top = int(rng.integers(0, mask.shape[0] - height + 1))
        left = int(rng.integers(0, mask.shape[1] - width + 1))
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
