"""Photographs of a red square in a blue sky, in a folder of their class, and where the square is marked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def marked_squares(base: Path, names: list[str], kinds: Mapping[int, int]) -> dict[str, Any]:
    """Write the photographs and the names of the classes, cloud and sun.

    Args:
        base: They go into ``data/sun``, the names into ``labels.txt``.
        names: Of the files.
        kinds: By number of a photograph as what its square is marked; the others are not marked.

    Returns:
        ``images`` and ``annotations`` of COCO's JSON.
    """
    (base / "data" / "sun").mkdir(parents=True)
    rgb = np.zeros((64, 64, 3), dtype=np.uint8)
    rgb[..., 2] = 200
    rgb[20:40, 20:40] = (255, 0, 0)
    for name in names:
        Image.fromarray(rgb).save(base / "data" / "sun" / name)
    (base / "labels.txt").write_text("cloud\nsun")
    return {
        "images": [{"id": i, "file_name": f"sun/{name}", "width": 64, "height": 64} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": kind, "bbox": [20, 20, 20, 20]} for i, kind in kinds.items()
        ],
    }
