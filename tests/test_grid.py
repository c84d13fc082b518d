"""``grid``: maps of several methods in one picture, each that of its method alone, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.errors import ImageError
from cnnviz.geometry.placement import PlacedMap
from cnnviz.methods.gradient import gradients
from cnnviz.render.method_panel import Cell, CellRow, method_panel
from cnnviz.render.overlay import Style, coloured
from cnnviz.render.panel import PanelRow, drawn
from tests.support.colour_photos import MODEL, run


def _has(page: Any, picture: Any) -> int:
    """In how many places of the page the picture stands, pixel by pixel."""
    height, width = picture.shape[:2]
    corner = (page[: page.shape[0] - height + 1, : page.shape[1] - width + 1] == picture[0, 0]).all(axis=2)
    places = np.argwhere(corner)
    return sum(bool((page[y : y + height, x : x + width] == picture).all()) for y, x in places)


def _photo() -> Any:
    return np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)


def _row(seed: int) -> PanelRow:
    values = np.random.default_rng(seed).random((200, 200), dtype=np.float32)
    return PanelRow("red", 0.5, PlacedMap(values, (0, 0, 200, 200), False), "any")


@pytest.mark.parametrize("count", [1, 5, 6, 7, 24])
def test_every_cell_is_the_overlay_of_its_map(count: int) -> None:
    rgb, style = _photo(), Style()
    rows = [[_row(100 * target + place) for place in range(count)] for target in range(2)]
    figure = [CellRow("red", 0.5, [Cell(f"method {i}", each) for i, each in enumerate(own)]) for own in rows]
    page = method_panel(rgb, figure, style, ("title", "predicted: red 50 %"))
    assert _has(page, rgb) == 2  # one photograph for each target
    for each in (each for own in rows for each in own):
        assert _has(page, drawn(rgb, each, style)[1]) == 1
    assert page.shape[1] <= 6 * 212 + 48


@pytest.mark.parametrize("kinds", [(), (False,), (True,), (False, True)])
@pytest.mark.parametrize("colours", ["auto", "coolwarm", "viridis"])
def test_a_bar_for_each_kind_of_map_says_what_its_colours_mean(kinds: tuple[bool, ...], colours: str) -> None:
    """The bar is a map that grows from the smallest value to the largest, in the colours in which maps are drawn."""
    style = Style(colours)
    rows = [PanelRow("red", 0.5, PlacedMap(_row(1).placed.values - 0.5 * signed, (0, 0, 200, 200), signed), "any")
            for signed in kinds]  # fmt: skip
    cells = [Cell("any", each) for each in rows] or [Cell("any", why="it cannot")]
    page = method_panel(_photo(), [CellRow("red", 0.5, cells)], style, ("title", ""))
    for signed in (False, True):
        ramp = np.linspace(-1 if signed else 0, 1, 72, dtype=np.float32)[None].repeat(12, axis=0)
        bar = coloured(PlacedMap(ramp, (0, 0, 72, 12), signed), style)
        same = colours == "viridis" and bool(kinds)  # the same colours, whatever they mean
        for side in (bar[:, :28], bar[:, -28:]):  # between them stands the zero of a signed map
            assert _has(page, side) == (len(kinds) if same else signed in kinds)


def test_a_cell_without_a_map_says_why() -> None:
    rgb, style = _photo(), Style()
    pages = [
        method_panel(rgb, [CellRow("red", None, [Cell("A", _row(1)), Cell("B", why=why)])], style, ("title", ""))
        for why in ("it has no attention", "it cannot be traced")
    ]
    assert pages[0].shape == pages[1].shape
    rows, columns = np.nonzero((pages[0] != pages[1]).any(axis=2))
    assert columns.min() > 2 * 200  # in the second method's cell
    assert len(rows)


def test_records_have_each_map_as_its_method_alone_makes_it(rectangles: Path, tmp_path: Path) -> None:
    options = ("--class", "top:2", "--save", "raw,panel")
    report = run("grid", rectangles, tmp_path / "out", "--method", "gradcam,smoothgrad:samples=3,lrp", *options)
    assert report["summary"]["methods"] == ["gradcam", "smoothgrad", "lrp"]
    assert report["summary"]["refused"] == {}
    options = ("--variant", "smoothgrad", "--samples", "3", "--class", "top:2", "--save", "raw")
    alone = run("saliency", rectangles, tmp_path / "one", *options)
    for image, single in zip(report["images"], alone["images"], strict=True):
        [name] = {each["files"]["panel"] for each in image["explanations"]}
        assert name.endswith(".methods.panel.png")
        own = [each for each in image["explanations"] if each["method"] == "smoothgrad"]
        for one, other in zip(own, single["explanations"], strict=True):
            a = np.load(tmp_path / "out" / one["files"]["raw"])["raw"]
            b = np.load(tmp_path / "one" / other["files"]["raw"])["raw"]
            np.testing.assert_array_equal(a, b)
            assert one["target"] == other["target"]
            assert one["scores"]["max"] == other["scores"]["max"]


@pytest.mark.parametrize("methods", ["lrp,gradcam,drise,saliency", "drise,gradcam,lrp,saliency"])
def test_methods_that_the_network_refuses_are_left_out(rectangles: Path, tmp_path: Path, methods: str) -> None:
    """Whichever comes first: one for want of a trace, when it is cut, one for want of boxes, when it runs."""
    report = run("grid", rectangles, tmp_path / "some", "--method", methods, "--tracing", "off")
    refused = report["summary"]["refused"]
    assert set(refused) == {"lrp", "drise"}
    assert "boxes" in refused["drise"]
    kept = run("grid", rectangles, tmp_path / "kept", "--method", "gradcam,saliency", "--tracing", "off")
    assert report["model"]["layers"] == kept["model"]["layers"]
    for image, other in zip(report["images"], kept["images"], strict=True):
        assert [each["method"] for each in image["explanations"]] == ["gradcam", "saliency"]
        assert [each["scores"] for each in image["explanations"]] == [each["scores"] for each in other["explanations"]]
        shapes = []
        for folder, each in ((tmp_path / "some", image), (tmp_path / "kept", other)):
            with Image.open(folder / each["explanations"][0]["files"]["panel"]) as picture:
                shapes.append(picture.size)
        assert shapes[0][0] > shapes[1][0]  # two cells more


def test_a_method_that_fails_is_left_out(
    rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def failing(run: Any, target: Any, params: Any) -> Any:
        raise RuntimeError("one and two are three\nand so on")

    monkeypatch.setattr("cnnviz.methods.gradient.gradients.saliency", failing)
    report = run("grid", rectangles, tmp_path / "out", "--method", "gradcam,saliency")
    assert report["summary"]["refused"] == {"saliency": "it fails (RuntimeError: one and two are three)"}
    assert all([each["method"] for each in image["explanations"]] == ["gradcam"] for image in report["images"])
    labels = ["--labels", str(tmp_path / "labels.txt")]
    assert main(["grid", str(rectangles), *MODEL, *labels, "--method", "saliency", "-o", str(tmp_path / "one")]) == 2
    assert "internal error: RuntimeError: one and two" in capsys.readouterr().err


def test_an_image_that_a_method_cannot_explain_is_a_row(
    rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Whatever else is in its batch. A probe that it cannot explain is no image: the method is left out, or refuses."""
    known, bound = gradients.saliency, [0.9]

    def failing(run: Any, target: Any, params: Any) -> Any:
        if float(run.pixels.flatten(1).mean(1).max()) > bound[0]:
            raise ImageError("not-finite", "it overflows", "Use another.")
        return known(run, target, params)

    monkeypatch.setattr(gradients, "saliency", failing)
    Image.fromarray(np.full((200, 200, 3), 255, np.uint8)).save(rectangles / "b-white.png")
    words = [str(rectangles), *MODEL, "--labels", str(tmp_path / "labels.txt")]
    assert main(["grid", *words, "-o", str(tmp_path / "out"), "--method", "gradcam,saliency", "-b", "8"]) == 3
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    errors = {Path(image["path"]).name: image["error"] for image in report["images"]}
    assert len(errors) > 2
    assert errors.pop("b-white.png") == {"type": "not-finite", "message": "it overflows"}
    assert set(errors.values()) == {None}
    bound[0] = -10.0
    capsys.readouterr()
    assert main(["saliency", *words, "-o", str(tmp_path / "one")]) == 2
    assert "it overflows Use another." in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "chefer,legrad"), "computes no self-attention"),
        (("--method", "gradcam,saliency", "--class", "violet"), "violet"),
        (("--method", "gradcam,layercam", "--layer", "nowhere"), "nowhere"),
        (("--method", "gradcam,saliency", "-m", "nowhere"), "nowhere"),
    ],
)
def test_what_no_method_can_ends_the_run(
    rectangles: Path, tmp_path: Path, options: tuple[str, ...], words: str, capsys: Any
) -> None:
    labels = ["--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "out")]
    assert main(["grid", str(rectangles), *MODEL, *labels, *options]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_one_picture_goes_to_standard_output(
    rectangles: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    words = [str(rectangles / "a.png"), *MODEL, "--method", "cam,saliency", "-q"]
    assert main(["grid", *words, "-o", "-"]) == 0
    piped = capfdbinary.readouterr().out
    assert main(["grid", *words, "-o", str(tmp_path / "out")]) == 0
    [row] = json.loads((tmp_path / "out" / "report.json").read_text())["images"]
    assert piped == (tmp_path / "out" / row["explanations"][0]["files"]["panel"]).read_bytes()
