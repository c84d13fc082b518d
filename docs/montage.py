"""Draws docs/images/methods.jpg: every method of the register on two sample images.

python docs/montage.py          # a few minutes on two cores
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import cnnviz
from cnnviz.geometry.placement import PlacedMap, place
from cnnviz.io.decode import decode
from cnnviz.models.preprocess import prepare
from cnnviz.registry import lookup
from cnnviz.registry.specs import MethodSpec
from cnnviz.render.gradient import gradient_image
from cnnviz.render.overlay import Style, overlay
from cnnviz.render.text import printable

ROOT = Path(__file__).parent.parent
PICTURE = Path(__file__).parent / "images" / "methods.jpg"
PHOTOGRAPHS = ("espresso.jpg", "space_shuttle_model.jpg")
# Fewer repetitions than the defaults: the pictures are small.
OPTIONS: dict[str, dict[str, Any]] = {
    "occlusion": {"stride": 16, "window": 48},
    "neuron_conductance": {"steps": 20},
    "scorecam": {"channels": 60},
    "sscam": {"samples": 2, "channels": 30},
    "iscam": {"steps": 2, "channels": 30},
    "sobol": {"designs": 8},
    "hsic": {"masks": 700},
    "rise": {"masks": 500},
    "shapley": {"samples": 200},
    "kernelshap": {"samples": 200},
    "lime": {"samples": 200},
}
# One picture stands for a command, its rules for themselves.
FURTHER: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("guided", "Deconvnet", {"rule": "deconvnet"}),
    ("guided", "Guided Grad-CAM", {"with_gradcam": True}),
    ("excitation_backprop", "Contrastive excitation", {"contrastive": True}),
)
# A convolutional classifier has no boxes and no attention.
METHODS = tuple(spec for spec in lookup.BUILT_IN if not {"boxes", "attention"} & set(spec.needs))
CELL, CAPTION, HEADING, GAP, PAIRS = 150, 22, 34, 6, 4

Picture = NDArray[np.uint8]


def views(model: cnnviz.Model) -> tuple[list[Picture], torch.Tensor]:
    """The photographs as the network sees them: for drawing, and as its batch."""
    pictures, inputs = [], []
    for name in PHOTOGRAPHS:
        rgb = decode((ROOT / "sample_images" / name).read_bytes()).rgb
        pixels, _ = prepare(rgb, model.loaded.preprocess)
        pictures.append(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
        inputs.append(model.transform(rgb))
    return pictures, torch.stack(inputs)


def drawn(
    model: cnnviz.Model, spec: MethodSpec, options: Mapping[str, Any], seen: tuple[list[Picture], torch.Tensor]
) -> list[Picture]:
    """The pictures of one method, as the command line draws them."""
    pictures, batch = seen
    found = cnnviz.explain(model, batch, method=spec.name, **options)
    results = []
    for rgb, raw, map_ in zip(pictures, found.raw.numpy(), found.maps.numpy(), strict=True):
        height, width = rgb.shape[:2]
        rect = (0.0, 0.0, float(width), float(height))
        if spec.colour:
            results.append(gradient_image(raw, rect, (width, height)))
            continue
        values = raw if raw.ndim == 2 and spec.space == "layer" else map_
        placed = place(values, rect, (width, height), signed=spec.signed)
        results.append(overlay(rgb, _clipped(placed) if raw.ndim == 3 else placed, Style(alpha=0.6)))
    return results


def _clipped(placed: PlacedMap) -> PlacedMap:
    limit = np.float32(np.percentile(np.abs(placed.values), 99))
    return replace(placed, values=np.clip(placed.values, -limit, limit))


def tiles(model: cnnviz.Model, options: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[str, list[Picture]]]]:
    """For each family its methods: title and pictures."""
    seen = views(model)
    found: dict[str, list[tuple[str, list[Picture]]]] = {"photographs": [("what the network sees", seen[0])]}
    for spec in METHODS:
        chosen = dict(options.get(spec.name, {}))
        row = found.setdefault(spec.family, [])
        row.append((spec.title, drawn(model, spec, chosen, seen)))
        rules = [(title, more) for name, title, more in FURTHER if name == spec.name]
        row += [(title, drawn(model, spec, {**chosen, **more}, seen)) for title, more in rules]
    return found


def montage(families: Mapping[str, Sequence[tuple[str, Sequence[Picture]]]]) -> Image.Image:
    """The families under their headings, ``PAIRS`` methods a row, each with all photographs side by side."""
    count = len(PHOTOGRAPHS)
    pair = count * CELL + GAP
    width = GAP + PAIRS * (pair + 2 * GAP)
    rows = sum(-(-len(methods) // PAIRS) for methods in families.values())
    height = GAP + len(families) * HEADING + rows * (CELL + CAPTION + GAP)
    canvas = Image.new("RGB", (width, height), "white")
    pen, large, small = ImageDraw.Draw(canvas), ImageFont.load_default(19), ImageFont.load_default(14)
    top = GAP
    for family, methods in families.items():
        pen.text((GAP, top + 8), family.capitalize(), fill=(28, 30, 34), font=large)
        top += HEADING
        for index, (title, pictures) in enumerate(methods):
            if index and index % PAIRS == 0:
                top += CELL + CAPTION + GAP
            left = GAP + index % PAIRS * (pair + 2 * GAP)
            for place_, picture in enumerate(pictures):
                tile = Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.LANCZOS)
                canvas.paste(tile, (left + place_ * (CELL + 2), top))
            pen.text((left, top + CELL + 2), printable(title), fill=(28, 30, 34), font=small)
        top += CELL + CAPTION + GAP
    return canvas


def names() -> str:
    """What the picture shows, as its comment says: a test compares it with the register."""
    return " ".join(spec.name for spec in METHODS)


def main() -> None:
    picture = montage(tiles(cnnviz.load_model(), OPTIONS))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88, optimize=True, comment=names().encode())
    PICTURE.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
