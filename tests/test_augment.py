"""``--augment``: raw maps of changed copies of an image, put back and averaged, for the target of the image itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import cnnviz
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.methods.augmented import Copy, copies, overlaps
from tests.support import networks as nets
from tests.support.colour_photos import MODEL, run

# One of each room of the methods: layer, image, relevance, windows, masks, attention's relatives.
METHODS: dict[str, dict[str, Any]] = {
    "gradcam": {}, "layercam": {}, "integrated_gradients": {"steps": 4}, "lrp": {}, "fullgrad": {},
    "occlusion": {"window": 5, "stride": 3}, "ablationcam": {}, "guided": {},
}  # fmt: skip


def test_the_copies_of_kinds() -> None:
    assert [each.name for each in copies(())] == ["unchanged"]
    assert [each.name for each in copies(("flip", "contrast"))] == [
        "unchanged", "contrast 0.9", "contrast 1.1", "flip", "flip + contrast 0.9", "flip + contrast 1.1",
    ]  # fmt: skip
    assert len(list(copies(("flip", "contrast", "zoom")))) == 12


@pytest.mark.parametrize(("cells", "pixels"), [(4, 32), (7, 48), (1, 32), (32, 32), (5, 80)])
def test_what_zoom_puts_back_is_the_area_of_cells(cells: int, pixels: int) -> None:
    """Against counting on a raster in which the edges of all cells lie."""
    margin = pixels // 16
    shown = pixels - 2 * margin
    values = np.random.default_rng(0).standard_normal((cells, cells))
    # In parts of a pixel, as many as there are cells, all edges are whole numbers.
    raster = np.full((pixels * cells, pixels * cells), np.nan)
    inside = slice(margin * cells, -margin * cells)
    raster[inside, inside] = np.kron(values, np.ones((shown, shown)))
    expected, seen = np.zeros((cells, cells)), np.zeros((cells, cells))
    for i in range(cells):
        for j in range(cells):
            own = raster[i * pixels : (i + 1) * pixels, j * pixels : (j + 1) * pixels]
            expected[i, j], seen[i, j] = np.nansum(own) / own.size, np.mean(~np.isnan(own))
    found, share = Copy(zoom=True).put_back(torch.from_numpy(values)[None], (pixels, pixels))
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(share.numpy(), seen, atol=1e-12)
    assert float(overlaps(cells, 0.0, 1.0).sub(torch.eye(cells)).abs().max()) < 1e-12


def test_what_is_put_back_stays_on_its_device() -> None:
    """Of a device that need not be here: nothing is computed."""
    with FakeTensorMode():
        found, share = Copy(flip=True, zoom=True).put_back(torch.empty(2, 7, 7, device="cuda"), (64, 64))
    assert (found.device.type, share.device.type) == ("cuda", "cuda")


class _Mirrored(nn.Module):
    """What it says of an image is what it says of the mirror image, and its maps are mirrored: kernels are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)
        with torch.no_grad():
            self.conv.weight.copy_((self.conv.weight + self.conv.weight.flip(-1)) / 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.relu(self.conv(x)).mean((2, 3)))
        return logits


def test_a_network_that_does_not_see_the_flip_has_the_same_map() -> None:
    torch.manual_seed(0)
    network = _Mirrored().eval()
    batch = nets.images(2, (12, 16))
    for method in ("gradcam", "saliency", "lrp"):
        plain = cnnviz.explain(network, batch, method=method, target=1)
        both = cnnviz.explain(network, batch, method=method, target=1, augment="flip")
        torch.testing.assert_close(both.raw, plain.raw, rtol=0, atol=1e-5 * float(plain.raw.abs().max()))
        torch.testing.assert_close(both.maps, plain.maps, rtol=0, atol=1e-5 * float(plain.maps.abs().max()))
        assert both.facts["augmentation"] == ["unchanged", "flip"]


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_of_maps_of_copies(method: str) -> None:
    """Made one by one, in float64, of maps that are explained alone; a target of each image's own."""
    network, batch = nets.TOYS["residual"].build(), nets.images(3, (12, 16))
    target, options = [2, 0, 1], METHODS[method]
    found = cnnviz.explain(network, batch, method=method, target=target, augment=("contrast", "flip"), **options)
    total, drawn = 0.0, 0.0
    for flip in (False, True):
        for factor in (1.0, 0.9, 1.1):
            copy = (batch.flip(-1) if flip else batch) * factor
            own = cnnviz.explain(network, copy, method=method, target=target, **options)
            raw, maps = (each.double().numpy() for each in (own.raw, own.maps))
            total = total + (raw[..., ::-1] if flip else raw) / 6
            drawn = drawn + (maps[..., ::-1] if flip else maps) / 6
    if method == "occlusion":
        total = drawn  # positions of windows need not lie evenly
    size = float(np.abs(total).max())
    np.testing.assert_allclose(found.raw.numpy(), total, rtol=0, atol=1e-5 * size)
    np.testing.assert_allclose(found.maps.numpy(), drawn, rtol=0, atol=1e-5 * float(np.abs(drawn).max()))
    assert found.target.tolist() == target


