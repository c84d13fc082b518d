"""What ``cnnviz synthesize`` has made from noise so far, kept image by image, so that nothing is made twice."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.errors import ImageError, counted
from cnnviz.io.decode import decode
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.line_log import LineLog
from cnnviz.io.store import Store
from cnnviz.records import PredictionScore
from cnnviz.render.grid import grid
from cnnviz.run.earlier import LINES
from cnnviz.schema.images import Figure
from cnnviz.schema.studies import synthesize as schema
from cnnviz.strict_json import to_json
from cnnviz.synthesis.ascent import as_picture
from cnnviz.synthesis.objectives import Term, objective_text

_CELL = (224, 224)
_PNG = ImageFormat("png")

Picture = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class MadeImage:
    """One image.

    Attributes:
        terms: What it maximises.
        pixels: uint8 [C, h, w] on the host.
        score: Of these pixels.
        scores: Of the views on the way, step by step.
        predictions: Of these pixels.
        frames: Pictures of the ascent; empty unless asked for.
        classes: The class at each position of these pixels [h, w]; None where the network gives one for all.
    """

    terms: tuple[Term, ...]
    pixels: Tensor
    score: float
    scores: tuple[float, ...]
    predictions: tuple[PredictionScore, ...]
    frames: tuple[Picture, ...] = ()
    classes: NDArray[np.int64] | None = None

    @property
    def rgb(self) -> Picture:
        return as_picture(self.pixels)


@dataclass(frozen=True, eq=False)
class Request:
    """One image to make: its terms, its seed, the group that it differs from."""

    terms: tuple[Term, ...]
    seed: int
    group: int


class Synthesized:
    """Images in the order in which they were asked for.

    Attributes:
        report: A row of ``synthesized`` in the report for each.
        figures: As of findings.
        pictures: The images.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.report: list[schema.Synthesized] = []
        self.figures: list[Figure] = []
        self.pictures: list[Picture] = []
        self._known: dict[str, schema.Synthesized] = {}
        self._log: LineLog | None = None

    def begin(self, resume: bool) -> None:
        """Read what an earlier run finished, if it is continued."""
        self.store.gather(LINES)
        if not resume:
            self.store.remove(LINES)
        for line in (self.store.read(LINES) or b"").splitlines():
            try:
                row = json.loads(line)
                self._known[row.pop("key")] = row
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue  # cut off, or not ours: it is made again
        self._log = self.store.open_lines(LINES)

    def find(self, key: str) -> tuple[schema.Synthesized, Picture] | None:
        """The row and the image of this key, if an earlier run finished it and its file is still there."""
        row = self._known.get(key)
        files = row.get("files") if row is not None else None
        if row is None or not isinstance(files, dict) or not all(self.store.exists(name) for name in files.values()):
            return None
        try:
            return row, decode(self.store.read(files["image"]) or b"").rgb
        except ImageError:
            return None

    def add(self, row: schema.Synthesized, picture: Picture, key: str | None = None) -> None:
        """One more image; with a key it is finished and need not be made again."""
        if key is not None and key not in self._known and self._log is not None:
            self._log.append(to_json({"key": key, **row}))
        shown = row["files"]
        self.report.append(row)
        self.figures.append({"file": shown.get("gif", shown["image"]), "caption": str(row["caption"])})
        self.pictures.append(picture)

    def close(self) -> None:
        """Write the sheet of all, where there are several."""
        if self._log is not None:
            self._log.close()
        if len(self.pictures) > 1:
            sheet = grid(self.pictures, math.ceil(math.sqrt(len(self.pictures))), _CELL)
            self.store.write("sheet.png", encode(sheet, _PNG))
            self.figures.insert(0, {"file": "sheet.png", "caption": counted(len(self.pictures), "image")})


def key_of(row: Request) -> str:
    """What an image is found again by."""
    return f"{row.seed} {objective_text(row.terms)}"
