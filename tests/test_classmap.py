"""The command classmap: its probabilities against windows by hand, and where they are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from cnnviz.errors import CnnvizError
from cnnviz.geometry.placement import place_cells
from cnnviz.models.loading.load import load
from cnnviz.models.preprocess import normalize, override, prepare
from cnnviz.render.colormap import colormap
from cnnviz.settings import ModelSpec
from cnnviz.studies.classmap.class_cells import Placement, merged
from tests.support import digits
from tests.support.pictures import pixels
from tests.support.runs import ONE, TINY, ran

RAW: dict[str, Any] = {"save": ("overlay", "heatmap", "raw")}


def run(
    inputs: Path, out: Path, model: ModelSpec = TINY, *, classes: tuple[str, ...] = ("pred",), batch: int = 2,
    draw: dict[str, Any] = RAW, **params: Any,
) -> dict[str, Any]:  # fmt: skip
    asked: dict[str, Any] = {"model": model, "classes": classes, "batch_size": batch, "params": params, **draw}
    report, _, _ = ran("classmap", [inputs], out, compile="off", overwrite=True, **asked)
    assert all(row["error"] is None for row in report["images"])
    return report


def raw(out: Path, row: dict[str, Any]) -> dict[str, NDArray[Any]]:
    with np.load(out / row["explanations"][0]["files"]["raw"]) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(4)
    for index, size in enumerate(((90, 140), (90, 140), (150, 70))):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(root / f"{index}.png")
    return root


def by_hand(path: Path, size: tuple[int, int], crop: bool = False) -> NDArray[np.float32]:
    """Probabilities [K, rows, cols] of the tiny network on windows of its features, with its own layers."""
    loaded = load(TINY)
    spec = override(loaded.preprocess, input_size=size, view="crop" if crop else "squash")
    pixels, _ = prepare(np.asarray(Image.open(path).convert("RGB")), spec)
    net: Any = loaded.module
    with torch.no_grad():
        features = net[:5](normalize(pixels[None], spec))
        h, w = features.shape[2] - 7, features.shape[3] - 7
        rows = [torch.stack([net[5:](features[:, :, i : i + 8, j : j + 8])[0] for j in range(w)], 1) for i in range(h)]
        found: NDArray[np.float32] = torch.softmax(torch.stack(rows, 1), 0).numpy()
    return found


@pytest.mark.parametrize("batch", [1, 3])
def test_raw_values_are_windows_of_the_features(photos: Path, tmp_path: Path, batch: int) -> None:
    report = run(photos, tmp_path, classes=("all",), batch=batch, size=96)
    # 90 x 140 pixels at a shorter side of 96: 96 x 149; 150 x 70: 206 x 96.
    for row, size in zip(report["images"], ((96, 149), (96, 149), (206, 96)), strict=True):
        expected = by_hand(Path(row["path"]), size)
        arrays = raw(tmp_path, row)
        assert float(expected.std()) > 1e-3
        np.testing.assert_allclose(arrays["probabilities"], expected, atol=2e-5)
        assert arrays["classes"].tolist() == [0, 1, 2, 3, 4]
        assert (arrays["argmax"] == expected.argmax(0)).all()
        for explanation in row["explanations"]:
            assert explanation["scores"]["grid"] == list(expected.shape[1:])
            assert explanation["scores"]["inputs"] == [list(size)]
        # The middles of the windows: 32 + 8 i of the network's pixels, which are 90 / 96 (150 / 206) of the image's.
        height, width = row["height"], row["width"]
        np.testing.assert_allclose(arrays["centre_y"], (32 + 8 * np.arange(expected.shape[1])) * height / size[0])
        np.testing.assert_allclose(arrays["centre_x"], (32 + 8 * np.arange(expected.shape[2])) * width / size[1])


def test_one_cell_at_the_training_size_is_the_ordinary_prediction(photos: Path, tmp_path: Path) -> None:
    report = run(photos, tmp_path, classes=("top:5",), size=64, fit="crop")
    for row in report["images"]:
        assert row["explanations"][0]["scores"]["grid"] == [1, 1]
        expected = [prediction["probability"] for prediction in row["predictions"]]
        np.testing.assert_allclose(raw(tmp_path, row)["probabilities"][:, 0, 0], expected, atol=1e-5)


def test_overlays_have_a_key(photos: Path, tmp_path: Path) -> None:
    """Below the picture, from probability 0 to 1, whatever the map's own values."""
    report = run(photos, tmp_path, classes=("top:1",), size=64, fit="crop")
    for row in report["images"]:
        [each] = row["explanations"]
        drawn = pixels(tmp_path / each["files"]["overlay"])
        assert drawn.shape[1] == row["width"]
        band = drawn[row["height"] :]
        assert len(band) >= 17
        for end in (0, 255):
            assert (band == colormap("turbo")[end]).all(axis=2).any()


