"""Detectors in torchvision's form, which return a list of boxes for each image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cnnviz
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.models.graph.levels import Level
from cnnviz.models.loading import zoo
from cnnviz.models.loading.listed_boxes import class_count, lists_boxes, with_rows
from tests.support import box_network as nets

IMAGES = nets.images()
TASK = "detect:score=0.05"


def test_boxes_become_rows_best_first() -> None:
    network = nets.listed()
    network.least = 0.45
    with torch.no_grad():
        listed = network(IMAGES)
        rows = with_rows(network, IMAGES[:1])(IMAGES)
    assert lists_boxes(listed)
    assert tuple(rows.shape) == (2, network.detections_per_img, 6)
    for found, own in zip(listed, rows, strict=True):
        order = sorted(range(len(found["scores"])), key=lambda place: -float(found["scores"][place]))
        assert len(order) > 10
        for row, place in enumerate(order[: network.detections_per_img]):
            expected = [*found["boxes"][place].tolist(), float(found["scores"][place]), int(found["labels"][place]) - 1]
            assert own[row].tolist() == pytest.approx(expected)
        assert not own[len(order) :].any()


def test_the_module_is_left_as_it_was() -> None:
    network = nets.listed()
    before = (type(network), type(network.backbone), [name for name, _ in network.named_modules()])
    made = with_rows(network, IMAGES[:1])
    assert before == (type(network), type(network.backbone), [name for name, _ in network.named_modules()])
    assert made.box is network.box
    marks = {name for name, part in made.named_modules() if isinstance(part, Level)}
    assert marks == {"backbone.levels.map_0", "backbone.levels.map_pool"}
    assert {name for name, _ in made.named_modules()} == {*before[2], *marks, "backbone.levels"}
    # A hook on one is no hook on the other.
    made.register_forward_hook(lambda *_: None)
    assert not network._forward_hooks


@pytest.mark.parametrize("number", [1, 2, 5])
def test_maps_are_those_of_a_network_that_returns_its_candidates(number: int) -> None:
    """The same weights, whose candidates stand in a tensor that is traced."""
    listed, traced = nets.listed(), nets.pyramid()
    torch.testing.assert_close(listed.backbone.stem.weight, traced.stem.weight)
    for method in ("odam", "gradcam", "saliency"):
        one = cnnviz.explain(listed, IMAGES, method, target=f"box:{number}", task=TASK)
        other = cnnviz.explain(traced, IMAGES, method, target=f"box:{number}", task=f"{TASK},iou=1")
        assert one.target.tolist() == other.target.tolist()
        torch.testing.assert_close(one.raw, other.raw, rtol=1e-4, atol=1e-6)
        if method != "saliency":
            assert (
                one.layer == {"act:0": "backbone.levels.map_0", "act:1": "backbone.levels.map_pool"}[str(other.layer)]
            )


def test_where_nothing_is_found_there_is_nothing_to_explain() -> None:
    network = nets.listed()
    network.least = 2.0
    with pytest.raises(CnnvizError, match="the network finds no box"):
        cnnviz.explain(network, IMAGES, "odam", target="box:1", task=TASK)


def test_what_cannot_be_traced_needs_a_layer_unless_it_is_marked() -> None:
    class Untraced(nets.Pyramid):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if float(x.sum()) < 1e9 else x

    network = Untraced(1).eval()
    with pytest.raises(CnnvizError, match="nobody knows which layer feeds the head"):
        cnnviz.explain(network, IMAGES, "odam", target="box:1")
    assert cnnviz.explain(network, IMAGES, "odam", target="box:1", layer="act:0").layer == "act:0"


@pytest.mark.parametrize("background", [True, False])
def test_labels_count_from_one(tmp_path: Path, background: bool) -> None:
    rgb = (IMAGES[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(np.ascontiguousarray(rgb)).save(tmp_path / "a.png")
    names = [*(["__background__"] if background else []), *nets.CLASSES]
    (tmp_path / "labels.txt").write_text("\n".join(names))
    run = [
        "gradcam",
        str(tmp_path / "a.png"),
        "-m",
        f"{nets.__file__}:listed",
        "--labels",
        str(tmp_path / "labels.txt"),
    ]
    size = ["--input-size", str(nets.SIDE), "--resize", str(nets.SIDE), "--mean", "0,0,0", "--std", "1,1,1"]
    assert main([*run, *size, "-o", str(tmp_path / "out"), "-q", "-t", "box:2", "--save", "none"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert report["model"]["num_classes"] == 3
    [image] = report["images"]
    found = nets.listed()(torch.from_numpy(np.asarray(rgb)).permute(2, 0, 1)[None].float() / 255)[0]
    order = found["scores"].argsort(descending=True)
    labels = [nets.CLASSES[int(found["labels"][place]) - 1] for place in order]
    assert [row["label"] for row in image["predictions"]] == labels[: len(image["predictions"])]
    [row] = image["explanations"]
    assert row["layer"] in row["levels"] == ["backbone.levels.map_0", "backbone.levels.map_pool"]
    x0, y0, x1, y1 = found["boxes"][int(order[1])].tolist()
    assert row["target"]["box_xywh"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], rel=1e-4)


def test_torchvision_by_name() -> None:
    recipe = zoo.find("ssdlite320_mobilenet_v3_large", "DEFAULT", 3)
    assert (recipe.labels[0], len(recipe.labels)) == ("person", 90)
    assert (recipe.preprocess.mean, recipe.preprocess.view) == ((0.0,) * 3, "squash")
    assert zoo.find("fasterrcnn_resnet50_fpn", "none", 3).preprocess.view == "whole"


@pytest.mark.slow
def test_a_detector_of_torchvision_is_explained() -> None:
    model = cnnviz.load_model("ssdlite320_mobilenet_v3_large", weights=None)
    assert class_count(model.module) == len(model.labels) == 90
    images = torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    found = cnnviz.explain(model, images, "odam", target="box:1", task="detect:score=0.001")
    assert found.layer.startswith("backbone.levels.map_")  # type: ignore[union-attr]
    assert float(found.raw.max()) > 0
