"""Draws docs/images/choosing-*.jpg, the pictures of docs/choosing.md, through the command line.

python docs/choosing.py          # a minute or two on two cores
"""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parent.parent
IMAGES = Path(__file__).parent / "images"
WIDTH, CAPTION, GAP, QUALITY = 900, 26, 10, 82
BACKGROUND, INK = (255, 255, 255), (28, 30, 34)

# For each picture the commands that it shows, as a reader types them among the sample images.
PICTURES: dict[str, tuple[str, ...]] = {
    "classes": ("gradcam military_uniform.jpg -c top:3 --save panel",),
    "contrast": (
        'gradcam cat.jpg -c "tiger cat" -c tabby --save panel',
        'gradcam cat.jpg -c "tiger cat" --variant finercam --contrast-class 281 --save panel',
    ),
    "sign": ("occlusion espresso.jpg --save panel",),
    "edges": ('guided cat.jpg -c "tiger cat" -c toaster --save panel',),
    "view": ("gradcam military_uniform.jpg --view whole --save panel",),
    "layer": ("gradcam military_uniform.jpg --layer -4 --save panel",),
    "scale": (
        "gradcam cat.jpg camera_on_tripod.jpg --save overlay --legend",
        "gradcam cat.jpg camera_on_tripod.jpg --save overlay --legend --scale run",
    ),
}


@dataclass(frozen=True)
class Run:
    """A command, the pictures that it wrote, and its report."""

    command: str
    pictures: tuple[Image.Image, ...]
    report: dict[str, Any]


def run(command: str, folder: Path) -> Run:
    """Runs one command among the sample images."""
    words = [sys.executable, "-m", "cnnviz", *shlex.split(command), "--out", str(folder), "--quiet"]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    subprocess.run(words, check=True, cwd=ROOT / "sample_images", env={**os.environ, "PYTHONPATH": paths})
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    names = [n for r in report["images"] for e in r["explanations"] for n in e["files"].values()]
    pictures = []
    for name in dict.fromkeys(names):  # the classes of an image share a panel
        with Image.open(folder / name) as picture:
            pictures.append(picture.convert("RGB"))
    return Run(command, tuple(pictures), report)


def side_by_side(pictures: tuple[Image.Image, ...]) -> Image.Image:
    """Pictures at one height, together as wide as the page."""
    widths = sum(picture.width / picture.height for picture in pictures)
    height = round((WIDTH - 2 * GAP - GAP * (len(pictures) - 1)) / widths)
    row = Image.new("RGB", (WIDTH, height), BACKGROUND)
    left = GAP
    for picture in pictures:
        width = round(picture.width * height / picture.height)
        row.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (left, 0))
        left += width + GAP
    return row


def sheet(runs: list[Run]) -> Image.Image:
    """What each command wrote, under the command."""
    rows = [side_by_side(each.pictures) for each in runs]
    canvas = Image.new("RGB", (WIDTH, GAP + sum(CAPTION + row.height + GAP for row in rows)), BACKGROUND)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    top = GAP
    for each, row in zip(runs, rows, strict=True):
        pen.text((GAP, top), f"cnnviz {each.command}", fill=INK, font=font)
        canvas.paste(row, (0, top + CAPTION))
        top += CAPTION + row.height + GAP
    return canvas


def comment(name: str) -> str:
    """What a picture shows, as its comment says: a test compares the two."""
    return "\n".join(PICTURES[name])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, commands in PICTURES.items():
            runs = [run(command, Path(folder) / f"{name}-{number}") for number, command in enumerate(commands)]
            buffer = io.BytesIO()
            sheet(runs).save(buffer, "JPEG", quality=QUALITY, optimize=True, comment=comment(name).encode())
            (IMAGES / f"choosing-{name}.jpg").write_bytes(buffer.getvalue())
            for record in [record for each in runs for record in each.report["images"]]:
                best = record["predictions"][0]
                print(f"{name}: {record['path']}: {best['label']} {best['probability']:.3f}")
                for found in record["explanations"]:
                    print(f"    {found['target']['label']}: {found['layer']}, {found['scores']}")


if __name__ == "__main__":
    main()
