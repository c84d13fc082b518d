"""Detectors whose boxes are known, in every form that outputs have."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

SIDE, CELL = 64, 8
CLASSES = ("red", "green", "blue")
COUNT = SIDE // CELL


class _Cells(nn.Module):
    """The mean of each colour over cells of 8x8 pixels, and a mixture of neighbours that a head reads."""

    def __init__(self, seed: int = 0, channels: int = 6) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(3, 3, CELL, stride=CELL)
            self.neck = nn.Conv2d(3, channels, 3, padding=1)
            self.classes = nn.Conv2d(channels, len(CLASSES), 3, padding=1)
            self.objects = nn.Conv2d(channels, 1, 1)
            self.places = nn.Conv2d(channels, 4, 1)
        with torch.no_grad():
            self.stem.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, CELL, CELL) / CELL**2)
            self.stem.bias.zero_()  # type: ignore[union-attr]
        self.act = nn.LeakyReLU(0.1)

    def features(self, x: Tensor) -> Tensor:
        return self.act(self.neck(self.stem(x)))  # type: ignore[no-any-return]


class Grid(_Cells):
    """[N, 5 + K, h, w], as FastestDet's."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def head(self, a: Tensor) -> Tensor:
        return torch.cat([self.objects(a).sigmoid(), self.places(a), self.classes(a).softmax(1)], 1)


def _middles(a: Tensor) -> tuple[Tensor, Tensor]:
    steps = torch.arange(COUNT) * CELL + CELL / 2
    across, down = steps.expand(COUNT, COUNT), steps[:, None].expand(COUNT, COUNT)
    zero = 0 * a[:, 0]
    return across + zero, down + zero


class Rows(_Cells):
    """Boxes of 16x16 pixels and a little more or less around each cell, in the other forms."""

    def __init__(self, form: str, seed: int = 0) -> None:
        super().__init__(seed)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def head(self, a: Tensor) -> Tensor:
        across, down = _middles(a)
        place = self.places(a).tanh()
        sizes = 16 + 6 * place[:, 2:]
        box = torch.cat([torch.stack([across, down], 1) + 3 * place[:, :2], sizes], 1).flatten(2)
        shares = self.classes(a).sigmoid().flatten(2)
        there = self.objects(a).sigmoid().flatten(2)
        if self.form == "ultralytics":
            return torch.cat([box, shares], 1)
        if self.form == "yolov5":
            return torch.cat([box, there, shares], 1).transpose(1, 2)
        edges = torch.cat([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2], 1)
        best, label = shares.max(1, keepdim=True)
        return torch.cat([edges, best, label.float()], 1).transpose(1, 2)


class Pyramid(nn.Module):
    """Two levels, the second computed from the first, one head for both: [N, 4 + K, M]."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(3, 6, CELL, stride=CELL)
            self.down = nn.Conv2d(6, 6, 3, stride=2, padding=1)
            self.box, self.classes = nn.Conv2d(6, 4, 1), nn.Conv2d(6, len(CLASSES), 3, padding=1)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.act(self.stem(x))
        coarse = self.act(self.down(fine))
        return torch.cat([self._head(fine, CELL), self._head(coarse, 2 * CELL)], 2)

    def _head(self, a: Tensor, stride: int) -> Tensor:
        box, count = self.box(a).tanh(), SIDE // stride
        steps = torch.arange(count) * stride + stride / 2
        middle = torch.stack([steps[None, :].expand(count, count), steps[:, None].expand(count, count)])
        edges = torch.cat([middle + box[:, :2], 2 * stride + box[:, 2:]], 1)
        return torch.cat([edges, self.classes(a).sigmoid()], 1).flatten(2)


class TwoMaps(nn.Module):
    """A backbone as torchvision's: a mapping of maps, the second computed from the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, CELL, stride=CELL)
        self.down = nn.Conv2d(6, 6, 3, stride=2, padding=1)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        fine = self.act(self.stem(x))
        return OrderedDict([("0", fine), ("pool", self.act(self.down(fine)))])


class Listed(nn.Module):
    """torchvision's form: a list of boxes, scores and labels from 1, of which there may be none."""

    def __init__(self, seed: int = 0, least: float = 0.5) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.backbone = TwoMaps()
            self.box, self.classes = nn.Conv2d(6, 4, 1), nn.Conv2d(6, len(CLASSES), 3, padding=1)
        self.least, self.detections_per_img = least, 40

    def rows(self, maps: Any) -> Tensor:
        """[N, M, 6], the labels from 1, in the order of the candidates."""
        found = []
        for a in maps:
            count = a.shape[-1]
            stride = SIDE // count
            box, steps = self.box(a).tanh(), torch.arange(count) * stride + stride / 2
            middle = torch.stack([steps.expand(count, count), steps[:, None].expand(count, count)]) + box[:, :2]
            half = stride + box[:, 2:] / 2
            best, label = self.classes(a).sigmoid().max(1, keepdim=True)
            found.append(torch.cat([middle - half, middle + half, best, label.float() + 1], 1).flatten(2))
        return torch.cat(found, 2).transpose(1, 2)

    def forward(self, images: Any) -> list[dict[str, Tensor]]:
        found = []
        for rows in self.rows(self.backbone(torch.stack(list(images))).values()):
            kept = rows[rows[:, 4] >= self.least]
            found.append({"boxes": kept[:, :4], "scores": kept[:, 4], "labels": kept[:, 5].long()})
        return found


def grid() -> Grid:
    return Grid(1).eval()


def rows(form: str, seed: int = 1) -> Rows:
    return Rows(form, seed).eval()


def ultralytics() -> Rows:
    return rows("ultralytics")


def yolov5() -> Rows:
    return rows("yolov5")


def end_to_end() -> Rows:
    return rows("end-to-end")


def pyramid() -> Pyramid:
    return Pyramid(1).eval()


def listed() -> Listed:
    return Listed(1, 0.3).eval()


def images(count: int = 2) -> Tensor:
    """Coloured rectangles on noise."""
    generator = torch.Generator().manual_seed(4)
    found = 0.3 * torch.rand((count, 3, SIDE, SIDE), generator=generator)
    found[:, 0, 8:32, 8:32] += 2
    found[:, 2, 40:56, 24:56] += 1.5
    if count > 1:
        found[1] = found[1].flip(-1)
    return found
