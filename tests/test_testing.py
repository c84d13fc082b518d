"""``cnnviz.testing``: on a network whose map is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cnnviz
from cnnviz.errors import CnnvizError
from cnnviz.testing import assert_ignores, assert_looks_at, assert_no_drift
from tests.support import colour_network
from tests.support.colour_network import SIDE

BOX = (8, 16, 24, 16)


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A red rectangle in BOX and half as much red, in all, elsewhere."""
    monkeypatch.setenv("CNNVIZ_FAILURES", str(tmp_path / "failures"))
    rgb = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    rgb[16:32, 8:32, 0] = 255
    rgb[48:56, 0:24, 0] = 255
    path = tmp_path / "red.png"
    Image.fromarray(rgb).save(path)
    return path


@pytest.fixture(scope="module")
def model() -> cnnviz.Model:
    name = f"{colour_network.__file__}:make"
    return cnnviz.load_model(name, input_size=(3, SIDE, SIDE), resize=SIDE, mean=(0, 0, 0), std=(1, 1, 1))


def _share(path: Path, box: tuple[int, int, int, int]) -> float:
    """Of the map that the network must have: the red of each cell, enlarged bilinearly."""
    cells = np.asarray(Image.open(path), dtype=np.float32)[..., 0].reshape(16, 4, 16, 4).mean((1, 3))
    large = torch.nn.functional.interpolate(torch.from_numpy(cells)[None, None], (SIDE, SIDE), mode="bilinear")[0, 0]
    x, y, w, h = box
    return float(large[y : y + h, x : x + w].sum() / large.sum())


def test_the_share_is_that_of_the_map(photo: Path, model: cnnviz.Model, tmp_path: Path) -> None:
    share = _share(photo, BOX)
    assert 0.5 < share < 0.7
    for image in (photo, Image.open(photo), np.asarray(Image.open(photo))):
        assert_looks_at(model, image, BOX, at_least=share - 1e-3, target=0)
        assert_ignores(model, image, BOX, at_most=share + 1e-3, target=0)
    with pytest.raises(AssertionError, match=rf"gradcam of class 0: {share:.3g} of it lies in \[8, 16, 24, 16\]"):
        assert_looks_at(model, photo, BOX, at_least=share + 1e-3, target=0)
    with pytest.raises(AssertionError, match="expected at most"):
        assert_ignores(model, photo, BOX, at_most=share - 1e-3, target=0)
    [picture] = (tmp_path / "failures").iterdir()
    assert picture.name == "test_the_share_is_that_of_the_map.png"
    with Image.open(picture) as shown:
        assert shown.size == (SIDE, SIDE)


def test_a_module_takes_a_prepared_tensor(photo: Path) -> None:
    pixels = torch.from_numpy(np.asarray(Image.open(photo)).copy()).permute(2, 0, 1).float() / 255
    module = colour_network.make().eval()
    assert_looks_at(module, pixels, BOX, at_least=_share(photo, BOX) - 1e-3, target=0)
    with pytest.raises(CnnvizError, match="how pictures become its input"):
        assert_looks_at(module, photo, BOX)


def test_a_map_without_positive_values_lies_nowhere(photo: Path, model: cnnviz.Model) -> None:
    for claim in (
        lambda: assert_looks_at(model, photo, BOX, at_least=0, target=1),
        lambda: assert_ignores(model, photo, BOX, at_most=1, target=1),
    ):
        with pytest.raises(AssertionError, match="of class 1: the map lies nowhere: it has no positive values; see "):
            claim()


def test_a_map_that_is_the_same_everywhere_lies_nowhere(photo: Path, model: cnnviz.Model) -> None:
    """All of it red: the map is positive, and a box has the share of it that the box has of the picture."""
    red = np.zeros_like(np.asarray(Image.open(photo)))
    red[..., 0] = 255
    found = cnnviz.explain(model, model.transform(red)[None], target=0).raw
    assert float(found.min()) == float(found.max()) > 0
    for claim in (
        lambda: assert_looks_at(model, red, BOX, at_least=0, target=0),
        lambda: assert_ignores(model, red, BOX, at_most=1, target=0),
    ):
        with pytest.raises(AssertionError, match="the map lies nowhere: it is the same everywhere"):
            claim()


