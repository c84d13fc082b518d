"""The pictures of the README, from the folders of two experiments.

python examples/wsol/pictures.py SCENES_FOLDER DIGITS_FOLDER
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from cnnviz.cli.app import main

HERE = Path(__file__).parent / "pictures"
SCENES = [Path("test") / name for name in ("grid/2.png", "stripes/3.png", "dots/5.png", "scales/7.png")]
_NINE = ["-c", "9", "--input-size", "160", "--resize", "160"]
DIGITS = [Path("ten") / f"{number}.png" for number in (0, 1, 2, 3)]


def montage(root: Path, images: list[Path], asked: list[str], out: Path) -> None:
    """Maps of GAP's network above those of GMP's, with their boxes, as ``cnnviz localize --save boxes`` draws them."""
    rows = []
    for head in ("gap", "gmp"):
        with tempfile.TemporaryDirectory() as work:
            words = ["--checkpoint", str(root / f"{head}-0" / "checkpoint.safetensors"), "--method", "cam", *asked]
            inputs = [str(root / "data" / image) for image in images]
            if main(["localize", *inputs, *words, "--metric", "box_localization", "-q", "-o", f"{work}/o"]):
                raise SystemExit(f"{root} has no network of {head}")
            drawn = [next(Path(work).rglob(f"{image.name}.boxes.png")) for image in images]
            rows.append([Image.open(path).convert("RGB") for path in drawn])
    width, height = rows[0][0].size
    page = Image.new("RGB", (width * len(images), height * len(rows)), "white")
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            page.paste(picture, (across * width, down * height))
    page.thumbnail((1500, 1500), Image.Resampling.LANCZOS)
    out.parent.mkdir(exist_ok=True)
    page.save(out, quality=88, optimize=True)


if __name__ == "__main__":
    scenes, digits = map(Path, sys.argv[1:])
    montage(scenes, SCENES, ["--truth", str(scenes / "data" / "truth.json"), "-c", "truth"], HERE / "scenes.jpg")
    montage(digits, DIGITS, [*_NINE, "--truth", str(digits / "data" / "ten.json")], HERE / "digits.jpg")
