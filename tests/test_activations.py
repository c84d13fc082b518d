"""The command activations: figures of channels against NumPy, their places in the grid, dead channels of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from cnnviz.errors import CnnvizError
from cnnviz.models.loading.load import load
from cnnviz.models.preprocess import normalize, prepare
from cnnviz.render.colormap import colormap
from cnnviz.render.tiles import Layout, coloured, layout, table, tiles
from cnnviz.settings import ModelSpec
from cnnviz.studies.activations import study
from cnnviz.studies.activations.channels import ChannelTally, channel_figures, order
from tests.support import digits
from tests.support.runs import TINY, ran


def run(
    inputs: Path, out: Path, model: ModelSpec = TINY, layers: tuple[str, ...] = (), batch: int = 2, **params: Any
) -> dict[str, Any]:
    asked: dict[str, Any] = {"model": model, "layers": layers, "batch_size": batch, "params": params}
    report, _, _ = ran("activations", [inputs], out, overwrite=True, **asked)
    assert all(row["error"] is None for row in report["images"])
    return report


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(4)
    for index in range(5):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((80, 70), Image.Resampling.BICUBIC).save(root / f"{index}.png")
    return root


def by_hand(path: str, stop: int, model: ModelSpec = TINY) -> NDArray[np.float32]:
    """Output [C, h, w] of the first ``stop`` parts of a sequential network."""
    loaded = load(model)
    pixels, _ = prepare(np.asarray(Image.open(path).convert("RGB")), loaded.preprocess)
    net: Any = loaded.module
    with torch.no_grad():
        found: NDArray[np.float32] = net[:stop](normalize(pixels[None], loaded.preprocess))[0].numpy()
    return found


@pytest.mark.parametrize("batch", [1, 3])
def test_figures_of_every_image_and_of_the_folder(batch: int, photos: Path, tmp_path: Path) -> None:
    report = run(photos, tmp_path, layers=("2", "4"), batch=batch, sort="max", raw=True)
    for place, stop in ((0, 3), (1, 5)):
        values = np.stack([by_hand(row["path"], stop) for row in report["images"]])
        for row, one in zip(report["images"], values, strict=True):
            said = row["layers"][place]
            assert said["size"] == list(one.shape[1:])
            assert said["sparsity"] == pytest.approx((one <= 0).mean(), abs=1e-3)
            assert said["silent"] == (one.max((1, 2)) <= 0).sum()
            best = np.argsort(-one.max((1, 2)), kind="stable")[:10]
            assert [unit["channel"] for unit in said["strongest"]][:3] == best[:3].tolist()
            with np.load(tmp_path / f"images/{Path(row['path']).name}.activations.npz") as arrays:
                np.testing.assert_allclose(arrays[said["layer"]], one, atol=1e-4)
        whole = report["layers"][place]
        assert whole["images"] == 5
        assert whole["dead"] is None  # of five images
        assert whole["silent"] == np.flatnonzero(values.max((0, 2, 3)) == values.min((0, 2, 3))).tolist()
        for unit, one in zip(whole["units"], values.transpose(1, 0, 2, 3), strict=True):
            assert unit["mean"] == pytest.approx(one.mean(), abs=1e-4)
            assert unit["max"] == pytest.approx(one.max(), abs=1e-4)
            assert unit["fired"] == (one.max((1, 2)) > 0).mean()
            if one.max() > 0:
                assert unit["strongest"] == report["images"][int(one.max((1, 2)).argmax())]["path"]


def test_a_peak_is_where_the_image_has_it(tmp_path: Path) -> None:
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[20:24, 72:76] = 255
    (tmp_path / "in").mkdir()
    Image.fromarray(picture).save(tmp_path / "in" / "dot.png")
    report = run(tmp_path / "in", tmp_path / "out", SPOT, sort="max", channel="1")
    [layer] = report["images"][0]["layers"]
    # The crop keeps columns 32 to 96; cells are 4 pixels.
    assert layer["strongest"][0]["channel"] == 1
    assert layer["strongest"][0]["peak"] == [74, 22]
    [enlarged] = layer["enlarged"]
    shown = np.asarray(Image.open(tmp_path / "out" / enlarged["file"]).convert("RGB")).astype(int)
    red = shown[:, :, 0] - picture[:, :, 0] * 0.5
    assert abs(red.sum(0)[32:96].argmax() + 32 - 73.5) < 3
    assert enlarged["channel"] == 1


def make_spot() -> nn.Module:
    """Two channels: nothing, and brightness, in cells of 4 pixels."""
    net = nn.Sequential(nn.Conv2d(3, 2, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net[0].weight[1] = 1 / 48  # type: ignore[operator]
    return net.eval()


SPOT = ModelSpec(model=f"{__file__}:make_spot", input_size=(3, 64, 64), resize=64, mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize("count", [19, 20])
def test_a_channel_that_never_answers_is_dead_where_enough_images_say_so(count: int, tmp_path: Path) -> None:
    for number in range(count):
        grey = np.full((8, 8, 3), 10 * number + 20, np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(grey).save(tmp_path / "in" / f"{number:02}.png")
    report = run(tmp_path / "in", tmp_path / "out", SPOT)
    enough = count == 20
    assert report["layers"][0]["silent"] == [0]
    assert report["layers"][0]["dead"] == ([0] if enough else None)
    [(_, summary)] = report["summary"]["activations"].items()
    assert summary["silent"] == 1
    assert summary["dead"] == (1 if enough else None)
    assert summary["channels"] == 2
    assert report["layers"][0]["units"][0] == {
        "unit": 0, "mean": 0, "min": 0, "max": 0, "fired": 0, "sparsity": 1, "dead": True if enough else None,
        "strongest": report["images"][0]["path"],
    }  # fmt: skip


def test_a_grey_network_without_dead_channels_named(tmp_path: Path) -> None:
    model = digits.trained(tmp_path)
    folder = digits.write(tmp_path / "in", 12)
    report = run(folder, tmp_path / "out", model, ("1", "4"))
    assert [layer["channels"] for layer in report["layers"]] == [16, 32]
    row = report["images"][0]
    images, _ = digits.load()
    place = int(Path(row["path"]).stem)
    net: Any = load(model).module
    with torch.no_grad():
        expected = net[:2](torch.from_numpy(images[place]).float()[None, None] / 255)[0].numpy()
    assert row["layers"][0]["sparsity"] == pytest.approx((expected <= 0).mean(), abs=1e-3)


@pytest.mark.parametrize(
    ("sort", "numbers", "end"),
    [
        ("mean", [2, 0], "; 2 are zero and left out"),
        ("max", [2, 0], "; 2 are zero and left out"),
        ("index", [0, 1, 2, 3], "scale"),
        ("dead", [0], "; all are zero"),
    ],
)
def test_channels_that_are_zero_have_no_tile_unless_places_say_which_they_are(
    sort: str, numbers: list[int], end: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[list[int], str]] = []

    def remembered(pictures: Any, shown: list[int], place: Layout, title: str) -> NDArray[np.uint8]:
        drawn.append((list(shown), title))
        return tiles(pictures, shown, place, title)

    monkeypatch.setattr(study, "tiles", remembered)
    scale = "[1., 0., 2., 0.]" if sort != "dead" else "[0., 0., 0., 0.]"
    source = f"""
