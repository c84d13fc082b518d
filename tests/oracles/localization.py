"""The metrics of localization written anew: flood fill, every threshold by itself, every pixel by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np

Edges = tuple[float, float, float, float]


def flood(mask: np.ndarray) -> Iterator[tuple[Edges, int]]:
    """Box and pixels of each 8-connected region, in reading order of their first pixels."""
    left = mask.copy()
    for start in zip(*np.nonzero(mask), strict=True):
        if not left[start]:
            continue
        left[start] = False
        todo, own = [start], []
        while todo:
            y, x = todo.pop()
            own.append((y, x))
            for b in range(max(0, y - 1), min(mask.shape[0], y + 2)):
                for a in range(max(0, x - 1), min(mask.shape[1], x + 2)):
                    if left[b, a]:
                        left[b, a] = False
                        todo.append((b, a))
        rows, columns = [y for y, _ in own], [x for _, x in own]
        yield (min(columns), min(rows), max(columns) + 1, max(rows) + 1), len(own)


def around(mask: np.ndarray, x: int, y: int) -> Edges:
    """Box of the region of a pixel, grown ring by ring."""
    own = np.zeros_like(mask)
    own[y, x] = True
    while True:
        wide = np.pad(own, 1)
        near = [wide[b : b + mask.shape[0], a : a + mask.shape[1]] for a in range(3) for b in range(3)]
        more = np.any(near, axis=0) & mask
        if (more == own).all():
            rows, columns = np.nonzero(own)
            return float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1
        own = more


def share(values: np.ndarray) -> np.ndarray:
    """Of the maximum, in float64; zero where there is nothing above zero."""
    highest = float(values.max())
    return np.maximum(values.astype(np.float64), 0) / highest if highest > 0 else np.zeros(values.shape)


def iou(one: Sequence[float], two: Sequence[float], more: float = 0.0) -> float:
    """Of two boxes by their edges; ``more`` is added to every length."""
    width = min(one[2], two[2]) - max(one[0], two[0]) + more
    height = min(one[3], two[3]) - max(one[1], two[1]) + more
    common = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0] + more) * (box[3] - box[1] + more) for box in (one, two)]
    return common / (sum(areas) - common)


def fits(values: np.ndarray, truths: Sequence[Edges], needed: float, *, every: bool) -> list[int]:
    """k of each threshold k / 256 above which the largest region, or any, has that IoU with a true box."""
    found = []
    for k in range(255):
        regions = list(flood(share(values) > k / 256))
        if not every:
            regions = sorted(regions, key=lambda each: (-each[1], each[0][1], each[0][0]))[:1]
        if any(iou(box, truth) >= needed for box, _ in regions for truth in truths):
            found.append(k)
    return found


def wsol_fits(
    cells: np.ndarray, truths: Sequence[Edges], size: tuple[int, int], needed: float, *, every: bool
) -> list[float]:
    """The thresholds 0, 0.001, ... that fit in the evaluation of Choe et al., read there and written anew."""
    cam = cv2.resize(cells.astype(np.float64), (224, 224), interpolation=cv2.INTER_CUBIC)
    cam = np.zeros_like(cam) if cam.min() == cam.max() else (cam - cam.min()) / (cam - cam.min()).max()
    grey = np.floor(cam * 255).astype(np.uint8)
    scaled = [tuple(int(edge * 224 / size[axis % 2]) for axis, edge in enumerate(truth)) for truth in truths]
    found = []
    for threshold in np.arange(0, 1, 0.001):
        mask = np.where(grey > int(threshold * grey.max()), 255, 0).astype(np.uint8)
        contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        if contours and not every:
            contours = [max(contours, key=cv2.contourArea)]
        boxes = []
        for contour in contours:
            x, y, w, h = cv2.boundingRect(contour)
            boxes.append((x, y, min(x + w, 223), min(y + h, 223)))
        if any(iou(box, truth, 1.0) >= needed for box in boxes or [(0, 0, 0, 0)] for truth in scaled):
            found.append(float(threshold))
    return found


def first_maximum(values: np.ndarray) -> tuple[int, int]:
    """x, y of the first pixel, row by row, that is largest."""
    best = (0, 0)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            if values[y, x] > values[best[1], best[0]]:
                best = (x, y)
    return best


def average_precision(maps: Sequence[np.ndarray], masks: Sequence[np.ndarray], counted: Sequence[np.ndarray]) -> float:
    """Of all pixels of all maps, in the steps of their shares of the maximum in 256ths."""
    scores = np.concatenate(
        [np.ceil(share(each) * 256).clip(max=255)[use] for each, use in zip(maps, counted, strict=True)]
    )
    inside = np.concatenate([mask[use] for mask, use in zip(masks, counted, strict=True)])
    total, before, found = inside.sum(), 0.0, 0.0
    for level in sorted(set(scores.tolist()), reverse=True):
        above = scores >= level
        recall = inside[above].sum() / total
        found += inside[above].mean() * (recall - before)
        before = recall
    return float(found)


def image_error(maps: Sequence[dict[str, Any]], guesses: int) -> float:
    """ILSVRC: the minimum over the guesses of "label wrong, or IoU below 0.5"."""
    errors = [max(float(not each["true"]), float(each["iou"] < 0.5)) for each in maps if each["rank"] <= guesses]
    return min(errors)