def test_drift_of_maps_that_are_the_same_everywhere(photo: Path, model: cnnviz.Model, tmp_path: Path) -> None:
    """As in an audit: two of them are alike, whatever their value, and one beside another map is not."""
    red, paler, kept = np.zeros((SIDE, SIDE, 3), dtype=np.uint8), np.zeros((SIDE, SIDE, 3), dtype=np.uint8), tmp_path
    red[..., 0], paler[..., 0] = 255, 51
    assert_no_drift(model, red, kept / "red.npz", target=0)
    assert_no_drift(model, paler, kept / "red.npz", target=0)
    with pytest.raises(AssertionError, match=r"is 0, expected at least 0.9: the accepted map is the same everywhere"):
        assert_no_drift(model, photo, kept / "red.npz", target=0)
    assert_no_drift(model, photo, kept / "photo.npz", target=0)
    with pytest.raises(AssertionError, match=r"is 0, expected at least 0.9: the map is the same everywhere"):
        assert_no_drift(model, red, kept / "photo.npz", target=0)


def test_drift(photo: Path, model: cnnviz.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept" / "red.npz"
    assert_no_drift(model, photo, kept, target=0)
    assert kept.exists()
    assert_no_drift(model, photo, kept, target=0)
    turned = tmp_path / "turned.png"
    Image.open(photo).rotate(90).save(turned)
    monkeypatch.setenv("CNNVIZ_FAILURES", "")
    with pytest.raises(AssertionError, match=r"rank correlation with .* expected at least 0.9$"):
        assert_no_drift(model, turned, kept, target=0)
    with pytest.raises(AssertionError, match="the map has the size"):
        assert_no_drift(model, photo, kept, method="saliency", target=0)
    kept.write_text("no map")
    with pytest.raises(CnnvizError, match="no map can be read"):
        assert_no_drift(model, photo, kept, target=0)


def test_drift_of_another_part_of_the_picture_is_refused(
    photo: Path, model: cnnviz.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same photograph at twice the size, of which the centre crop shows a quarter, on as many cells."""
    monkeypatch.setenv("CNNVIZ_FAILURES", "")
    name, kept = f"{colour_network.__file__}:make", tmp_path / "kept.npz"
    near = cnnviz.load_model(name, input_size=(3, SIDE, SIDE), resize=2 * SIDE, mean=(0, 0, 0), std=(1, 1, 1))
    assert_no_drift(model, photo, kept, target=0)
    expected = (
        r"the map covers x,y,w,h \[16, 16, 32, 32\], the accepted one \[0, 0, 64, 64\] of the picture: the network is "
        r"shown another part; delete .*kept.npz to accept this one$"
    )
    with pytest.raises(AssertionError, match=expected):
        assert_no_drift(near, photo, kept, at_least=-1, target=0)
    # The same photograph at another resolution is no other part of it.
    larger = np.asarray(Image.open(photo)).repeat(2, 0).repeat(2, 1)
    assert_no_drift(model, larger, kept, at_least=0.7, target=0)  # another resolution blurs its edges
    with pytest.raises(AssertionError, match=r"covers x,y,w,h \[32, 32, 64, 64\], the accepted one \[0, 0, 128, 128\]"):
        assert_no_drift(near, larger, kept, at_least=-1, target=0)
    # Files of earlier versions do not say which part it is.
    with np.load(kept) as stored:
        np.savez(kept, raw=stored["raw"])
    assert_no_drift(near, photo, kept, at_least=-1, target=0)


@pytest.mark.parametrize(
    ("box", "why"),
    [
        (
            (0, 0, 30, SIDE),
            r"the network saw nothing of the box \[0, 0, 30, 64\]: it was shown \[32, 0, 64, 64\]; load",
        ),
        ((97, 10, 20, 20), r"the network saw nothing of the box \[97, 10, 20, 20\]: it was shown \[32, 0, 64, 64\]"),
        ((130, 0, 10, 10), r"the box \[130, 0, 10, 10\] has no pixel of the picture, which is 128 x 64; see "),
        ((40, 10, 0, 10), r"the box \[40, 10, 0, 10\] has no pixel of the picture"),
    ],
)
def test_a_box_that_the_network_did_not_see_is_not_ignored(
    photo: Path, model: cnnviz.Model, box: tuple[int, int, int, int], why: str
) -> None:
    """Of 128 x 64 pixels the crop shows the middle 64."""
    wide = np.zeros((SIDE, 2 * SIDE, 3), dtype=np.uint8)
    wide[:, 32:96] = np.asarray(Image.open(photo))
    for claim in (
        lambda: assert_looks_at(model, wide, box, at_least=0, target=0),
        lambda: assert_ignores(model, wide, box, at_most=1, target=0),
    ):
        with pytest.raises(AssertionError, match=f"gradcam of class 0: {why}"):
            claim()
    # A column that it saw is enough to be asked for.
    assert_ignores(model, wide, (0, 0, 33, SIDE), at_most=0.05, target=0)
    assert_looks_at(model, wide, (32 + BOX[0], *BOX[1:]), at_least=0.5, target=0)