import torch
from torch import nn

class Scaled(nn.Module):
    def forward(self, x):
        return x.mean(1, keepdim=True).square() * torch.tensor({scale})[None, :, None, None]

def make():
    return nn.Sequential(Scaled(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""
    (tmp_path / "scaled.py").write_text(source)
    model = ModelSpec(model=f"{tmp_path}/scaled.py:make", input_size=(3, 64, 64), resize=64)
    run(photos / "0.png", tmp_path / "out", model, ("0",), sort="mean" if sort == "dead" else sort)
    [(shown, title)] = drawn
    assert shown == numbers
    assert title.startswith("0: 4 channels of 64x64, by ")
    assert title.endswith(end)


def test_order_and_figures_by_hand() -> None:
    values = np.zeros((3, 2, 2), np.float32)
    values[0], values[1, 1, 0], values[2] = 1, 3, 1
    figures = channel_figures(values)
    assert order(figures, "index").tolist() == [0, 1, 2]
    assert order(figures, "mean").tolist() == [0, 2, 1]
    assert order(figures, "max").tolist() == [1, 0, 2]
    assert figures.peak.tolist() == [[0, 0], [1, 0], [0, 0]]
    assert figures.sparsity == pytest.approx(0.25)


def test_a_tally_keeps_the_first_of_the_strongest_and_nothing_of_no_images() -> None:
    tally = ChannelTally(2)
    assert (tally.dead(), tally.sparsity(), tally.units()) == (None, None, [])
    for name, value in (("a", 1.0), ("b", 4.0), ("c", 4.0)):
        tally.add(channel_figures(np.array([[[value, 0]], [[-2, -2]]], np.float32)), name)
    first, second = tally.units()
    assert first["strongest"] == "b"
    assert first["mean"] == pytest.approx(1.5)
    assert second["dead"] is None
    assert (tally.silent(), tally.dead()) == ([1], None)


def test_tiles_stand_in_rows_in_their_colours() -> None:
    values = [np.full((2, 2), v, np.float32) for v in (0.0, 1.0, 2.0)]
    pictures = [coloured(v, 2.0, "viridis", False) for v in values]
    shown = tiles(pictures, [4, 8, 1], Layout(2, (10, 10), 4, False), "")
    # Margin 12, title 26, cells of 10 with 4 between.
    for (x, y), value in zip(((12, 38), (26, 38), (12, 52)), (0, 128, 255), strict=True):
        assert (shown[y : y + 10, x : x + 10] == colormap("viridis")[value]).all()
    assert (shown[38:48, 22:26] == 255).all()


def test_signed_values_are_drawn_around_the_neutral_colour() -> None:
    shown = coloured(np.array([[-2.0, 0.0, 1.0, 2.0]], np.float32), 2.0, "auto", True)
    assert (shown[0] == colormap("coolwarm")[[1, 128, 192, 255]]).all()
    named = coloured(np.array([[-2.0, 0.0, 2.0]], np.float32), 2.0, "turbo", True)
    assert (named[0] == colormap("turbo")[[0, 128, 255]]).all()
    assert (coloured(np.zeros((1, 1), np.float32), 0.0, "turbo", False) == colormap("turbo")[0]).all()


def test_layouts_grow_by_whole_pixels_and_tables_stand_at_their_places() -> None:
    assert layout(64, (13, 13)).cell == (78, 78)
    assert layout(2048, (7, 7)).cell[0] % 7 == 0
    assert layout(1, (500, 250)).cell == (64, 128)
    red, blue = (np.full((1, 1, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    shown = table([[red, blue], [blue, red]], [0, 1], [0, 1], 20, "t").astype(int)
    where = np.argwhere((shown == [200, 0, 0]).all(2))
    assert len(where) == 800
    top, left = where.min(0)
    assert (shown[top : top + 20, left + 22 : left + 42] == [0, 0, 200]).all()
    assert (shown[top + 22 : top + 42, left + 22 : left + 42] == [200, 0, 0]).all()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"channel": "12"}, "--channel 12: 12 does not exist: there are 12 channels of 4"),
        ({"channel": "a"}, "--channel a: 'a' is not a number"),
        ({"sort": "size"}, "sort='size'"),
    ],
)
def test_requests_that_cannot_be_met(params: dict[str, Any], said: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(CnnvizError, match=said):
        run(photos, tmp_path, **params)