def test_the_middle_enlarged() -> None:
    """Of Grad-CAM at 4 x 4 cells: each cell has the mean of what both copies say of it, by the area that they show."""
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 5, 3, stride=8, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)
    network = nn.Sequential(*layers).eval()
    batch = nets.images(2, (32, 32))
    found = cnnviz.explain(network, batch, target=1, augment="zoom").raw.double().numpy()
    plain = cnnviz.explain(network, batch, target=1).raw.double().numpy()
    middle = torch.nn.functional.interpolate(batch[:, :, 2:-2, 2:-2], size=(32, 32), mode="bilinear")
    zoomed = cnnviz.explain(network, middle, target=1).raw.double().numpy()
    pixels = np.full((2, 32, 32), np.nan)
    pixels[:, 2:-2, 2:-2] = np.kron(zoomed, np.ones((7, 7)))
    for i in range(4):
        for j in range(4):
            own = pixels[:, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].reshape(2, -1)
            share = np.mean(~np.isnan(own[0]))
            expected = (plain[:, i, j] + np.nansum(own, 1) / 64) / (1 + share)
            np.testing.assert_allclose(found[:, i, j], expected, rtol=1e-4, atol=1e-6)


def test_the_class_is_that_of_the_unchanged_image() -> None:
    """Of a network that takes the mirror image for another class."""

    class Left(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1, bias=False)
            nn.init.uniform_(self.conv.weight)

        def forward(self, x: Tensor) -> Tensor:
            a = torch.relu(self.conv(x))
            half = a.shape[-1] // 2
            return torch.stack([a[..., :half].mean((1, 2, 3)), a[..., half:].mean((1, 2, 3))], 1)

    torch.manual_seed(0)
    network = Left().eval()
    batch = torch.zeros(1, 3, 8, 8)
    batch[..., :4] = 2.0
    both = torch.cat([network(batch), network(batch.flip(-1))])
    assert both.argmax(1).tolist() == [0, 1]
    found = cnnviz.explain(network, batch, augment="flip")
    assert found.target.tolist() == [0]
    kept = [cnnviz.explain(network, each, target=0).raw for each in (batch, batch.flip(-1))]
    torch.testing.assert_close(found.raw, (kept[0] + kept[1].flip(-1)) / 2)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    cnnviz.explain(network, batch, augment=("flip", "zoom"))
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not network.conv._forward_hooks


def test_a_target_that_names_a_place_cannot_be_moved() -> None:
    network, batch = nets.TOYS["residual"].build(), nets.images(1, (12, 16))
    layer = cnnviz.explain(network, batch).layer
    with pytest.raises(CnnvizError, match="names a place"):
        cnnviz.explain(network, batch, method="saliency", target=f"neuron:{layer}:0:1:1", augment="flip")
    cnnviz.explain(network, batch, method="saliency", target=f"neuron:{layer}:0:1:1", augment="contrast")
    cnnviz.explain(network, batch, method="saliency", target=f"unit:{layer}:0", augment="flip")
    asked: dict[str, Any] = {"method": "neuron_conductance", "layer": layer, "steps": 2}
    with pytest.raises(CnnvizError, match="--row and --column name one place"):
        cnnviz.explain(network, batch, **asked, unit=1, row=1, column=1, augment="flip")
    with pytest.raises(CnnvizError, match="may be another in each picture"):
        cnnviz.explain(network, batch, **asked, augment="contrast")
    cnnviz.explain(network, batch, **asked, unit=1, row=1, column=1, augment="contrast")
    cnnviz.explain(network, batch, **asked, unit=1, augment="flip")
    with pytest.raises(CnnvizError, match="expected one of flip"):
        cnnviz.explain(network, batch, augment="flipp")


def test_a_run_says_over_what_it_averaged(rectangles: Path, tmp_path: Path) -> None:
    report = run("gradcam", rectangles, tmp_path / "out", "--augment", "zoom,flip", "--save", "raw,overlay")
    assert report["options"]["augment"] == ["flip", "zoom"]
    plain = run("gradcam", rectangles, tmp_path / "plain", "--save", "raw")
    for image, other in zip(report["images"], plain["images"], strict=True):
        [made], [single] = image["explanations"], other["explanations"]
        assert made["augmentation"] == ["unchanged", "flip", "zoom", "flip + zoom"]
        assert made["target"] == single["target"]
        a, b = (np.load(tmp_path / f / each["files"]["raw"])["raw"] for f, each in (("out", made), ("plain", single)))
        assert a.shape == b.shape
        assert not np.array_equal(a, b)
    assert all("augmentation" not in each for image in plain["images"] for each in image["explanations"])


def test_wrong_words_are_refused(rectangles: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["gradcam", str(rectangles), *MODEL, "-o", str(tmp_path / "out"), "--augment", "flop"]
    assert main(words) == 2
    assert "--augment flop: expected one of flip, contrast, zoom" in " ".join(capsys.readouterr().err.split())
    grid = run("grid", rectangles, tmp_path / "grid", "--method", "cam,saliency", "--augment", "flip")
    made = [each for image in grid["images"] for each in image["explanations"]]
    assert all(each["augmentation"] == ["unchanged", "flip"] for each in made)
    assert json.loads((tmp_path / "grid" / "report.json").read_text())["options"]["augment"] == ["flip"]
