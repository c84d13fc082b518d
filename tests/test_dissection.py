"""Network dissection: thresholds against exact quantiles, overlaps against adding up by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from cnnviz.errors import CnnvizError
from cnnviz.io.annotation_formats import find_masks, read_coco
from cnnviz.io.sources import ImageRef
from cnnviz.models.preprocess import Geometry
from cnnviz.settings import ModelSpec
from cnnviz.studies.top_patches.dissect import on_map
from cnnviz.studies.top_patches.dissection import Overlaps, Quantiles, codes, covered
from tests.support.patches import CORNERS, NETWORKS, dotted, run


@pytest.mark.parametrize("share", [0.005, 0.1, 0.4])
def test_thresholds_are_the_quantiles_up_to_a_bin(share: float) -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(40, 6, 200, generator=generator).exp() * torch.tensor([1e-3, 1, 50, 1, 1e4, 1])[:, None]
    values[:, 3] *= torch.rand(40, 200, generator=generator) < 0.3  # mostly zero
    values[:, 5] *= -1
    histogram = Quantiles(6)
    for image in values:
        histogram.fold(codes(image).numpy())
    got = histogram.thresholds(share)
    exact = values.permute(1, 0, 2).flatten(1).double().quantile(1 - share, dim=1).clamp_min(0).numpy()
    assert got == pytest.approx(exact, rel=0.033, abs=1e-6)
    assert got[5] == 0
    assert (got[3] == 0) == (share == 0.4)


def test_bins_are_narrow_and_in_order() -> None:
    values = torch.cat([torch.tensor([-5.0, -0.0, 0.0, 1e-9]), torch.logspace(-5, 5, 4001)])
    found = codes(values).int()
    assert found[:4].tolist() == [0, 0, 0, 0]
    assert bool((found.diff() >= 0).all())
    for code in found[4:].unique():
        inside = values[found == code]
        assert float(inside.max() / inside.min()) <= 1 + 1 / 32


def test_overlaps_by_hand() -> None:
    generator = torch.Generator().manual_seed(1)
    layers = torch.rand(5, 3, 4, 4, generator=generator)
    regions = torch.rand(5, 2, 8, 8, generator=generator) < 0.3
    thresholds = torch.tensor([0.5, 0.7, 2.0])
    sums = Overlaps(3, 2)
    for layer, region in zip(layers, regions, strict=True):
        sums.fold(*covered(layer, thresholds, {0: region[0], 1: region[1]}, (8, 8)))
    masks = F.interpolate(layers, (8, 8), mode="bilinear") > thresholds[:, None, None]
    for unit in range(3):
        for concept in range(2):
            both = (masks[:, unit] & regions[:, concept]).sum()
            either = (masks[:, unit] | regions[:, concept]).sum()
            assert sums.iou()[unit, concept] == pytest.approx(float(both / either))
    with pytest.raises(CnnvizError, match="No image is among"):
        Overlaps(1, 1).iou()


def test_regions_lie_where_the_network_sees_them() -> None:
    region = np.zeros((40, 60), dtype=np.bool_)
    region[10:20, 30:40] = True
    seen = on_map(region, Geometry((60, 40), (10.0, 0.0, 50.0, 40.0)), (8, 8)).numpy()
    expected = np.zeros((8, 8), dtype=np.bool_)
    expected[2:4, 4:6] = True
    assert (seen == expected).all()
    padded = on_map(region, Geometry((60, 40), (0.0, -10.0, 60.0, 50.0)), (12, 12)).numpy()
    expected = np.zeros((12, 12), dtype=np.bool_)
    expected[4:6, 6:8] = True
    assert (padded == expected).all()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelSpec]:
    """Seven pictures with a red or a blue square; boxes and masks of both; one picture that nobody looked at."""
    root = tmp_path_factory.mktemp("scene")
    (root / "nets.py").write_text(NETWORKS)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for kind, colour in (("red", (250, 20, 20)), ("blue", (20, 20, 250))):
        for index, (x, y) in enumerate(CORNERS[kind]):
            name = f"{kind}{index}.png"
            dotted(root / "images", colour, name, (x, y))
            images.append({"id": len(images), "file_name": name})
            row = {"image_id": len(images) - 1, "category_id": 7 if kind == "red" else 9, "bbox": [x, y, 14, 14]}
            annotations.append(row)
            mask = np.zeros((160, 200), np.uint8)
            mask[y : y + 14, x : x + 14] = 255
            (root / "masks" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(root / "masks" / kind / name)
    names = [{"id": 7, "name": "red"}, {"id": 9, "name": "blue"}, {"id": 11, "name": "nothing"}]
    (root / "boxes.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": names}))
    model = ModelSpec(model=f"{root / 'nets.py'}:fixed", input_size=(3, 64, 64), resize=80, mean=(0.0,) * 3,
                      std=(1.0,) * 3)  # fmt: skip
    return root, model


def by_hand(root: Path, unit: int, threshold: float, kind: str) -> float:
    """IoU at 32 x 32 of the 128 x 128 pixels in the middle, which are resized to 64 x 64."""
    both = either = 0
    sign = torch.tensor([1.0, -1.0, -1.0] if unit == 0 else [-1.0, -1.0, 1.0])
    for file in sorted((root / "images").iterdir()):
        pixels: NDArray[Any] = np.asarray(Image.open(file).resize((100, 80), Image.Resampling.BILINEAR))
        seen = torch.from_numpy(pixels[8:72, 18:82].copy()).float().permute(2, 0, 1)[None] / 255
        layer = F.conv2d(seen, sign[:, None, None].expand(1, 3, 3, 3), stride=2, padding=1).clamp_min(0)
        found = F.interpolate(layer, (32, 32), mode="bilinear")[0, 0].numpy() > threshold
        region = np.zeros((160, 200), dtype=np.float64)
        if file.stem[:-1] == kind:
            x, y = CORNERS[kind][int(file.stem[-1])]
            region[y : y + 14, x : x + 14] = 1
        cells = region[16:144, 36:164].reshape(32, 4, 32, 4).mean((1, 3)) >= 0.5
        both += int((found & cells).sum())
        either += int((found | cells).sum())
    return both / either


@pytest.mark.parametrize("source", ["boxes", "masks"])
def test_the_command_finds_the_concept_of_each_unit(scene: tuple[Path, ModelSpec], tmp_path: Path, source: str) -> None:
    root, model = scene
    path = str(root / ("boxes.json" if source == "boxes" else "masks"))
    options = {"units": "0,1,2", "patches": 2, source: path}
    report, reporter = run(root / "images", tmp_path, model, layers=("act",), p=options)
    for row, kind, number in zip(report["units"], ("red", "blue"), (0, 1), strict=False):
        [found] = row["concepts"]
        assert found["concept"] == kind
        assert found["iou"] == pytest.approx(by_hand(root, number, row["threshold"], kind), abs=0.02)
        assert found["iou"] > 0.3
    assert report["units"][2]["concepts"] == []
    said = report["summary"]["dissection"]
    assert (said["concepts"], said["images"], said["detectors"]) == (3 if source == "boxes" else 2, 7, 2)
    assert said["unique_detectors"] == 2
    assert any("a second time" in note for note in reporter.said)


def test_images_that_are_not_listed_do_not_count(scene: tuple[Path, ModelSpec]) -> None:
    root, _ = scene
    concepts = read_coco(str(root / "boxes.json"), "--boxes")
    assert concepts.names == ("blue", "nothing", "red")
    assert concepts.truth(ImageRef("elsewhere/other.png", "other.png", 0), (200, 160)) is None
    found = concepts.truth(ImageRef("elsewhere/red1.png", "x", 0), (200, 160))
    assert found is not None
    assert found.labels == ("red",)
    region = found.region("red")
    assert np.argwhere(region).min(0).tolist() == [120, 150]
    assert int(region.sum()) == 14 * 14


@pytest.mark.parametrize(
    ("content", "said"), [("{", "cannot be read"), ("{}", "not in COCO's format"), ("[1]", "not in COCO's format")]
)
def test_files_that_are_no_boxes(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(CnnvizError, match=said):
        read_coco(str(tmp_path / "x.json"), "--boxes")


def test_folders_that_are_no_masks(scene: tuple[Path, ModelSpec], tmp_path: Path) -> None:
    with pytest.raises(CnnvizError, match="cannot be read"):
        find_masks(str(tmp_path / "none"), "--masks")
    with pytest.raises(CnnvizError, match="no masks in it"):
        find_masks(str(tmp_path), "--masks")
    root, model = scene
    with pytest.raises(CnnvizError, match="exclude each other"):
        run(root / "images", tmp_path, model, layers=("act",), p={"masks": "a", "boxes": "b"})
