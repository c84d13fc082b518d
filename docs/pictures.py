"""Draws the small pictures of the site's pages: docs/images/methods/NAME.jpg, docs/images/studies/NAME.jpg.

python docs/pictures.py                                    # a few minutes on two cores
python docs/pictures.py --detector FILE.onnx -- OPTIONS    # the methods for boxes alone; OPTIONS of the detector

Of a method: the photograph as the network sees it, and the map of the class that it predicts, as the command draws it.
Of a study: what docs/images/studies.jpg shows of it.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "site")]

import montage  # noqa: E402
import studies  # noqa: E402
from entries import slug  # noqa: E402

import cnnviz  # noqa: E402
from cnnviz.cli.app import main as command_line  # noqa: E402
from cnnviz.registry import lookup  # noqa: E402

IMAGES = Path(__file__).parent / "images"
PHOTOGRAPH = montage.ROOT / "sample_images" / "espresso.jpg"
OF_BOXES = montage.ROOT / "sample_images" / "camera_on_tripod.jpg"
# Methods whose question is a box; a classifier has none.
OF_BOX: dict[str, list[str]] = {"odam": [], "drise": ["--masks", "3000", "--cells", "8"]}
SIDE, MOST = 200, 15_000


def save(picture: Image.Image, folder: str, name: str) -> None:
    """As a JPEG of at most ``MOST`` bytes."""
    path = IMAGES / folder / f"{slug(name)}.jpg"
    path.parent.mkdir(exist_ok=True)
    size = picture.size
    while True:
        for quality in range(88, 56, -4):
            buffer = io.BytesIO()
            picture.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= MOST:
                path.write_bytes(buffer.getvalue())
                return
        size = (size[0] * 9 // 10, size[1] * 9 // 10)


def pair(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures side by side, of one height."""
    width, height = (round(left.width * SIDE / left.height), SIDE)
    canvas = Image.new("RGB", (2 * width + 4, height), "white")
    for place, picture in enumerate((left, right)):
        canvas.paste(picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), (place * (width + 4), 0))
    return canvas


def methods() -> None:
    """A picture for each method that explains a class."""
    model = cnnviz.load_model()
    montage.PHOTOGRAPHS = (PHOTOGRAPH.name,)
    seen = montage.views(model)
    photograph = Image.fromarray(seen[0][0])
    for spec in (spec for spec in montage.METHODS if spec.name not in OF_BOX):
        [drawn] = montage.drawn(model, spec, montage.OPTIONS.get(spec.name, {}), seen)
        save(pair(photograph, Image.fromarray(drawn)), "methods", spec.name)


def boxes(detector: list[str]) -> None:
    """A picture for each method that explains a box."""
    for spec in lookup.BUILT_IN:
        if spec.name in OF_BOX:
            with tempfile.TemporaryDirectory() as folder:
                asked = [spec.command, str(OF_BOXES), "--variant", spec.name, "-t", "box:best", *OF_BOX[spec.name]]
                shown = ["--save", "overlay", "-o", f"{folder}/run", "-q", "--view", "squash"]
                if command_line([*asked, *shown, "-m", *detector]):
                    raise SystemExit(f"{spec.name} failed")
                with Image.open(OF_BOXES) as photograph, Image.open(next(Path(folder).rglob("*.overlay.png"))) as map_:
                    save(pair(photograph, map_), "methods", spec.name)


def attention() -> None:
    """A picture for each method that reads attention matrices: which shape is the red one (examples/shapes)?"""
    sys.path.insert(0, str(montage.ROOT / "examples" / "shapes"))
    import network
    import torch

    drawn, _, _ = network.draw(1, torch.Generator().manual_seed(5))
    seen = Image.fromarray((255 * drawn[0]).permute(1, 2, 0).round().byte().numpy())
    for spec in lookup.BUILT_IN:
        if "attention" in spec.needs:
            with tempfile.TemporaryDirectory() as folder:
                seen.resize((SIDE, SIDE), Image.Resampling.NEAREST).save(f"{folder}/scene.png")
                asked = [
                    "attention",
                    f"{folder}/scene.png",
                    "--variant",
                    spec.name,
                    "-m",
                    f"{network.__file__}:network",
                ]
                how = "--input-size 64 --mean 0.5 --std 0.5 --view squash --save overlay -q -o".split()
                if command_line([*asked, *how, f"{folder}/run"]):
                    raise SystemExit(f"{spec.name} failed")
                with Image.open(next(Path(folder).rglob("*.overlay.png"))) as map_:
                    save(pair(seen, map_), "methods", spec.name)


def of_studies() -> None:
    """A picture for each study."""
    with tempfile.TemporaryDirectory() as folder:
        for spec, shown in ((spec, shown) for spec in lookup.STUDIES for shown in studies.SHOWN):
            if shown.command.split()[0] == spec.command:
                save(studies.tile(studies.run(shown, Path(folder))), "studies", spec.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detector", help="network in an ONNX file")
    parser.add_argument("options", nargs="*", help="options of the detector")
    given = parser.parse_args()
    if given.detector:
        boxes([given.detector, *given.options])
    else:
        methods()
        attention()
        of_studies()
