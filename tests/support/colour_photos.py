"""Pictures whose maps are known, for the network that sees colours, and runs on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnviz.cli.app import main
from tests.support import colour_network
from tests.support.colour_network import CLASSES, SIDE

MODEL = [
    "-m", f"{colour_network.__file__}:make", "--input-size", str(SIDE), "--resize", str(SIDE),
    "--mean", "0,0,0", "--std", "1,1,1",
]  # fmt: skip
# Label, box x, y, width, height: multiples of the network's cells.
SQUARES = {"a.png": ("red", (8, 16, 24, 16)), "b.png": ("blue", (32, 0, 16, 32)), "c.png": ("green", (0, 40, 64, 24))}


def write_photos(folder: Path) -> Path:
    """Black pictures with a coloured rectangle each; beside their folder COCO annotations and the names of classes."""
    folder.mkdir()
    for name, (label, (x, y, w, h)) in SQUARES.items():
        rgb = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        rgb[y : y + h, x : x + w, CLASSES.index(label)] = 255
        Image.fromarray(rgb).save(folder / name)
    (folder.parent / "labels.txt").write_text("\n".join(CLASSES))
    write_truth(folder.parent / "truth.json", {name: label for name, (label, _) in SQUARES.items()})
    return folder


def write_truth(path: Path, labels: dict[str, str]) -> None:
    names = sorted(set(labels.values()))
    path.write_text(
        json.dumps(
            {
                "images": [{"id": i, "file_name": n, "width": SIDE, "height": SIDE} for i, n in enumerate(labels)],
                "categories": [{"id": i, "name": n} for i, n in enumerate(names)],
                "annotations": [
                    {"id": i, "image_id": i, "category_id": names.index(label), "bbox": list(SQUARES[name][1])}
                    for i, (name, label) in enumerate(labels.items())
                ],
            }
        )
    )


def run(command: str, photos: Path, out: Path, *options: str) -> dict[str, Any]:
    """The report of a command on these pictures, by the network that sees colours."""
    labels = str(photos.parent / "labels.txt")
    arguments = [command, str(photos), *MODEL, "--labels", labels, "-o", str(out), "-q", *options]
    assert main(arguments) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report
