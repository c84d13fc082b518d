"""Is the default layer of a segmentation network a good one: is its map more than the class's score map, and inside?

    python -m benchmarks.segmentation PHOTOS --model deeplab.onnx --labels voc.txt --input-size 513 --mean 0.5,0.5,0.5 \
        --std 0.5,0.5,0.5 --json benchmarks/results/segmentation.json

Every class that the network finds on 2 to 40 % of a photograph (not the background) is explained where it is found.
For each map: its correlation with the positive part of the class's scores, and its energy inside the region over the
region's share of the area (1 is chance).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cnnviz
from benchmarks.timing import load, machine, save
from cnnviz.geometry.placement import place
from cnnviz.metrics.intervals import bootstrap_mean
from cnnviz.tasks.segmentation import class_map_correlation

METHODS = ("gradcam", "hirescam", "layercam", "eigencam")


def rows_of(model: cnnviz.Model, photos: list[Path], layer: str | None) -> dict[str, list[dict[str, float]]]:
    """For each method a row a class of a photograph."""
    from PIL import Image

    found: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for path in photos:
        with Image.open(path) as picture:
            batch = model.transform(picture)[None]
        scores = cnnviz.explain(model, batch, "gradcam", target="class:0@all", layer=layer).logits[0]
        labels = scores.argmax(0)
        for index in labels.unique().tolist():
            inside = labels == index
            area = float(inside.float().mean())
            if model.labels[index] == "background" or not 0.02 <= area <= 0.4:
                continue
            for method in METHODS:
                made = cnnviz.explain(model, batch, method, target=f"class:{index}", layer=layer)
                height, width = labels.shape
                placed = place(made.raw[0].numpy(), (0, 0, width, height), (width, height), signed=False)
                values = np.maximum(placed.values, 0)
                energy = float(values[inside.numpy()].sum() / values.sum()) if values.sum() > 0 else 0.0
                same = class_map_correlation(made.raw[0], scores[index])
                found[method].append({"image": hash(path.name), "correlation": same, "energy": energy, "area": area})
    return found


def summed(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Means over regions, with intervals that draw whole images."""
    images = [row["image"] for row in rows]
    ratio = [row["energy"] / row["area"] for row in rows]
    figures = {"correlation": [row["correlation"] for row in rows], "energy": [row["energy"] for row in rows]}
    figures |= {"area": [row["area"] for row in rows], "energy_over_area": ratio}
    return {
        name: {"mean": round(float(np.mean(values)), 4), "ci95": bootstrap_mean(values, images)}
        for name, values in figures.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", default="")
    parser.add_argument("--labels")
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--mean")
    parser.add_argument("--std")
    parser.add_argument("--layer", default=None)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--json", required=True)
    given = parser.parse_args()
    torch.set_num_threads(2)
    numbers = {
        name: tuple(map(float, getattr(given, name).split(","))) for name in ("mean", "std") if getattr(given, name)
    }
    size = {"input_size": (3, given.input_size, given.input_size)} if given.input_size else {}
    model = cnnviz.load_model(given.model, labels=given.labels, view="squash", **numbers, **size)
    photos = sorted(path for path in Path(given.photos).rglob("*") if path.suffix in {".jpg", ".png"})[: given.limit]
    found = rows_of(model, photos, given.layer)
    layer = given.layer or "default"
    rows = [row for row in load(given.json) if (row["name"], row["layer"]) != (given.name, layer)]
    for method, own in found.items():
        figures = summed(own)
        of_run = {"photographs": len(photos), "regions": len(own), **machine()}
        rows.append({"name": given.name, "layer": layer, "method": method, **figures, **of_run})
        print(method, {name: value["mean"] for name, value in figures.items()}, len(own))
    save(given.json, rows)


if __name__ == "__main__":
    main()
