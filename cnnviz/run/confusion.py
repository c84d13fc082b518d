"""Which classes the network takes images for, by what they show: counted record by record."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cnnviz.schema.images import AnyImage, Image

if TYPE_CHECKING:
    from cnnviz.schema.confusion import Confusion, ConfusionCell, NamedClass, ShownClass
    from cnnviz.schema.targets import Prediction

_NAMED = 20


class ConfusionCount:
    """Counts images by true class and predicted class; of each pair it keeps the names of the first 20.

    Where classes are known by what is marked, which may mean several, what is marked stands in the place of the class.
    """

    def __init__(self) -> None:
        self._cells: dict[tuple[int, str, int], ConfusionCell] = {}
        self.correct = self.wrong = 0

    def count(self, record: AnyImage) -> None:
        """Take in a finished record; one without an outcome counts nowhere."""
        outcome = record.get("outcome")
        if outcome is None:
            return
        own = cast("Image", record)
        predicted = own["predictions"][0]
        right = outcome == "correct"
        # Of several classes that an image has, the one that the network thinks likeliest; where it is right, that one.
        true = own["true_classes"][0]
        mark = next(iter(own.get("true_marks", [[]])[0]), None)
        shown = predicted if right else true
        truth: ShownClass = {"class_index": shown["class_index"], "label": shown["label"]}
        if mark is not None:
            truth = {"class_index": None, "label": mark}
        self.correct += right
        self.wrong += not right
        index = truth["class_index"]
        known = (-1, truth["label"]) if index is None else (index, "")
        key = (*known, predicted["class_index"])
        cell = self._cells.setdefault(
            key, {"truth": truth, "predicted": _named(predicted), "correct": right, "images": 0, "names": []}
        )
        cell["images"] += 1
        if len(cell["names"]) < _NAMED:
            cell["names"].append(own["name"])

    def to_dict(self) -> Confusion | None:
        """As the report has it; None where no image was judged."""
        if not self._cells:
            return None
        cells = [self._cells[key] for key in sorted(self._cells)]
        return {"images": self.correct + self.wrong, "correct": self.correct, "wrong": self.wrong, "cells": cells}


def _named(score: Prediction) -> NamedClass:
    return {"class_index": score["class_index"], "label": score["label"]}
