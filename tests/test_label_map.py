"""Maps of classes: the colour of every pixel, the areas in the legend, and occlusion's picture of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import ImageDraw

from cnnviz import pipeline
from cnnviz.render.class_colours import PALETTE
from cnnviz.render.label_map import label_map, nearest_cells
from cnnviz.settings import DrawSettings, OutputSettings, RunSettings, TargetSettings
from tests.support.runs import Quiet

MARGIN = 16


def test_a_pixel_belongs_to_the_nearest_centre() -> None:
    rng = np.random.default_rng(2)
    centres = sorted(rng.uniform(-20, 120, 9).tolist())
    found = nearest_cells(centres, 100)
    for pixel in range(100):
        distances = [abs(pixel + 0.5 - c) for c in centres]
        assert found[pixel] == distances.index(min(distances))


def test_every_pixel_has_the_colour_of_its_class_mixed_into_the_image() -> None:
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (320, 400, 3), dtype=np.uint8)
    classes = np.array([[7, 7, 900], [3, 7, 900]])
    rows, cols = [100.0, 300.0], [50.0, 150.0, 399.0]
    picture = label_map(rgb, classes, (rows, cols), {7: "seven", 900: "nine", 3: "three"}, alpha=0.25)
    for y, x in ((0, 0), (199, 99), (201, 99), (199, 101), (10, 273), (10, 276), (319, 0), (319, 399)):
        row, col = (0 if y < 200 else 1), (0 if x < 100 else 1 if x < 274.5 else 2)
        colour = np.array(PALETTE[int(classes[row, col]) % 24])
        expected = 0.75 * rgb[y, x] + 0.25 * colour
        assert np.abs(picture[MARGIN + y, MARGIN + x] - expected).max() <= 1, (y, x)


def test_more_classes_than_colours_are_grey_together() -> None:
    rgb = np.zeros((260, 260, 3), np.uint8)
    classes = np.arange(20)[None, :].repeat(2, 0)
    classes[0, 19] = 0  # class 0 has the largest area, class 19 the smallest
    centres = ([65.0, 195.0], [13.0 * i + 6.5 for i in range(20)])
    picture = label_map(rgb, classes, centres, {i: f"class {i}" for i in range(20)}, alpha=1.0)
    bottom = picture[MARGIN + 250, MARGIN : MARGIN + 260]
    assert tuple(bottom[6]) == PALETTE[0]
    assert tuple(bottom[13 * 11 + 6]) == PALETTE[11]
    for greyed in range(12, 20):
        assert tuple(bottom[13 * greyed + 6]) == (170, 174, 180)


def test_the_legend_says_that_its_figures_are_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    draw = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, **more: Any) -> None:
        written.append(text)
        draw(self, xy, text, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    classes = np.array([[1, 1, 1, 2]])
    label_map(np.zeros((40, 40, 3), np.uint8), classes, ([20.0], [5.0, 15.0, 25.0, 35.0]), {1: "cat", 2: "mat"})
    # Beside the name of a class, a percentage alone would be read as its probability.
    assert written == ["share of the area", "cat", "75.0 %", "mat", "25.0 %"]


def test_occlusion_draws_the_most_probable_class_of_each_window(tmp_path: Path, sample_images: Path) -> None:
    name = "military_uniform.jpg"
    settings = RunSettings(
        command="occlusion",
        inputs=(str(sample_images / name),),
        target=TargetSettings(method="occlusion", params={"classes_map": True, "window": 96, "stride": 64}),
        draw=DrawSettings(save=("raw",)),
        output=OutputSettings(out=str(tmp_path)),
    )
    pipeline.run(settings, Quiet())
    [explanation] = json.loads((tmp_path / "report.json").read_text())["images"][0]["explanations"]
    stored = np.load(tmp_path / explanation["files"]["raw"])
    x0, y0, x1, y1 = stored["rect"]
    photograph = cv2.imread(str(sample_images / name))[..., ::-1].astype(float)
    picture = cv2.imread(str(tmp_path / explanation["files"]["classes"]))[..., ::-1].astype(float)
    assert picture.shape[1] == photograph.shape[1] + 3 * MARGIN + 260  # neither was resized
    # Windows of 96 start at 0, 64 and 128 of 224 pixels: their centres lie at 48, 112 and 176.
    ys, xs = (np.array([48, 112, 176]) / 224 * (b - a) + a for a, b in ((y0, y1), (x0, x1)))
    rows = [int(np.abs(ys - (y + 0.5)).argmin()) for y in range(photograph.shape[0])]
    cols = [int(np.abs(xs - (x + 0.5)).argmin()) for x in range(photograph.shape[1])]
    expected = stored["classes"][np.ix_(rows, cols)]
    found, areas = np.unique(expected, return_counts=True)
    own: dict[int, int] = {}
    for place in np.argsort(-areas, kind="stable"):
        own.setdefault(int(found[place]) % len(PALETTE), int(found[place]))
    assert len(own) > 1
    for index in own.values():  # of two classes with one colour the larger has it
        mask = expected == index
        shown = picture[MARGIN : MARGIN + mask.shape[0], MARGIN : MARGIN + mask.shape[1]][mask]
        assert np.abs(shown - (0.45 * photograph[mask] + 0.55 * np.array(PALETTE[index % len(PALETTE)]))).max() <= 1
