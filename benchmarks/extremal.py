"""What the best tenth of a photograph keeps of the score: extremal perturbation beside Grad-CAM and chance.

    python -m benchmarks.extremal PHOTOS --boxes instances.json --json benchmarks/results/extremal.json

PHOTOS is a folder. With ``--boxes``, a COCO file of boxes by file name, photographs in it are asked for the likeliest
class that fits one of their categories (of ``FITTING``), if its probability is at least 0.1, and left out otherwise;
other photographs are asked for their first prediction. Of each map the tenth of the pixels with the largest values
stays sharp, and everything else is blurred as ``extremal`` blurs it; ``inside`` is the share of that tenth within the
boxes, and that of chance is the boxes' share of what the network sees.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import cnnviz
from benchmarks.timing import machine, save
from cnnviz.geometry.boxes import Box
from cnnviz.io.annotation_formats import read_coco
from cnnviz.io.sources import ImageRef
from cnnviz.methods.perturbation.extremal import blur_pyramid, perturb
from cnnviz.models.preprocess import normalize, prepare

FITTING: dict[str, tuple[int, ...]] = {
    "dog": tuple(range(151, 269)), "cat": tuple(range(281, 286)), "zebra": (340,), "elephant": (101, 385, 386),
    "bird": (*range(7, 25), *range(80, 101), *range(127, 147)), "bear": (294, 295, 296, 297), "horse": (339,),
    "sheep": (348, 349), "cow": (345, 346), "airplane": (404, 895), "bus": (654, 779, 874), "train": (466, 547, 820),
    "truck": (555, 569, 675, 717, 864, 867), "boat": (472, 484, 554, 576, 625, 814, 871, 914), "traffic light": (920,),
    "parking meter": (704,), "bench": (703,), "umbrella": (879,), "tie": (457, 906), "laptop": (620, 681),
    "mouse": (673,), "keyboard": (508, 810), "cell phone": (487,), "microwave": (651,), "toaster": (859,),
    "refrigerator": (760,), "clock": (409, 530, 892), "vase": (883,), "teddy bear": (850,), "banana": (954,),
    "orange": (950,), "broccoli": (937,), "hot dog": (934,), "pizza": (963,), "bicycle": (444, 671),
    "motorcycle": (665, 670), "car": (436, 468, 511, 609, 627, 656, 661, 751, 817), "couch": (831,), "toilet": (861,),
    "tv": (851,), "remote": (761,), "tennis racket": (752,), "skis": (795,), "backpack": (414,), "stop sign": (919,),
    "bottle": (440, 737, 898, 907), "cup": (504, 967, 968), "suitcase": (414, 636, 748), "bed": (564, 750, 831),
    "sports ball": (522, 574, 768, 805, 852),
}  # fmt: skip
"""Classes of ImageNet (0–999) that fit a category of COCO."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """What the network sees [C, H, W], normalised; the class asked for; where its objects are, [H, W], or None."""

    name: str
    pixels: Tensor
    target: int
    boxes: Tensor | None


def photographs(model: Any, folder: Path, boxes: Path | None, count: int) -> Iterator[Photograph]:
    known = read_coco(str(boxes), "--boxes") if boxes else None
    spec = model.loaded.preprocess
    height, width = spec.input_size[1:]
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"}):
        if count <= 0:
            return
        seen, geometry = prepare(np.asarray(Image.open(path).convert("RGB")), spec)
        pixels = normalize(seen[None], spec)
        with torch.no_grad():
            sure = model.module(pixels)[0].softmax(0)
        target, inside = int(sure.argmax()), None
        if known is not None:
            truth = known.truth(ImageRef(str(path), path.name, 0), geometry.image_size)
            own = () if truth is None else truth.objects
            fitting = [(float(sure[k]), k, each.label) for each in own for k in FITTING.get(each.label, ())]
            if not fitting or max(fitting)[0] < 0.1:
                continue
            _, target, category = max(fitting)
            x0, y0, x1, y1 = geometry.rect
            inside = torch.zeros(height, width, dtype=torch.bool)
            across, down = width / (x1 - x0), height / (y1 - y0)
            for each in own:
                if each.label == category:
                    left, top, right, bottom = each.box.edges
                    shown = Box.from_edges(
                        (left - x0) * across, (top - y0) * down, (right - x0) * across, (bottom - y0) * down
                    )
                    inside[shown.pixels((width, height))] = True
        count -= 1
        yield Photograph(path.name, pixels[0], target, inside)


def best_tenth(values: Tensor) -> Tensor:
    """[1, H, W] of zeros and ones: the tenth of the pixels of [1, H, W] with the largest values."""
    flat = values.flatten()
    chosen = torch.sort(flat, descending=True, stable=True).indices[: round(0.1 * flat.numel())]
    return torch.zeros_like(flat).index_fill(0, chosen, 1.0).reshape(values.shape)


def measured(model: Any, photograph: Photograph, options: dict[str, Any]) -> dict[str, Any]:
    pixels, target = photograph.pixels[None], photograph.target
    began = time.perf_counter()
    extremal = cnnviz.explain(model, pixels, method="extremal", target=target, **options)
    seconds = time.perf_counter() - began
    maps = {
        "extremal": extremal.maps,
        "gradcam": cnnviz.explain(model, pixels, method="gradcam", target=target).maps,
        "random": torch.rand(extremal.maps.shape, generator=torch.Generator().manual_seed(0)),
    }
    pyramid = blur_pyramid(pixels, 0.09 * min(pixels.shape[2:]))
    tenths = {name: best_tenth(found) for name, found in maps.items()}
    with torch.no_grad():
        scores = model.module(torch.cat([perturb(pyramid, torch.cat(list(tenths.values()))), pixels, pyramid[-1:]]))
    kept = dict(zip([*tenths, "whole", "blurred"], scores[:, target].tolist(), strict=True))
    row: dict[str, Any] = {"photograph": photograph.name, "class": target, "seconds": round(seconds, 2)}
    row["kept"] = {name: round(value, 3) for name, value in kept.items()}
    if photograph.boxes is not None:
        share = {name: float((t * photograph.boxes).sum() / t.sum()) for name, t in tenths.items() if name != "random"}
        share["random"] = float(photograph.boxes.float().mean())
        row["inside"] = {name: round(value, 3) for name, value in share.items()}
    return row


def summary(rows: list[dict[str, Any]], options: dict[str, Any]) -> dict[str, Any]:
    def means(key: str) -> dict[str, float]:
        own = [row[key] for row in rows if key in row]
        return {name: round(float(np.mean([row[name] for row in own])), 3) for name in (own[0] if own else ())}

    below = [row["photograph"] for row in rows if row["kept"]["extremal"] < row["kept"]["gradcam"]]
    seconds = round(float(np.median([row["seconds"] for row in rows])), 2)
    return {
        "photographs": len(rows), "options": options, "threads": torch.get_num_threads(), "seconds": seconds,
        "kept": means("kept"), "inside": means("inside"), "below_gradcam": below,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--boxes", type=Path)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json")
    given = parser.parse_args()
    print(machine())
    model = cnnviz.load_model(given.model)
    rows = []
    for photograph in photographs(model, given.photographs, given.boxes, given.count):
        rows.append(measured(model, photograph, {"steps": given.steps}))
        print(rows[-1], flush=True)
    options = {"model": given.model, "steps": given.steps, "boxes": given.boxes is not None}
    print(summary(rows, options))
    save(given.json, [{**summary(rows, options), "each": rows}])


if __name__ == "__main__":
    main()
