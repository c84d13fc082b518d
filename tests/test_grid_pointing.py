"""The grid pointing game: which mosaics, and the energy of their maps, against maps computed from the pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.maps import mosaics
from cnnviz.metrics.grid_pointing import choose, score
from cnnviz.metrics.intervals import bootstrap_mean
from cnnviz.settings import ModelSpec
from tests.support import four_colours
from tests.support.four_colours import CELL, CLASSES, COLOURS, OF_CLASS, OF_PIXEL, SIDE
from tests.support.pictures import pixels
from tests.support.runs import Quiet, ran


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures of each colour, in folders of its name; one of them shows another colour, and is taken for it."""
    rng = np.random.default_rng(4)
    for label, colour in COLOURS.items():
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(3):
            rgb = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
            x, y = rng.integers(0, 5, 2) * CELL
            rgb[y : y + 12, x : x + 12] = COLOURS["blue"] if (label, number) == ("red", 2) else colour
            Image.fromarray(rgb).save(tmp_path / "photos" / label / f"{label}{number}.png")
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    return tmp_path / "photos"


def arguments(command: str, photos: Path, out: Path, *options: str, factory: str = "make") -> list[str]:
    size = ["--input-size", str(SIDE), "--resize", str(SIDE), "--mean", "0,0,0", "--std", "1,1,1"]
    model = ["-m", f"{four_colours.__file__}:{factory}", *size, "--labels", str(photos.parent / "labels.txt")]
    return [command, str(photos), *model, "-o", str(out), *options]


def run(command: str, photos: Path, out: Path, *options: str, factory: str = "make") -> dict[str, Any]:
    words = arguments(command, photos, out, "--class", "folder", "-q", *options, factory=factory)
    assert main(words) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def by_loops(values: np.ndarray, cell: int) -> float:
    inside = total = 0.0
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            value = max(float(values[y, x]), 0.0)
            total += value
            inside += value * ((2 * y >= values.shape[0]) * 2 + (2 * x >= values.shape[1]) == cell)
    return inside / total if total else 0.0


def test_the_energy_of_a_cell() -> None:
    rng = np.random.default_rng(0)
    for shape in ((8, 8), (10, 6)):
        values = rng.standard_normal(shape).astype(np.float32)
        every = [score(values, cell) for cell in range(4)]
        np.testing.assert_allclose(every, [by_loops(values, cell) for cell in range(4)], atol=1e-12)
        assert sum(every) == pytest.approx(1)
    assert [score(np.ones((4, 4), np.float32), cell) for cell in range(4)] == [0.25] * 4
    assert score(-np.ones((4, 4), np.float32), 0) == 0


def test_which_images_stand_together() -> None:
    by_class = {index: [f"{index}{letter}" for letter in "abc"] for index in (2, 5, 7, 8, 9)}
    found = choose(by_class, 200, 0)
    assert found == choose(by_class, 200, 0)
    assert found != choose(by_class, 200, 1)
    assert len({frozenset(each.names) for each in found}) == len(found) == 200
    for each in found:
        assert len(set(each.classes)) == 4
        assert all(name in by_class[index] for name, index in zip(each.names, each.classes, strict=True))
    # 5 ways to leave out a class, 3 ** 4 choices of images: no more are to be had, and nearly all are found.
    everything = choose(by_class, 500, 0)
    assert 400 <= len(everything) <= 5 * 3**4
    assert choose({index: by_class[index] for index in (2, 5, 7)}, 5, 0) == []


def energies(photos: Path, names: Sequence[str], classes: Sequence[int]) -> list[float]:
    """Grad-CAM of the mosaic by hand: means of cells, ReLU, weights of the class, enlarged to pixels."""
    tiles = [pixels(photos / name) / 255 for name in names]
    mosaic = np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])
    side = len(mosaic) // CELL
    cells = mosaic.reshape(side, CELL, side, CELL, 3).mean(axis=(1, 3))
    of_pixel = np.array(OF_PIXEL)
    features = np.maximum(cells @ of_pixel[:, :3].T + of_pixel[:, 3], 0)
    found = []
    for cell, index in enumerate(classes):
        cam = np.maximum(features @ np.array(OF_CLASS)[index], 0)
        found.append(by_loops(cv2.resize(cam, mosaic.shape[:2], interpolation=cv2.INTER_LINEAR), cell))
    return found


