"""Whether maps of a detector's boxes lie on their boxes, and whether boxes of one class have maps of their own.

    python -m benchmarks.detections PHOTOS --json FILE -m DETECTOR.onnx ... [--layer NAME] [--name WORDS]

What is not an option of this script is handed to the command. Of every box that covers 2 to 40 % of its photograph: the
share of the map's positive values inside it, and whether its largest value is; the shares of the boxes themselves are
what chance gives. Of every two such boxes of one class in one photograph: the correlation of their maps, and that of
the boxes filled with ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import load, save
from cnnviz.cli.app import main as cnnviz
from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import place
from cnnviz.metrics.intervals import bootstrap_mean

Map = NDArray[np.float32]
METHODS = {
    "odam": ["gradcam", "--variant", "odam"],
    "odam:sigma=0": ["gradcam", "--variant", "odam", "--sigma", "0"],
    "odam:sigma=0.25": ["gradcam", "--variant", "odam", "--sigma", "0.25"],
    "odam:sigma=1": ["gradcam", "--variant", "odam", "--sigma", "1"],
    "odam:sigma=2": ["gradcam", "--variant", "odam", "--sigma", "2"],
    "hirescam": ["gradcam", "--variant", "hirescam"],
    "gradcam": ["gradcam", "--variant", "gradcam"],
    "layercam": ["gradcam", "--variant", "layercam"],
    "eigencam": ["gradcam", "--variant", "eigencam"],
}
SMALLEST, LARGEST = 0.02, 0.4


def maps_of(command: list[str], options: list[str]) -> list[dict[str, Any]]:
    """Of each box that is neither small nor large: its image, class, pixels, map on the photograph, and layer."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        run = [*command, *options, "-c", "all", "-o", folder, "--save", "raw", "-q"]
        if (code := cnnviz(run)) not in (0, 3):
            raise SystemExit(f"{' '.join(command)}: exit code {code}")
        for line in (Path(folder) / "records.jsonl").read_text().splitlines():
            record = json.loads(line)
            size = record["width"], record["height"]
            for row in record["explanations"]:
                rows, columns = Box(*row["target"]["box_xywh"]).pixels(size)
                inside = np.zeros((size[1], size[0]), dtype=bool)
                inside[rows, columns] = True
                if not SMALLEST <= inside.mean() <= LARGEST:
                    continue
                with np.load(Path(folder) / row["files"]["raw"]) as stored:
                    placed = place(stored["raw"], tuple(stored["rect"].tolist()), size, signed=False)
                found.append(
                    {
                        "image": record["path"],
                        "class": row["target"]["class_index"],
                        "inside": inside[::4, ::4],
                        "map": placed.values[::4, ::4].clip(0, None),
                        "peak": inside.flat[int(placed.values.argmax())],
                        "layer": row["layer"],
                    }
                )
    return found


def figures(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Energy and peak in the box, and what siblings have in common."""
    images = [each["image"] for each in found]
    energy = [float(each["map"][each["inside"]].sum() / max(each["map"].sum(), 1e-30)) for each in found]
    siblings = defaultdict(list)
    for each in found:
        siblings[each["image"], each["class"]].append(each)
    pairs = [pair for group in siblings.values() for pair in itertools.combinations(group, 2)]
    alike = [_correlation(one["map"], other["map"]) for one, other in pairs]
    boxes = [_correlation(one["inside"], other["inside"]) for one, other in pairs]
    return {
        "layers": sorted({str(each["layer"]) for each in found}),
        "boxes": len(found),
        "photographs": len({each["image"] for each in found}),
        "area": round(float(np.mean([each["inside"].mean() for each in found])), 4),
        "energy": _mean(energy, images),
        "peak": _mean([float(each["peak"]) for each in found], images),
        "siblings": len(pairs),
        "sibling_correlation": _mean(alike, [one["image"] for one, _ in pairs]),
        "sibling_boxes_correlation": _mean(boxes, [one["image"] for one, _ in pairs]),
    }


def _halves(found: list[dict[str, Any]]) -> list[tuple[dict[str, str], list[dict[str, Any]]]]:
    """The boxes of every second photograph by name, to choose on; and those of the others, to report on."""
    second = set(sorted({each["image"] for each in found})[1::2])
    return [
        ({"half": half}, [each for each in found if (each["image"] in second) == (half == "chosen on")])
        for half in ("chosen on", "reported on")
    ]


def _mean(values: list[float], images: list[str]) -> list[float]:
    """The mean and its 95 % interval, which draws whole photographs."""
    low, high = bootstrap_mean(values, images) or (float("nan"), float("nan"))
    return [round(float(np.mean(values)), 4), round(low, 4), round(high, 4)]


def _correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    a, b = (each.astype(np.float64).ravel() - each.mean() for each in (one, other))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--json", required=True)
    parser.add_argument("--name", default="", help="what the rows are of: network, photographs, layer")
    parser.add_argument("--halves", action="store_true", help="every second photograph by name apart from the others")
    given, options = parser.parse_known_args()
    rows = [row for row in load(given.json) if row["name"] != given.name]
    for method in given.methods:
        found = maps_of(METHODS[method], options)
        for half, some in _halves(found) if given.halves else [({}, found)]:
            row = {"name": given.name, "method": method, **half, **figures(some)}
            rows.append(row)
            save(given.json, rows)
            print(row, flush=True)


if __name__ == "__main__":
    main()
