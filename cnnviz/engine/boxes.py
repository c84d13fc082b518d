"""Candidates for boxes in what a detector returns, and which of them are its detections."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.registry.box_forms import BoxForm

# FastestDet ranks its boxes by class^0.4 x objectness^0.6.
_CLASS_POWER, _OBJECT_POWER = 0.4, 0.6
# log p - log(1 - p) is taken no closer to 0 and 1 than float32 can tell them apart.
_EDGE = 1e-7
_LEAST = 1e-30


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates for boxes of a batch; differentiable.

    Attributes:
        form: What they were read from.
        boxes: [N, M, 4]: x0, y0, x1, y1 in pixels of the network's input, or (grid) in shares of its sides.
        shares: Class probabilities [N, M, K]; of an end-to-end output None.
        objectness: [N, M]; None where the network gives none. Of an end-to-end output the score.
        labels: The most probable class [N, M].
    """

    form: BoxForm
    boxes: Tensor
    shares: Tensor | None
    objectness: Tensor | None
    labels: Tensor

    def of_class(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Probability of a class [N, M] and objectness [N, M] of every candidate, 1 where there is none.

        Args:
            classes: A class for each image [N], or for each candidate [N, M].
        """
        every = classes if classes.dim() == 2 else classes[:, None].expand(self.labels.shape)
        if self.shares is None:
            assert self.objectness is not None
            return (self.labels == every).to(self.objectness), self.objectness
        share = self.shares.gather(2, every[..., None])[..., 0]
        return share, torch.ones_like(share) if self.objectness is None else self.objectness

    def probability(self, classes: Tensor) -> Tensor:
        """That a candidate is an object of a class [N, M]: class probability x objectness."""
        share, there = self.of_class(classes)
        return share * there

    def logit(self, classes: Tensor) -> Tensor:
        """log p - log(1 - p); of a grid log class probability + log objectness [N, M]."""
        share, there = self.of_class(classes)
        if self.form.name == "grid":
            return share.clamp_min(_LEAST).log() + there.clamp_min(_LEAST).log()
        return torch.logit(share * there, eps=_EDGE)

    def ranking(self) -> Tensor:
        """The score [N, M] of each candidate's own class, by which boxes are chosen."""
        share, there = self.of_class(self.labels)
        if self.form.name == "grid":
            return share.clamp_min(0) ** _CLASS_POWER * there.clamp_min(0) ** _OBJECT_POWER
        return share * there


def candidates(output: Tensor, form: BoxForm) -> Candidates:
    """All candidates of an output of this form."""
    return _read(_rows(output.float(), form), form, _cells(output, form))


def candidate(output: Tensor, form: BoxForm, places: Tensor) -> Candidates:
    """One candidate of each image, M = 1, as :func:`candidates` has it at these places [N]."""
    rows, cells = _rows(output.float(), form), _cells(output, form)
    places = rt.moved(places, output.device)
    own = rows[torch.arange(len(rows), device=rows.device), places][:, None]
    return _read(own, form, None if cells is None else tuple(each[places][:, None] for each in cells))


def _rows(output: Tensor, form: BoxForm) -> Tensor:
    """[N, M, numbers]."""
    if form.name == "grid":
        return output.flatten(2).transpose(1, 2)
    return output.transpose(1, 2) if form.name == "ultralytics" else output


def _cells(output: Tensor, form: BoxForm) -> tuple[Tensor, ...] | None:
    """Column and row of each cell of a grid [M], and its columns and rows [M]."""
    if form.name != "grid":
        return None
    height, width = output.shape[2:]
    down, across = torch.meshgrid(
        torch.arange(height, device=output.device), torch.arange(width, device=output.device), indexing="ij"
    )
    every = torch.ones(height * width, device=output.device)
    return across.flatten().float(), down.flatten().float(), every * width, every * height


def _read(rows: Tensor, form: BoxForm, cells: tuple[Tensor, ...] | None) -> Candidates:
    objectness: Tensor | None
    if form.name == "end-to-end":
        return Candidates(form, rows[..., :4], None, rows[..., 4], rows[..., 5].detach().round().long())
    if form.name == "grid":
        assert cells is not None
        column, row, width, height = cells
        middle = torch.stack(
            [(torch.tanh(rows[..., 1]) + column) / width, (torch.tanh(rows[..., 2]) + row) / height], -1
        )
        size, shares, objectness = torch.sigmoid(rows[..., 3:5]), rows[..., 5:], rows[..., 0]
    else:
        middle, size, before = rows[..., :2], rows[..., 2:4], 4 if form.name == "ultralytics" else 5
        shares, objectness = rows[..., before:], (rows[..., 4] if before == 5 else None)
    boxes = torch.cat([middle - size / 2, middle + size / 2], -1)
    return Candidates(form, boxes, shares, objectness, shares.detach().argmax(-1))


def detections(found: Candidates, score: float, iou: float | None) -> list[Tensor]:
    """The places among the candidates of each image's boxes, best first.

    A candidate whose own class scores at least ``score`` is a box, unless a better one of the class overlaps with it
    by more than ``iou``.
    """
    ranking = found.ranking().detach()
    chosen = []
    for image in range(len(ranking)):
        places = (torch.nan_to_num(ranking[image]) >= max(score, 1e-9)).nonzero()[:, 0]
        places = places[torch.sort(ranking[image, places], descending=True, stable=True).indices]
        if iou is not None and len(places):
            # Only detectors need torchvision here.
            from torchvision.ops import batched_nms

            boxes, labels = found.boxes[image, places].detach(), found.labels[image, places]
            places = places[batched_nms(boxes, ranking[image, places], labels, iou)]
        chosen.append(places)
    return chosen


def overlaps(boxes: Tensor, own: Tensor) -> Tensor:
    """Intersection over union [N, M] of the boxes [N, M, 4] of each image with one [N, 4]."""
    own = own.to(boxes)[:, None]
    shared = (torch.minimum(boxes[..., 2:], own[..., 2:]) - torch.maximum(boxes[..., :2], own[..., :2])).clamp_min(0)
    inside = shared.prod(-1)
    areas = [(each[..., 2:] - each[..., :2]).clamp_min(0).prod(-1) for each in (boxes, own)]
    union = areas[0] + areas[1] - inside
    return torch.where(union > 0, inside / union.clamp_min(1e-12), 0.0)