def test_one_logit_is_two_classes(photos: Path, tmp_path: Path) -> None:
    report = run(photos, tmp_path, ONE, classes=("all",), size=100)
    shares = raw(tmp_path, report["images"][0])["probabilities"]
    assert shares.shape[0] == 2
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-6)
    assert float(shares.std()) > 1e-4


def test_scales_are_read_at_the_middles_of_the_finest_cells(photos: Path, tmp_path: Path) -> None:
    single = {s: run(photos, tmp_path / f"{s}", classes=("all",), size=round(80 * s)) for s in (1.0, 1.5)}
    for how, combine in (("mean", np.mean), ("max", np.max)):
        report = run(photos, tmp_path / how, classes=("all",), size=80, scales="1,1.5", merge=how)
        for index, row in enumerate(report["images"]):
            coarse, fine = (raw(tmp_path / f"{s}", single[s]["images"][index]) for s in (1.0, 1.5))
            got = raw(tmp_path / how, row)
            np.testing.assert_allclose(got["centre_y"], fine["centre_y"])
            expected = combine([interpolated(coarse, got), fine["probabilities"]], axis=0)
            np.testing.assert_allclose(got["probabilities"], expected, atol=1e-5)


def interpolated(coarse: dict[str, NDArray[Any]], at: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    maps = coarse["probabilities"]
    rows = np.array([[np.interp(at["centre_y"], coarse["centre_y"], m[:, j]) for j in range(m.shape[1])] for m in maps])
    cells = [[np.interp(at["centre_x"], coarse["centre_x"], r[:, i]) for i in range(r.shape[1])] for r in rows]
    return np.array(cells)


def test_merging_by_hand() -> None:
    coarse = Placement(torch.tensor([[[0.0, 1.0]]]), (10.0, 8.0), (10.0, 8.0))
    fine = Placement(torch.tensor([[[0.2, 0.4, 0.6]]]), (10.0, 4.0), (8.0, 4.0))
    # Read at 8, 12 and 16: before the first middle, a quarter, three quarters of the way.
    torch.testing.assert_close(merged([coarse, fine]).values, torch.tensor([[[0.1, 0.325, 0.675]]]))
    torch.testing.assert_close(merged([fine, coarse], "max").values, torch.tensor([[[0.2, 0.4, 0.75]]]))


def test_cells_are_placed_by_their_middles() -> None:
    values = np.array([[0.0, 1.0, 3.0]], np.float32)
    placed = place_cells(values, (4.0, 5.0), (9.0, 4.0), (0.0, 0.0, 20.0, 7.0), (20, 7))
    expected = np.interp(np.arange(20) + 0.5, [5, 9, 13], values[0])
    np.testing.assert_allclose(placed.values, np.tile(expected, (7, 1)), atol=1e-6)
    part = place_cells(values, (4.0, 5.0), (9.0, 4.0), (3.0, 2.0, 15.0, 7.0), (20, 7))
    assert part.seen == (3, 2, 15, 7)
    np.testing.assert_allclose(part.values[2:, 3:15], placed.values[2:, 3:15])
    assert not part.values[:2].any()
    assert not part.values[:, 15:].any()
    small = place_cells(np.arange(6, dtype=np.float32)[None], (1.0, 0.25), (2.0, 0.5), (0.0, 0.0, 3.0, 2.0), (3, 2))
    np.testing.assert_allclose(small.values, [[0.5, 2.5, 4.5]] * 2)


def make_detector() -> nn.Module:
    """Says "bright" where a window of 16 pixels is bright: without padding, on cells of 4 pixels."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.fc = nn.Conv2d(3, 1, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Linear(1, 2)
            with torch.no_grad():
                self.conv.weight.fill_(1 / 48)
                self.conv.bias.zero_()  # type: ignore[union-attr]
                self.fc.weight.copy_(torch.tensor([[0.0], [8.0]]))
                self.fc.bias.copy_(torch.tensor([2.0, 0.0]))

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.fc(self.pool(self.conv(x)).flatten(1))
            return found

    return Detector()


DETECTOR = ModelSpec(
    model=f"{__file__}:make_detector", input_size=(3, 16, 16), resize=16, mean=(0.0,), std=(1.0,)
)  # fmt: skip


@pytest.mark.parametrize("fit", ["whole", "crop", "squeeze"])
@pytest.mark.parametrize("centre", [(60, 100), (81, 77), (52, 115)])
def test_the_map_lies_on_what_the_network_saw(fit: str, centre: tuple[int, int], tmp_path: Path) -> None:
    picture = np.zeros((120, 200, 3), np.uint8)
    y, x = centre
    picture[y - 15 : y + 15, x - 15 : x + 15] = 255
    Image.fromarray(picture).save(tmp_path / "square.png")
    report = run(tmp_path / "square.png", tmp_path / "out", DETECTOR, classes=("1",), size=64, fit=fit, scales="1,1.5")
    [row] = report["images"]
    picture_of_it = Image.open(tmp_path / "out" / row["explanations"][0]["files"]["heatmap"])
    heat = np.asarray(picture_of_it.convert("L")).astype(float)
    assert heat.shape == (120, 200)
    heat[heat < 60] = 0  # what the class has everywhere
    found = [(heat.sum(1 - a) * (np.arange(heat.shape[a]) + 0.5)).sum() / heat.sum() for a in (0, 1)]
    # A cell is 7.5 pixels (squeezed: 12.5 across) of the image, or two thirds of that at the second scale.
    assert found == pytest.approx(centre, abs=1.5)
    assert row["seen_xywh"] == ([40, 0, 120, 120] if fit == "crop" else [0, 0, 200, 120])
    peak = row["explanations"][0]["scores"]["peak"]
    assert abs(peak[0] - x) < 10
    assert abs(peak[1] - y) < 10


def test_the_label_map_has_the_square_in_its_place(tmp_path: Path) -> None:
    picture = np.zeros((120, 200, 3), np.uint8)
    picture[40:100, 100:160] = 255
    Image.fromarray(picture).save(tmp_path / "square.png")
    report = run(tmp_path / "square.png", tmp_path / "out", DETECTOR, classes=("1",), size=64)
    [row] = report["images"]
    arrays = raw(tmp_path / "out", row)
    inside = (arrays["argmax"] == 1).nonzero()
    assert arrays["centre_y"][inside[0]].mean() == pytest.approx(70, abs=4)
    assert arrays["centre_x"][inside[1]].mean() == pytest.approx(130, abs=4)
    shown = Image.open(tmp_path / "out" / row["explanations"][0]["files"]["classes"])
    [figure] = row["figures"]
    assert figure["file"] == row["explanations"][0]["files"]["classes"]
    # Margin 16, drawn at 240 pixels across: teal (the second colour) on white, blue on black.
    bright, dark = shown.getpixel((16 + round(130 * 1.2), 16 + round(70 * 1.2))), shown.getpixel((30, 30))
    assert isinstance(bright, tuple)
    assert isinstance(dark, tuple)
    assert bright == tuple(round(0.45 * 255 + 0.55 * level) for level in (45, 150, 135))
    assert dark == (0, 0, round(0.55 * 255))


def test_a_grey_network_finds_two_digits_beside_each_other(tmp_path: Path) -> None:
    model = digits.trained(tmp_path)
    images, labels = digits.load()
    three, seven = (next(i for i in range(1300, 1797) if labels[i] == digit) for digit in (3, 7))
    Image.fromarray(np.hstack([images[three], np.zeros((8, 4), np.uint8), images[seven]])).save(tmp_path / "two.png")
    report = run(tmp_path / "two.png", tmp_path / "out", model, classes=("3", "7"), size=8)
    arrays = raw(tmp_path / "out", report["images"][0])
    assert arrays["argmax"].shape == (1, 7)
    assert arrays["argmax"][0, 0] == 3
    assert arrays["argmax"][0, -1] == 7
    assert arrays["centre_x"].tolist() == [4, 6, 8, 10, 12, 14, 16]


@pytest.mark.parametrize(
    ("params", "save", "said"),
    [
        ({"size": 60}, ("overlay",), "--size 60 times --scales 1 is less than the 64 pixels"),
        ({"size": 100, "scales": "0.5,1"}, ("overlay",), "--scales 0.5 is less than"),
        ({"scales": "1,two"}, ("overlay",), "--scales 1,two: expected numbers"),
        ({"scales": "0"}, ("overlay",), "--scales 0: expected numbers"),
        ({}, ("panel",), "--save panel: classmap does not write that"),
    ],
)
def test_requests_that_cannot_be_met(
    params: dict[str, Any], save: tuple[str, ...], said: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(CnnvizError, match=said):
        run(photos, tmp_path, draw={"save": save}, **params)


def test_a_strip_that_would_take_all_memory_is_a_failed_input(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 9000, 3), np.uint8)).save(tmp_path / "strip.png")
    with pytest.raises(AssertionError):
        run(tmp_path / "strip.png", tmp_path / "out")
    [row] = json.loads((tmp_path / "out" / "report.json").read_text())["images"]
    assert row["error"]["type"] == "too-large"


def test_one_number_for_the_share_of_a_class(tmp_path: Path) -> None:
    """The share of pixels whose nearest cell says so: in the report as in the legend of the picture."""
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (120, 200, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    report = run(tmp_path / "a.png", tmp_path / "out", DETECTOR, classes=("all",), size=64)
    [row] = report["images"]
    with np.load(tmp_path / "out" / row["explanations"][0]["files"]["raw"]) as archive:
        stored = dict(archive)  # of an archive, each access reads the file
    x, y, width, height = row["seen_xywh"]
    count: dict[int, int] = {}
    for line in range(y, y + height):
        near = int(np.abs(stored["centre_y"] - line - 0.5).argmin())
        for column in range(x, x + width):
            index = int(stored["argmax"][near, int(np.abs(stored["centre_x"] - column - 0.5).argmin())])
            count[index] = count.get(index, 0) + 1
    shares = {each["target"]["class_index"]: each["scores"]["argmax_share"] for each in row["explanations"]}
    for index, share in shares.items():
        assert share == pytest.approx(count.get(index, 0) / (width * height), abs=1e-6)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert all(each["layer"] is None for each in row["explanations"])


@pytest.mark.parametrize(("classes", "told"), [(("pred",), True), (("0",), False)])
def test_a_class_that_covers_the_image_and_is_not_drawn_is_said(
    tmp_path: Path, classes: tuple[str, ...], told: bool
) -> None:
    """The centre, which is what the network sees at its training size, is dark; all else is bright."""
    picture = np.full((120, 600, 3), 255, np.uint8)
    picture[:, 240:360] = 0
    Image.fromarray(picture).save(tmp_path / "a.png")
    asked: dict[str, Any] = {"model": DETECTOR, "classes": classes, "params": {"size": 64}, **RAW}
    report, _, console = ran("classmap", [tmp_path / "a.png"], tmp_path / "out", compile="off", **asked)
    arrays = raw(tmp_path / "out", report["images"][0])
    near = [int(np.abs(arrays["centre_x"] - column - 0.5).argmin()) for column in range(600)]
    share = (arrays["argmax"][0][near] == 1).mean()
    assert 0.75 < share < 0.9
    expected = (
        "a.png: the map is of class 0, which the network says at its training size; at --size 64 class 1 covers "
        f"{100 * share:.1f} % of what it saw, class 0 {100 * (1 - share):.1f} %: -c 1 maps it"
    )
    assert [note for note in console.notes if note.startswith("a.png")] == ([expected] if told else [])
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    target = report["images"][0]["explanations"][0]["target"]
    assert f"{100 * target['probability']:.1f} % at the training size" in page
    assert "bars: what the network says at its training size" in page


def test_the_figure_of_a_picture_is_of_its_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float]] = []

    def legend(picture: NDArray[np.uint8], label: str, probability: float, *rest: Any) -> NDArray[np.uint8]:
        told.append((label, probability))
        return picture

    monkeypatch.setattr("cnnviz.studies.classmap.study.with_legend", legend)
    picture = np.zeros((120, 600, 3), np.uint8)
    picture[:, 500:] = 255  # beside the centre crop, in which class 1 has e^0 / (e^0 + e^2)
    Image.fromarray(picture).save(tmp_path / "a.png")
    report = run(tmp_path / "a.png", tmp_path / "out", DETECTOR, classes=("1",), size=64, draw={"save": ("overlay",)})
    assert report["images"][0]["explanations"][0]["target"]["probability"] == pytest.approx(1 / (1 + np.e**2))
    assert told == [("class 1, at most", pytest.approx(1 / (1 + np.exp(2 - 8)), abs=1e-5))]
