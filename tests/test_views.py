"""``--view``: what of a picture the network is shown, and where its maps land."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import cnnviz
from cnnviz.cli.app import main
from cnnviz.geometry.mosaic import join
from cnnviz.models.tiles import corners
from cnnviz.run.images import alike
from tests.support import tiny_model
from tests.support.runs import tiny_options

MODEL = [*tiny_options(), "--resize", "64", "--mean", "0.5", "--std", "0.25"]


def photograph(path: Path, width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def run(args: list[str], out: Path) -> dict[str, Any]:
    assert main([*args, "-o", str(out), "--overwrite"]) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def seen_by_network(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return ((torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - 0.5) / 0.25)[None]


# Tiles.


@given(st.integers(16, 400), st.integers(16, 400), st.integers(8, 16))
def test_tiles_cover_everything_and_overlap_by_a_quarter(height: int, width: int, side: int) -> None:
    places = corners((height, width), (side, side))
    covered = np.zeros((height, width), dtype=int)
    for top, left in places:
        assert 0 <= top <= height - side
        assert 0 <= left <= width - side
        covered[top : top + side, left : left + side] += 1
    assert covered.min() >= 1
    for axis in (0, 1):
        starts = sorted({place[axis] for place in places})
        # Places are rounded to pixels, which costs at most one.
        assert all(later - sooner <= 0.75 * side + 1 for sooner, later in itertools.pairwise(starts))


def test_maps_of_tiles_that_agree_join_without_a_seam() -> None:
    height, width, side = 40, 97, 32
    y, x = np.mgrid[:height, :width].astype(np.float32)
    whole = np.sin(0.3 * x) + 0.05 * y * x
    places = corners((height, width), (side, side))
    assert len(places) > 4
    parts = [whole[top : top + side, left : left + side] for top, left in places]
    np.testing.assert_allclose(join(parts, places, (side, side), (height, width)), whole, rtol=1e-5, atol=1e-5)


def test_a_step_between_tiles_is_spread_over_their_overlap() -> None:
    places = corners((32, 56), (32, 32))
    assert places == [(0, 0), (0, 24)]
    joined = join([np.zeros((4, 4), np.float32), np.ones((4, 4), np.float32)], places, (32, 32), (32, 56))
    assert (joined[:, :24] == 0).all()
    assert (joined[:, 32:] == 1).all()
    # Over the 8 shared columns the weights are 15:1, 13:3, …, 1:15.
    np.testing.assert_allclose(joined[0, 24:32], np.arange(1, 16, 2) / 16, rtol=1e-6)


def test_every_tile_has_a_pass_of_its_own(tmp_path: Path) -> None:
    pixels = photograph(tmp_path / "a.png", 160, 64)
    report = run(["gradcam", str(tmp_path / "a.png"), *MODEL, "--view", "tiles", "--save", "raw"], tmp_path / "o")
    [record] = report["images"]
    [row] = record["explanations"]
    stored = np.load(tmp_path / "o" / row["files"]["raw"])
    boxes = [tile["xywh"] for tile in record["tiles"]]
    assert [box[2:] for box in boxes] == [[64.0, 64.0]] * 3
    assert [box[0] for box in boxes] == [0.0, 48.0, 96.0]
    network, target = tiny_model.make(), row["target"]["class_index"]
    best: list[float] = []
    for tile, box, map_ in zip(record["tiles"], boxes, stored["tiles"], strict=True):
        left = int(box[0])
        batch = seen_by_network(pixels[:, left : left + 64])
        expected = cnnviz.explain(network, batch, target=target)
        np.testing.assert_allclose(map_, expected.raw[0].numpy(), rtol=1e-4, atol=1e-6)
        shares = torch.softmax(network(batch).detach(), 1)[0]
        assert tile["predictions"][0]["class_index"] == int(shares.argmax())
        assert tile["predictions"][0]["probability"] == pytest.approx(float(shares.max()), abs=1e-5)
        best.append(float(shares.max()))
    assert [tile["decides"] for tile in record["tiles"]] == [share == max(best) for share in best]
    assert record["predictions"] == record["tiles"][int(np.argmax(best))]["predictions"]
    assert record["view"] == "tiles"
    assert record["seen_xywh"] == [0, 0, 160, 64]
    # The first tile alone covers the first 48 columns.
    first = cnnviz.explain(network, seen_by_network(pixels[:, :64]), target=target).maps[0].numpy()
    np.testing.assert_allclose(stored["raw"][:, :48], first[:, :48], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["occlusion", "saliency", "lrp", "cam"])
def test_other_methods_are_joined_too(tmp_path: Path, method: str) -> None:
    photograph(tmp_path / "a.png", 100, 64)
    words = [method, str(tmp_path / "a.png"), *MODEL, "--view", "tiles", "--save", "raw,overlay,panel", "-c", "top:2"]
    report = run(words, tmp_path / "o")
    rows = report["images"][0]["explanations"]
    assert len(rows) == 2
    for row in rows:
        stored = np.load(tmp_path / "o" / row["files"]["raw"])
        assert stored["raw"].shape[-2:] == (64, 100)
        assert np.abs(stored["raw"]).max() > 0
        assert len(stored["tiles"]) == 2


# The whole picture.


def test_whole_pictures_of_several_shapes_are_what_they_are_alone_and_stay_in_order(tmp_path: Path) -> None:
    sizes = [(64, 96), (64, 64), (96, 64), (64, 96), (101, 64)]
    for number, (width, height) in enumerate(sizes):
        photograph(tmp_path / f"{number}.png", width, height, number)
    words = [*MODEL, "--view", "whole", "--save", "raw"]
    paths = [str(tmp_path / f"{number}.png") for number in range(len(sizes))]
    together = run(["gradcam", *paths, *words, "-b", "8"], tmp_path / "o")
    assert [row["path"] for row in together["images"]] == paths
    for number, record in enumerate(together["images"]):
        alone = run(["gradcam", paths[number], *words], tmp_path / "alone")["images"][0]
        assert record["seen_xywh"] == [0, 0, *sizes[number]]
        # 101 becomes 104: sides are multiples of the stride of 8.
        assert record["input_size"] == [3, sizes[number][1], {101: 104}.get(sizes[number][0], sizes[number][0])]
        maps = [
            np.load(folder / row["explanations"][0]["files"]["raw"])["raw"]
            for folder, row in ((tmp_path / "o", record), (tmp_path / "alone", alone))
        ]
        np.testing.assert_allclose(maps[0], maps[1], rtol=1e-5, atol=1e-7)
        assert maps[0].shape == (sizes[number][1] // 8, record["input_size"][2] // 8)


def test_images_of_one_shape_make_batches_in_order() -> None:
    shapes = [(3, 8, 8), (3, 8, 16), (3, 8, 8), (3, 8, 8), (3, 16, 8), (3, 8, 16), (3, 8, 8)]
    items: list[Any] = [SimpleNamespace(pixels=np.zeros(shape)) for shape in shapes]
    assert list(alike(items, 3)) == [[0, 2, 3], [6], [1, 5], [4]]


def test_whole_equals_the_network_on_that_picture(tmp_path: Path) -> None:
    pixels = photograph(tmp_path / "a.png", 96, 64)
    words = ["gradcam", str(tmp_path / "a.png"), *MODEL, "--no-crop", "--save", "raw"]
    record = run(words, tmp_path / "o")["images"][0]
    assert record["view"] == "whole"
    row = record["explanations"][0]
    expected = cnnviz.explain(tiny_model.make(), seen_by_network(pixels), target=row["target"]["class_index"]).raw[0]
    found = np.load(tmp_path / "o" / row["files"]["raw"])["raw"]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_a_network_of_one_size_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph(tmp_path / "a.png", 96, 64)
    words = [*tiny_options("make_for_one_size"), "-o", str(tmp_path / "o")]
    assert main(["gradcam", str(tmp_path / "a.png"), *words, "--view", "whole"]) == 2
    error = capsys.readouterr().err
    assert "make_for_one_size takes inputs of 64 x 64 pixels only" in error
    assert "--view tiles" in error
    assert main(["gradcam", str(tmp_path / "a.png"), *words, "--view", "tiles"]) == 0


# What is told and drawn.


def test_studies_that_cannot_take_a_view_say_so_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph(tmp_path / "a.png", 96, 64)
    for command in ("activations", "adversarial", "dream"):
        assert main([command, str(tmp_path / "a.png"), "--view", "tiles", "-m", "nowhere"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"cnnviz: --view tiles: {command} ")
        assert "--view crop" in error


def test_two_views_at_once_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph(tmp_path / "a.png", 96, 64)
    assert main(["gradcam", str(tmp_path / "a.png"), "--no-crop", "--view", "squash"]) == 2
    assert "--no-crop means --view whole" in capsys.readouterr().err


def test_what_the_crop_leaves_out_is_told_counted_and_drawn_plainly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = photograph(tmp_path / "a.png", 128, 64)
    report = run(["gradcam", str(tmp_path / "a.png"), *MODEL], tmp_path / "o")
    assert "centre crop left out 50.0 % of 1 picture" in capsys.readouterr().err
    assert report["summary"]["outside_view"] == {"images": 1, "mean_share": 0.5}
    row = report["images"][0]["explanations"][0]
    drawn = np.asarray(Image.open(tmp_path / "o" / row["files"]["overlay"])).astype(float)
    grey = 140 + 0.4 * (pixels.astype(float) @ [0.299, 0.587, 0.114])
    assert np.abs(drawn[:, :31] - grey[:, :31, None]).max() <= 1.5
    with Image.open(tmp_path / "o" / row["files"]["heatmap"]) as heatmap:
        assert heatmap.mode == "LA"
        alpha = np.asarray(heatmap)[..., 1]
    assert (alpha[:, 32:96] == 255).all()
    assert (np.delete(alpha, np.s_[32:96], axis=1) == 0).all()


def test_nothing_is_told_where_all_was_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph(tmp_path / "a.png", 64, 64)
    report = run(["gradcam", str(tmp_path / "a.png"), *MODEL], tmp_path / "o")
    assert "left out" not in capsys.readouterr().err
    assert "outside_view" not in report["summary"]
    with Image.open(tmp_path / "o" / report["images"][0]["explanations"][0]["files"]["heatmap"]) as heatmap:
        assert heatmap.mode == "L"


def test_pictures_of_single_pixels_are_not_black(tmp_path: Path) -> None:
    """Saliency has few values many times as large as the rest: the picture ends at the 99th percentile, and says so."""
    photograph(tmp_path / "a.png", 64, 64)
    report = run(["guided", str(tmp_path / "a.png"), *MODEL, "--save", "heatmap,raw"], tmp_path / "o")
    row = report["images"][0]["explanations"][0]
    values = np.abs(np.load(tmp_path / "o" / row["files"]["raw"])["raw"]).max(0)
    assert row["drawn_limits"][1] < values.max()
    assert np.asarray(Image.open(tmp_path / "o" / row["files"]["heatmap"])).max() == 255