def test_maps_of_mosaics(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run("evaluate", photos, out, "--metric", "sparseness", "--mosaics", "9", "--method", "gradcam,saliency")
    said = report["mosaics"]
    assert said["full_size"]
    assert len(said["mosaics"]) == 9
    wrong = {row["name"] for row in report["images"] if row["outcome"] == "wrong"}
    assert len(wrong) == 1
    for row in said["mosaics"]:
        assert not wrong & set(row["names"])
        assert [Path(name).parent.name for name in row["names"]] == [each["label"] for each in row["classes"]]
        by_hand = energies(photos, row["names"], [each["class_index"] for each in row["classes"]])
        np.testing.assert_allclose(row["energy"]["gradcam"], by_hand, atol=1e-5)
        assert min(by_hand) > 0.4
        # What does not look at the class has one map: its four cells share all of it.
        assert sum(row["energy"]["random"]) == pytest.approx(1, abs=1e-5)
    table = report["summary"]["metrics"]
    every = [(number, value) for number, row in enumerate(said["mosaics"]) for value in row["energy"]["gradcam"]]
    figure = table["gradcam"]["grid_pointing"]
    assert (figure["n"], figure["better"]) == (36, "higher")
    assert figure["value"] == pytest.approx(np.mean([value for _, value in every]), abs=1e-5)
    interval = bootstrap_mean([value for _, value in every], [f"mosaic {number}" for number, _ in every])
    assert interval is not None
    np.testing.assert_allclose(figure["ci95"], interval, atol=1e-4)
    assert table["random"]["grid_pointing"]["value"] == pytest.approx(0.25, abs=1e-5)
    assert "mosaics.png" in report["files"]
    # A row for each method: the mosaic, then its four maps.
    picture = pixels(out / "mosaics.png")
    assert picture.shape[1] > 5 * 240
    assert (picture == COLOURS["yellow"]).all(axis=2).any()


def test_one_method_alone_has_the_same_figure(photos: Path, tmp_path: Path) -> None:
    options = ("--metric", "grid_pointing:mosaics=6,seed=3")
    alone = run("gradcam", photos, tmp_path / "alone", *options)
    beside = run("evaluate", photos, tmp_path / "beside", *options, "--method", "saliency,gradcam", "--no-baselines")
    own = alone["summary"]["metrics"]["grid_pointing"]["energy"]
    assert own["value"] == pytest.approx(beside["summary"]["metrics"]["gradcam"]["grid_pointing"]["value"], abs=1e-6)
    assert [row["names"] for row in alone["mosaics"]["mosaics"]] == [r["names"] for r in beside["mosaics"]["mosaics"]]
    again = run("gradcam", photos, tmp_path / "alone", *options, "--resume")
    assert again["mosaics"] == alone["mosaics"]


def test_a_network_of_one_size_sees_them_at_half(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures of whole cells, halved: what a mosaic of them says follows from the pixels again."""
    options = ("--metric", "grid_pointing:mosaics=3", "--class", "folder")
    out = tmp_path / "out"
    assert main(arguments("saliency", photos, out, *options, factory="make_of_one_size")) == 0
    assert "images at half their size, because the network runs at one input size" in capsys.readouterr().err
    report = json.loads((out / "report.json").read_text())
    assert not report["mosaics"]["full_size"]
    for row in report["mosaics"]["mosaics"]:
        tiles = [pixels(photos / name)[::2, ::2] for name in row["names"]]  # flat colours, edges at even pixels
        mosaic = np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])]) / 255.0
        of_pixel, side = np.array(OF_PIXEL), SIDE // CELL
        cells = mosaic.reshape(side, CELL, side, CELL, 3).mean(axis=(1, 3))
        fires = (cells @ of_pixel[:, :3].T + of_pixel[:, 3] > 0)[..., None]
        for cell, each in enumerate(row["classes"]):
            weights = np.array(OF_CLASS)[each["class_index"]][:, None] * of_pixel[:, :3]
            gradient = np.abs((fires * weights).sum(axis=2)).max(axis=-1)
            energy = by_loops(np.kron(gradient, np.ones((CELL, CELL))), cell)
            assert row["energy"]["saliency"][cell] == pytest.approx(energy, abs=1e-4)


def test_what_is_missing_is_said(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--metric", "grid_pointing")
    assert main(arguments("gradcam", photos, tmp_path / "a", *words)) == 2
    assert "--metric grid_pointing: nothing says what the images show" in capsys.readouterr().err
    assert main(arguments("gradcam", photos, tmp_path / "a", *words, "--class", "folder", "--view", "whole")) == 2
    assert "images that are shown in one size" in capsys.readouterr().err
    assert main(arguments("gradcam", photos, tmp_path / "b", *words, "--class", "folder", "--limit", "6")) == 0
    assert "needs right predictions of 4 classes; there are 2 classes" in capsys.readouterr().err
    assert "mosaics" not in json.loads((tmp_path / "b" / "report.json").read_text())
    assert main(arguments("gradcam", photos, tmp_path / "c", *words, "--class", "folder")) == 0
    assert "100 were asked for; there are no more different ones" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [("gradcam", "--metric", "grid_pointing:mosaics=6"), ("evaluate", "--method", "gradcam", "--mosaics", "6")]
)
def test_no_mosaics_after_a_failure_that_ends_the_run(
    photos: Path, tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last image cannot be read: by then all four classes have right predictions, enough for mosaics."""
    (photos / max(COLOURS) / "zz.png").write_bytes(b"no picture")
    played: list[Any] = []
    play = mosaics.play
    monkeypatch.setattr("cnnviz.maps.mosaics.play", lambda *how: played.append(how) or play(*how))
    more = (
        ("--class", "folder", "-q", "--metric", "sparseness") if words[0] == "evaluate" else ("--class", "folder", "-q")
    )
    assert main(arguments(words[0], photos, tmp_path / "all", *words[1:], *more)) == 3
    assert len(played) == 1
    assert main(arguments(words[0], photos, tmp_path / "out", *words[1:], *more, "--fail-fast")) == 3
    assert len(played) == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["summary"]["stopped"] == "--fail-fast: at the first input that failed"
    assert "mosaics" not in report


def test_mosaics_that_need_too_much_memory_go_in_halves(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("gradcam", photos, tmp_path / "whole", "--metric", "grid_pointing:mosaics=6")
    explained = mosaics._Energies._explained
    sizes: list[int] = []

    def small(self: Any, some: Any, which: Any) -> Any:
        sizes.append(len(which))
        if len(which) > 2:
            raise MemoryError
        return explained(self, some, which)

    monkeypatch.setattr(mosaics._Energies, "_explained", small)
    options = ("--metric", "grid_pointing:mosaics=6", "--batch-size", "24")
    halved = run("gradcam", photos, tmp_path / "halved", *options)
    assert sizes == [6, 3, 2, 1, 3, 2, 1]
    for one, other in zip(whole["mosaics"]["mosaics"], halved["mosaics"]["mosaics"], strict=True):
        assert one["names"] == other["names"]
        np.testing.assert_allclose(one["energy"]["gradcam"], other["energy"]["gradcam"], atol=1e-5)


def test_none_are_made_after_an_interruption(photos: Path, tmp_path: Path) -> None:
    size = {"model": f"{four_colours.__file__}:make", "input_size": (3, SIDE, SIDE), "resize": SIDE}
    asked = {"classes": ("folder",), "metrics": ("grid_pointing",), "batch_size": 1, "workers": 1}
    model = ModelSpec(**size, labels=str(photos.parent / "labels.txt"), mean=(0.0,) * 3, std=(1.0,) * 3)
    report, result, _ = ran("gradcam", [photos], tmp_path / "out", model=model, reporter=Quiet(9), **asked)
    assert result.summary["interrupted"]
    assert report["summary"]["outcomes"]["correct"] >= 4
    assert "mosaics" not in report
