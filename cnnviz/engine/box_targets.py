"""Targets of detectors: the score of one box, or where one of its edges lies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.boxes import Candidates, candidate, candidates, overlaps
from cnnviz.engine.targets import ByImage
from cnnviz.registry.box_forms import BoxForm

Part = Literal["score", "x0", "y0", "x1", "y1", "box"]
EDGES: tuple[Part, ...] = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True, eq=False)
class ChosenBoxes:
    """One box of each image of a batch.

    Attributes:
        form: Of the output.
        places: Which candidate it is, LongTensor [N].
        classes: LongTensor [N].
        boxes: [N, 4], where it was found: x0, y0, x1, y1 as :class:`Candidates` has them.
        shares: Its class probabilities [N, K]; of an end-to-end output None.
    """

    form: BoxForm
    places: Tensor
    classes: Tensor
    boxes: Tensor
    shares: Tensor | None = None

    def of(self, images: Tensor) -> ChosenBoxes:
        """Those of these images of the batch."""
        rows = images.to(self.places.device)
        shares = None if self.shares is None else self.shares[rows]
        return ChosenBoxes(self.form, self.places[rows], self.classes[rows], self.boxes[rows], shares)


@dataclass(frozen=True, eq=False)
class BoxTarget(ByImage):
    """The score of the candidate that became a box, before suppression, or an edge of it.

    With p its class probability x objectness: ``logit`` log p - log(1 - p) (of a grid log class probability + log
    objectness), ``probability`` p, ``log-probability`` log p. Which candidate it is stays fixed.

    Attributes:
        chosen: The boxes.
        part: ``score``; ``x0``, ``y0``, ``x1`` or ``y1``; ``box``: the sum of the four.
        score: In which unit the score is.
    """

    chosen: ChosenBoxes
    part: Part = "score"
    score: str = "logit"

    def __call__(self, output: Tensor) -> Tensor:
        own = candidate(output, self.chosen.form, self.chosen.places)
        if self.part != "score":
            return _edge(own.boxes, self.part)[:, 0]
        classes = rt.moved(self.chosen.classes, output.device)
        if self.score == "logit":
            return own.logit(classes)[:, 0]
        share, there = own.of_class(classes)
        if self.score == "probability":
            return (share * there)[:, 0]
        return (share.clamp_min(1e-30).log() + there.clamp_min(1e-30).log())[:, 0]

    @property
    def placed(self) -> bool:
        return True

    @property
    def unit(self) -> str:
        if self.part != "score":
            return "coordinate"
        grid = self.chosen.form.name == "grid"
        return "log-probability" if grid and self.score == "logit" else self.score

    @property
    def watched(self) -> FollowedBox:
        """Where the image changes, candidates change places: the box is followed."""
        return FollowedBox(self.chosen, self.part)

    def in_unit(self, unit: str) -> BoxTarget | None:
        if self.part != "score":
            return self if unit == self.unit else None
        return replace(self, score=unit)

    def of(self, images: Tensor) -> BoxTarget:
        return replace(self, chosen=self.chosen.of(images))

    def describe(self) -> dict[str, Any]:
        return _described(self.chosen, self.part, self.unit)


@dataclass(frozen=True, eq=False)
class FollowedBox(ByImage):
    """A box in changed images: max over candidates j of IoU(box_j, box) p_j, or an edge of the candidate where that is
    largest; p_j is the probability of the box's class x objectness.
    """

    chosen: ChosenBoxes
    part: Part = "score"

    def __call__(self, output: Tensor) -> Tensor:
        found = candidates(output, self.chosen.form)
        there = overlaps(found.boxes, self.chosen.boxes) * found.probability(
            rt.moved(self.chosen.classes, output.device)
        )
        if self.part == "score":
            return there.amax(1)
        places = there.argmax(1)
        return _edge(found.boxes, self.part)[torch.arange(len(places), device=places.device), places]

    @property
    def unit(self) -> str:
        return "probability" if self.part == "score" else "coordinate"

    @property
    def alike(self) -> SimilarBox:
        return SimilarBox(self.chosen)

    def of(self, images: Tensor) -> FollowedBox:
        return replace(self, chosen=self.chosen.of(images))

    def describe(self) -> dict[str, Any]:
        return _described(self.chosen, self.part, self.unit)


@dataclass(frozen=True, eq=False)
class SimilarBox(ByImage):
    """How much any candidate is like a box (Petsiuk et al., CVPR 2021, section 3.3): max over candidates j of
    IoU(box_j, box) cos(P_j, P) O_j, with P the class probabilities and O the objectness.

    A network without objectness is given its largest class probability for it: a cosine says nothing of how sure it
    is. Of an end-to-end output, which has one class for each candidate, the cosine is 1 or 0 and O is its score.
    """

    chosen: ChosenBoxes

    def __call__(self, output: Tensor) -> Tensor:
        found = candidates(output, self.chosen.form)
        return (overlaps(found.boxes, self.chosen.boxes) * self._alike(found)).amax(1)

    def _alike(self, found: Candidates) -> Tensor:
        if found.shares is None or self.chosen.shares is None:
            return found.probability(rt.moved(self.chosen.classes, found.boxes.device))
        cosine = F.cosine_similarity(found.shares, self.chosen.shares.to(found.shares)[:, None], dim=2)
        return cosine * (found.shares.amax(2) if found.objectness is None else found.objectness)

    @property
    def unit(self) -> str:
        return "similarity"

    def of(self, images: Tensor) -> SimilarBox:
        return replace(self, chosen=self.chosen.of(images))

    def describe(self) -> dict[str, Any]:
        return _described(self.chosen, "score", self.unit)


def _edge(boxes: Tensor, part: Part) -> Tensor:
    """An edge [...] of boxes [..., 4], or the sum of the four."""
    return boxes.sum(-1) if part == "box" else boxes[..., EDGES.index(part)]


def _described(chosen: ChosenBoxes, part: Part, unit: str) -> dict[str, Any]:
    return {
        "kind": "box",
        "unit": unit,
        "part": part,
        "class_index": chosen.classes.tolist(),
        "candidate": chosen.places.tolist(),
    }
