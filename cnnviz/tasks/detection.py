"""Detection: candidates for boxes, of which the detections are chosen, and boxes to explain."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine.box_targets import BoxTarget, ChosenBoxes, Part
from cnnviz.engine.boxes import Candidates, candidates, detections
from cnnviz.engine.readout import Readout
from cnnviz.geometry.boxes import Box
from cnnviz.records import BoxScore, DetectionScore
from cnnviz.registry.box_forms import BoxForm, DetectOptions
from cnnviz.registry.specs import MethodSpec
from cnnviz.tasks.base import Askable, Predictions, Request, SeenImage, Task, Words
from cnnviz.tasks.box_selection import BoxSelector
from cnnviz.tasks.class_names import ClassNames

_MOST = 300


@dataclass(frozen=True, eq=False)
class FoundBox:
    """A box that a detector finds.

    Attributes:
        place: Which candidate it is.
        class_index: Its class.
        score: By which boxes are ranked.
        probability, logit: Of its class, with the objectness.
        edges: x0, y0, x1, y1 as the network gives them.
        shares: Its class probabilities [K]; of an end-to-end output None.
    """

    place: int
    class_index: int
    score: float
    probability: float
    logit: float
    edges: tuple[float, float, float, float]
    shares: Tensor | None = None


@dataclass(frozen=True, eq=False)
class FoundBoxes(Predictions):
    """What a detector said about a batch, on the host.

    ``scores`` are the logits [N, K] of the best candidate of each class, ``shares`` their probabilities.

    Attributes:
        found: The detections of each image, best first.
    """

    found: tuple[tuple[FoundBox, ...], ...]


@dataclass(frozen=True, eq=False)
class Detection(Task):
    """A network that finds boxes.

    Attributes:
        classes: The classes by name.
        score: What is explained of a box: ``logit``, ``probability`` or ``log-probability``.
        form: How its output has candidates.
        options: Which of them are detections.
    """

    classes: ClassNames
    score: str
    form: BoxForm
    options: DetectOptions
    name = "detect"

    def reads(self, output: Tensor) -> FoundBoxes:
        every = candidates(output.detach(), self.form)
        usable = torch.isfinite(output.detach()).flatten(1).all(dim=1).tolist()
        least, most = self.form.least_score(self.options), self.form.most_overlap(self.options)
        chosen = detections(every, least, most)
        found = tuple(self._read(every, image, places) for image, places in enumerate(chosen))
        shares = self._best(every).cpu()
        logits = torch.logit(shares, eps=1e-7) if self.form.in_pixels else shares.clamp_min(1e-30).log()
        return FoundBoxes(logits, shares, tuple(usable), found)

    def _read(self, every: Candidates, image: int, places: Tensor) -> tuple[FoundBox, ...]:
        labels = every.labels[image : image + 1]
        columns = [
            every.ranking()[image],
            every.probability(every.labels)[image],
            every.logit(every.labels)[image],
        ]
        values = torch.stack([column[places] for column in columns], 1).cpu().double().tolist()
        boxes = every.boxes[image, places].cpu().double().tolist()
        classes, at = labels[0, places].cpu().tolist(), places.cpu().tolist()
        shares = [None] * len(at) if every.shares is None else list(every.shares[image, places].cpu())
        return tuple(
            FoundBox(place, index, score, probability, logit, (x0, y0, x1, y1), own)
            for place, index, (score, probability, logit), (x0, y0, x1, y1), own in zip(
                at, classes, values, boxes, shares, strict=True
            )
        )

    def _best(self, every: Candidates) -> Tensor:
        """The largest probability of each class among all candidates [N, K]."""
        if every.shares is not None:
            there = 1.0 if every.objectness is None else every.objectness[..., None]
            return (every.shares * there).amax(1)
        assert every.objectness is not None
        found = torch.zeros(len(every.labels), len(self.classes), device=every.labels.device)
        labels = every.labels.clamp(0, len(self.classes) - 1)
        return found.scatter_reduce(1, labels, every.objectness.float(), "amax")

    def default_target(self, output: Tensor) -> BoxTarget:
        return self.target_of([self.likeliest(output, image) for image in range(len(output))])

    def likeliest(self, output: Tensor, image: int) -> FoundBox:
        """The best candidate of an image, box or not."""
        every = candidates(output[image : image + 1].detach(), self.form)
        return self._read(every, 0, every.ranking()[0].argmax()[None])[0]

    def target_of(self, boxes: Sequence[FoundBox], part: Part = "score") -> BoxTarget:
        """The target of a batch, of one box of each image."""
        shares = [box.shares for box in boxes if box.shares is not None]
        chosen = ChosenBoxes(
            self.form,
            torch.tensor([box.place for box in boxes]),
            torch.tensor([box.class_index for box in boxes]),
            torch.tensor([box.edges for box in boxes], dtype=torch.float32),
            torch.stack(shares) if len(shares) == len(boxes) else None,
        )
        return BoxTarget(chosen, part, self.score)

    def selector(self, words: Words) -> BoxSelector:
        return BoxSelector(words, self)

    def if_nothing(self) -> str:
        return f"The network finds no box in this image{self.of_lower_scores()}."

    def of_lower_scores(self) -> str:
        """What the least score of a box is, and what to type for boxes with lower ones; empty where there are none."""
        least = self.form.least_score(self.options)
        if not least:
            return ""
        given = {"form": self.options.form, "iou": self.options.iou}
        kept = "".join(f"{name}={value}," for name, value in given.items() if value not in ("auto", None))
        lower = 0.1 if least > 0.1 else float(f"{least / 10:.1g}")
        return f" with a score of {least:g} or more; --task detect:{kept}score={lower:g} takes lower ones"

    def label(self, index: int) -> str:
        """The name of a class."""
        return self.classes.labels[index] if 0 <= index < len(self.classes) else f"class {index}"

    def on_photograph(self, box: FoundBox, item: SeenImage) -> Box:
        """A box in pixels of the photograph."""
        width, height = item.shown_size if self.form.in_pixels else (1, 1)
        x0, y0, x1, y1 = box.edges
        left, top = item.geometry.to_image(min(x0, x1), min(y0, y1), (width, height))
        right, bottom = item.geometry.to_image(max(x0, x1), max(y0, y1), (width, height))
        return Box.from_edges(left, top, right, bottom)

    def listed(self, item: SeenImage, said: Predictions, place: int, count: int) -> tuple[DetectionScore, ...]:
        """All detections, whatever the number of predictions that was asked for."""
        assert isinstance(said, FoundBoxes)
        return tuple(
            self._scored(number, box, self.on_photograph(box, item))
            for number, box in enumerate(said.found[place][:_MOST], start=1)
        )

    def askable(self, said: Predictions, place: int, count: int) -> list[Askable]:
        """The boxes, best first."""
        return [
            Askable(
                f"box:{score.number}",
                score.label,
                score.class_index,
                {"probability": score.probability, "logit": score.logit, "score": score.score},
            )
            for score in self.top(said, place, count)
        ]

    def top(self, said: Predictions, place: int, count: int) -> tuple[DetectionScore, ...]:
        assert isinstance(said, FoundBoxes)
        boxes = said.found[place][:count]
        return tuple(self._scored(n, box, Box.from_edges(*box.edges)) for n, box in enumerate(boxes, start=1))

    def _scored(self, number: int, box: FoundBox, where: Box) -> DetectionScore:
        index = box.class_index
        return DetectionScore(
            number, index, self.label(index), box.probability, box.logit, box.score, tuple(where.xywh)
        )


@dataclass(frozen=True, eq=False)
class BoxRequest(Request):
    """A box of one image.

    Attributes:
        box: The box.
        number: Its place by score, from 1.
        where: The same in pixels of the photograph.
        spec: As it was asked for.
        part: What of it is explained.
        iou: With the box that was asked for; None where none was.
    """

    detection: FoundBox
    number: int
    where: Box
    spec: str
    part: Part
    iou: float | None
    task: Detection = field(repr=False)

    @property
    def key(self) -> Hashable:
        return "box", self.part

    @property
    def readout(self) -> Readout:
        return Readout.scores()

    @property
    def slug(self) -> str:
        index = self.detection.class_index
        name = self.task.classes.slug(index) if 0 <= index < len(self.task.classes) else f"class-{index}"
        return f"box-{self.number}-{name}" + ("" if self.part == "score" else f"-{self.part}")

    @property
    def box(self) -> Box:
        return self.where

    def target(self, requests: Sequence[BoxRequest]) -> BoxTarget:
        return self.task.target_of([each.detection for each in requests], self.part)

    def facts(self, spec: MethodSpec, values: Tensor, output: Any) -> dict[str, Any]:
        return {"watched": "box"} if spec.backward == "0" and spec.class_specific else {}

    def scored(self, said: Predictions, place: int, output: Any) -> BoxScore:
        box, label = self.detection, self.task.label(self.detection.class_index)
        return BoxScore(
            spec=self.spec,
            label=label if self.part == "score" else f"{label}, {self.part}",
            score=self.value(output),
            class_index=box.class_index,
            probability=box.probability,
            logit=box.logit,
            box_xywh=tuple(self.where.xywh),
            number=self.number,
            candidate=box.place,
            part=self.part,
            iou=self.iou,
        )
