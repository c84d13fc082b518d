"""Draws docs/images/studies.jpg: what each study writes, under the command that wrote it.

python docs/studies.py          # a minute or two on two cores
"""

from __future__ import annotations

import io
import os
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cnnviz.cli.app import main as cnnviz
from cnnviz.registry import lookup
from cnnviz.render.text import printable

ROOT = Path(__file__).parent.parent
PICTURE = Path(__file__).parent / "images" / "studies.jpg"
WIDTH, COLUMNS, CAPTION, GAP = 460, 3, 24, 12
BACKGROUND, INK = (255, 255, 255), (28, 30, 34)


@dataclass(frozen=True)
class Shown:
    """A command, and which of the files that it writes are shown, stacked."""

    command: str
    files: tuple[str, ...]


# Short commands, as a reader would type them.
SHOWN = (
    Shown("synthesize -c goldfish -c lorikeet --each", ("goldfish.png", "lorikeet.png")),
    Shown("dream cat.jpg", ("images/cat.jpg.dream.png",)),
    Shown("invert cat.jpg --layer blocks.1 --layer blocks.3 --layer -1", ("images/cat.jpg.inverted.png",)),
    Shown("adversarial cat.jpg --target-class toaster --explain gradcam", ("images/cat.jpg.figure.png",)),
    Shown("top-patches . --layer blocks.2 --units top:4 --per-image 3", ("sheet.png",)),
    Shown("activations cat.jpg --layer conv_stem", ("images/cat.jpg.activations.png",)),
    Shown("filters", ("filters.conv_stem.png",)),
    Shown("classmap military_uniform.jpg --size 448", ("images/military_uniform.jpg.classmap.classes.png",)),
    Shown("embed .", ("grid.png",)),
    Shown("factors .", ("factors.png",)),
    Shown("concepts . --of tabby --images all", ("concepts.png",)),
    Shown("tcav cat.jpg -c tabby --concept striped --random others --layer -2", ("tcav.png",)),
)


def textures(folder: Path) -> dict[str, str]:
    """Folders that the commands name and the sample images do not have: drawn stripes, and crops of the samples."""
    rng = np.random.default_rng(0)
    made = {name: folder / name for name in ("striped", "others")}
    for path in made.values():
        path.mkdir(exist_ok=True)
    y, x = np.mgrid[:224, :224]
    for number in range(20):
        angle, period = rng.uniform(0, np.pi), rng.uniform(14, 44)
        wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)[..., None]
        grey = np.clip(128 + 100 * wave * rng.uniform(0.6, 1, 3), 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(made["striped"] / f"{number}.png")
    samples = sorted((ROOT / "sample_images").glob("*.jpg"))
    for number in range(48):
        with Image.open(samples[number % len(samples)]) as image:
            side = int(min(image.size) * rng.uniform(0.3, 0.7))
            left, top = (int(rng.integers(0, length - side)) for length in image.size)
            image.convert("RGB").crop((left, top, left + side, top + side)).save(made["others"] / f"{number}.png")
    return {name: str(path) for name, path in made.items()}


def run(shown: Shown, folder: Path) -> list[Image.Image]:
    """The pictures of one command, run among the sample images."""
    out = folder / shown.command.split()[0]
    here, made = Path.cwd(), textures(folder)
    words = [made.get(word, word) for word in shlex.split(shown.command)]
    os.chdir(ROOT / "sample_images")
    try:
        if cnnviz([*words, "--out", str(out), "--quiet"]):
            raise SystemExit(f"cnnviz {shown.command} failed")
    finally:
        os.chdir(here)
    pictures = []
    for name in shown.files:
        with Image.open(out / name) as picture:
            pictures.append(picture.convert("RGB"))
    return pictures


def tile(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures side by side at one height, as wide as a column."""
    height = max(picture.height for picture in pictures)
    equal = [picture.resize((round(picture.width * height / picture.height), height)) for picture in pictures]
    row = Image.new("RGB", (sum(p.width for p in equal) + GAP * (len(equal) - 1), height), BACKGROUND)
    left = 0
    for picture in equal:
        row.paste(picture, (left, 0))
        left += picture.width + GAP
    return row.resize((WIDTH, round(row.height * WIDTH / row.width)), Image.Resampling.LANCZOS)


def sheet(tiles: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Tiles under their captions, each in the column that is shortest."""
    columns: list[list[tuple[str, Image.Image]]] = [[] for _ in range(COLUMNS)]
    heights = [GAP] * COLUMNS
    for caption, picture in tiles:
        shortest = heights.index(min(heights))
        columns[shortest].append((caption, picture))
        heights[shortest] += CAPTION + picture.height + GAP
    canvas = Image.new("RGB", (GAP + COLUMNS * (WIDTH + GAP), max(heights)), BACKGROUND)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    for number, column in enumerate(columns):
        left, top = GAP + number * (WIDTH + GAP), GAP
        for caption, picture in column:
            pen.text((left, top), printable(caption), fill=INK, font=font)
            canvas.paste(picture, (left, top + CAPTION))
            top += CAPTION + picture.height + GAP
    return canvas


def names() -> str:
    """What the picture shows, as its comment says: a test compares it with the register."""
    return " ".join(spec.name for spec in lookup.STUDIES)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        tiles = [(f"cnnviz {shown.command}", tile(run(shown, Path(folder)))) for shown in SHOWN]
    buffer = io.BytesIO()
    sheet(tiles).save(buffer, "JPEG", quality=88, optimize=True, comment=names().encode())
    PICTURE.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
