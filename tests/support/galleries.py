"""Galleries for tests: runs written down by hand, with pictures of plain colours, and rows by the thousand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cnnviz.io.store import Store
from cnnviz.report.gallery import Gallery
from cnnviz.run.gallery import GalleryRun, write_gallery

CLASSES = ("cat", "dog", "red fox")
METHODS = ("gradcam", "saliency")


def record(number: int, methods: Sequence[str] = METHODS[:1]) -> dict[str, Any]:
    """A record of an image: every fifth is wrong, its energy is its number in thousandths."""
    truth, predicted = CLASSES[number % 3], CLASSES[(number + (number % 5 == 0)) % 3]
    predictions = [
        {"class_index": CLASSES.index(name), "label": name, "probability": share, "logit": 1.0}
        for name, share in ((predicted, 0.6 + (number % 40) / 100), (CLASSES[(number + 2) % 3], 0.01))
    ]
    explanations = [
        {
            "method": method,
            "layer": "layer4",
            "target": each,
            "files": {"overlay": f"images/{number % 8}.{method}.{place}.png"},
            "scores": {"energy": (number + 500 * place + 250 * (method == "saliency")) / 1000, "peak": [1, 2]},
        }
        for method in methods
        for place, each in enumerate(predictions)
    ]
    return {
        "path": f"photos/{truth}/{number:05d}.png", "name": f"{number:05d}.png", "width": 60, "height": 40,
        "label": truth, "predictions": predictions, "explanations": explanations, "error": None,
        "outcome": "correct" if truth == predicted else "wrong",
        "true_classes": [{"class_index": CLASSES.index(truth), "label": truth}],
    }  # fmt: skip


def failed(path: str) -> dict[str, Any]:
    """A record of an image that could not be read."""
    error = {"type": "truncated", "message": "the JPEG ends early"}
    return {"path": path, "name": path, "width": None, "height": None, "predictions": [], "explanations": [],
            "error": error}  # fmt: skip


def confusion(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The table of these records."""
    pairs: dict[tuple[str, str], list[str]] = {}
    for row in records:
        if "true_classes" in row:
            pair = (row["true_classes"][0]["label"], row["predictions"][0]["label"])
            pairs.setdefault(pair, []).append(row["name"])

    def named(name: str) -> dict[str, Any]:
        return {"class_index": CLASSES.index(name), "label": name}

    cells = [
        {"truth": named(a), "predicted": named(b), "images": len(names), "names": names[:20]}
        for (a, b), names in sorted(pairs.items())
    ]
    wrong = sum(len(names) for (a, b), names in pairs.items() if a != b)
    every = sum(map(len, pairs.values()))
    return {"images": every, "correct": every - wrong, "wrong": wrong, "cells": cells}


def write_pictures(folder: Path, methods: Sequence[str] = METHODS) -> None:
    """Overlays (blue) and photographs (red) that the records name."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "photos").mkdir(exist_ok=True)
    for number in range(8):
        cv2.imwrite(str(folder / "photos" / f"{number}.png"), np.full((40, 60, 3), (0, 0, 255), np.uint8))
        for method in methods:
            for place in range(2):
                picture = np.full((40, 60, 3), (255, 40 * place, 80 * METHODS.index(method)), np.uint8)
                cv2.imwrite(str(folder / "images" / f"{number}.{method}.{place}.png"), picture)


def photo(row: Any) -> str | None:
    """The photograph of a record of :func:`record`."""
    return None if row["error"] else f"photos/{int(row['name'][:5]) % 8}.png"


def gallery(folder: Path, records: Sequence[dict[str, Any]], **more: Any) -> Path:
    """A page of one run."""
    write_pictures(folder)
    head = Gallery("cnnviz gradcam", "cnnviz gradcam photos", "resnet18", [("images", str(len(records)))])
    told = {"confusion": confusion(records), "photo": photo, **more}
    run = GalleryRun(head, records, "cnnviz gradcam photos --class 'top:2'", **told)
    write_gallery(Store(str(folder)), "cnnviz gradcam", [run])
    return folder / "index.html"


def many(count: int) -> Iterator[dict[str, Any]]:
    """Records by the thousand."""
    return (record(number) for number in range(count))


def write_run(folder: Path, records: Sequence[dict[str, Any]], **more: Any) -> Path:
    """The output folder of a finished run, as a run leaves it but for its page."""
    write_pictures(folder)
    report = {
        "schema": "cnnviz.report/1", "cnnviz": "0", "command": "gradcam", "options": {"inputs": ["photos"]},
        "command_line": "cnnviz gradcam photos", "model": {"name": "resnet18", "weights": "none"},
        "summary": {"inputs": len(records), "explained": len(records), "failed": 0},
        "confusion": confusion(records), **more,
    }  # fmt: skip
    head = json.dumps(report, indent=2)
    lines = [json.dumps(row) for row in records]
    body = ",\n".join(f"    {line}" for line in lines)
    (folder / "report.json").write_text(head[: head.rindex("\n}")] + f',\n  "images": [\n{body}\n  ]\n}}\n')
    (folder / "records.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder
