"""Which classes the network takes images for, by what they show: counted record by record."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cnnviz.schema.images import AnyImage, Image

if TYPE_CHECKING:
    from cnnviz.schema.confusion import Confusion, ConfusionCell, NamedClass
    from cnnviz.schema.targets import Prediction

_NAMED = 20


class ConfusionCount:
    """Counts images by true class and predicted class; of each pair it keeps the names of the first 20."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], ConfusionCell] = {}
        self.correct = self.wrong = 0

    def count(self, record: AnyImage) -> None:
        """Take in a finished record; one without an outcome counts nowhere."""
        outcome = record.get("outcome")
        if outcome is None:
            return
        own = cast("Image", record)
        predicted = own["predictions"][0]
        # Of several classes that an image has, the one that the network thinks likeliest; where it is right, that one.
        true = predicted if outcome == "correct" else own["true_classes"][0]
        self.correct += outcome == "correct"
        self.wrong += outcome == "wrong"
        key = true["class_index"], predicted["class_index"]
        cell = self._cells.setdefault(
            key, {"truth": _named(true), "predicted": _named(predicted), "images": 0, "names": []}
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
