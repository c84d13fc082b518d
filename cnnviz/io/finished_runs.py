"""Output folders of runs that have ended, read back: the report's head, the records one by one, the maps."""

from __future__ import annotations

import io
import json
import os
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnviz.errors import CnnvizError
from cnnviz.io.reports import read_report
from cnnviz.records import parse_line

_REPORT, _RECORDS = "report.json", "records.jsonl"
_HALF, _NEUTRAL, _WHITE = np.float32(127), np.float32(128), np.float32(255)


@dataclass(frozen=True, eq=False)
class KeptMap:
    """A map of a run.

    Attributes:
        values: [h, w] float32; of gradients in colours the largest magnitude of the channels.
        signed: Whether negative values have a meaning.
        rect: x0, y0, x1, y1 of the part of the image that it covers, in pixels of the image.
        exact: Whether these are the method's own values; else they come from a picture of 8 bits, divided by their
            maximum.
    """

    values: NDArray[np.float32]
    rect: tuple[float, float, float, float]
    exact: bool
    signed: bool


def run_folder_of(text: str) -> str | None:
    """The folder of a run that a path names, itself or by its ``report.json``; None where it names something else."""
    folder = os.path.dirname(text) or "." if os.path.basename(text) == _REPORT else text
    if not os.path.isfile(os.path.join(folder, _REPORT)):
        return None
    try:
        read_report(folder, "")
    except CnnvizError:
        return None
    return folder


class FinishedRun:
    """The folder of a run that has ended. Of its records only their places are kept.

    Args:
        path: The folder, or the ``report.json`` in it.
        flag: What named it, for messages.

    Attributes:
        folder: Where it lies.
        report: Its report without the records.

    Raises:
        CnnvizError: The path does not lead to a run, or the run has not ended.
    """

    def __init__(self, path: str, flag: str) -> None:
        self.folder = os.path.dirname(path) or "." if os.path.isfile(path) else path
        self.report: Mapping[str, Any] = {**read_report(path, flag), "images": []}
        if self.report["summary"].get("finished") is False:
            raise CnnvizError(f"{flag} {path}: that run has not ended.", "Continue it with --resume first.")
        self._offsets = array("q")
        try:
            self._stream = open(os.path.join(self.folder, _RECORDS), "rb")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            message = f"{flag} {path}: {_RECORDS} beside its report cannot be read ({error.strerror})."
            raise CnnvizError(message, "Give the whole folder of the run.") from error
        offset = 0
        for line in self._stream:
            if parse_line(line) is not None:
                self._offsets.append(offset)
            offset += len(line)

    def __enter__(self) -> FinishedRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __len__(self) -> int:
        return len(self._offsets)

    def record(self, number: int) -> Mapping[str, Any]:
        """Record ``number``, in input order."""
        self._stream.seek(self._offsets[number])
        found: Mapping[str, Any] = json.loads(self._stream.readline())
        return found

    def records(self) -> Iterator[Mapping[str, Any]]:
        """All records, in input order."""
        return (self.record(number) for number in range(len(self)))

    def map_of(self, explanation: Mapping[str, Any], size: tuple[int, int], signed: bool) -> KeptMap | None:
        """The map of an explanation: exact where it was saved (``--save raw``), else from its picture in grey.

        Args:
            explanation: As a record has it.
            size: (W, H) of the image.
            signed: Whether negative values of the method's maps have a meaning.

        Returns:
            None where neither was saved, or what is there is no map.
        """
        files = explanation.get("files") or {}
        for kind, read in (("raw", _raw), ("heatmap", _picture)):
            data = self._read(files[kind]) if kind in files else None
            found = None if data is None else read(data, size, signed)
            if found is not None:
                return found
        return None

    def _read(self, name: str) -> bytes | None:
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts):
            return None
        try:
            with open(os.path.join(self.folder, *parts), "rb") as stream:
                return stream.read()
        except (OSError, ValueError):
            return None


def predicted_classes(folder: str, flag: str) -> dict[str, tuple[str, int]]:
    """Label and index of the class that a run predicts for each image, by the name and the path of its record.

    Raises:
        CnnvizError: As :class:`FinishedRun`.
    """
    found: dict[str, tuple[str, int]] = {}
    with FinishedRun(folder, flag) as run:
        for record in run.records():
            first = next(iter(record.get("predictions") or ()), None)
            if first is not None and "class_index" in first:
                found[record["path"]] = found[record["name"]] = (str(first["label"]), int(first["class_index"]))
    return found


def _raw(data: bytes, size: tuple[int, int], signed: bool) -> KeptMap | None:
    try:
        with np.load(io.BytesIO(data)) as stored:
            raw = np.asarray(stored["raw"], dtype=np.float32)
            rect = [float(edge) for edge in stored["rect"]] if "rect" in stored.files else [0.0, 0.0, *map(float, size)]
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        return None
    values = np.abs(raw).max(axis=0) if raw.ndim == 3 else raw
    if values.ndim != 2 or not values.size or not np.isfinite(values).all() or len(rect) != 4:
        return None
    return KeptMap(values, (rect[0], rect[1], rect[2], rect[3]), True, signed and raw.ndim == 2)


def _picture(data: bytes, size: tuple[int, int], signed: bool) -> KeptMap | None:
    """From 8 bits: zero is 0, or 128 of a map that is signed; what was not seen is transparent."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            pixels = np.asarray(picture.convert("LA"))
    except (OSError, ValueError):
        return None
    rows, columns = (np.flatnonzero((pixels[..., 1] > 0).any(axis=axis)) for axis in (1, 0))
    if not len(rows) or pixels.shape[:2] != (size[1], size[0]):
        return None
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    grey = pixels[top:bottom, left:right, 0].astype(np.float32)
    values = (grey - _NEUTRAL) / _HALF if signed else grey / _WHITE
    return KeptMap(values, (float(left), float(top), float(right), float(bottom)), False, signed)
