"""``cnnviz synthesize`` of segmentation networks: the mean logit of a region is what grows, and what is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.geometry.regions import Length, Region
from cnnviz.models.loading.load import load
from cnnviz.models.preprocess import normalize
from cnnviz.settings import ModelSpec
from cnnviz.synthesis.augmentation import Augmentation, Views
from cnnviz.synthesis.objectives import Objective, Term
from cnnviz.synthesis.reader import Reading
from tests.support import segment_network
from tests.support.runs import TINY, ran

PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
COLOURS = ModelSpec(model=f"{segment_network.__file__}:make", input_size=(3, 32, 64), resize=32, **PLAIN)
UNET = ModelSpec(model=f"{segment_network.__file__}:unet", input_size=(3, 24, 32), view="squash", **PLAIN)
STILL = {"jitter": 0, "rotate": 0.0, "zoom": 0.0, "l2": 0.0, "tv": 0.0, "steps": 12}


def run(out: Path, model: ModelSpec, classes: tuple[str, ...], targets: tuple[str, ...] = (), **params: Any) -> Any:
    report, result, _ = ran(
        "synthesize", (), out, model=model, classes=classes, targets=targets, params={**STILL, **params}, device="cpu"
    )
    assert result.exit_code == 0
    return report


def seen(out: Path, row: dict[str, Any], model: ModelSpec) -> Tensor:
    """The logits [K, h, w] of the written image."""
    loaded = load(model)
    pixels = torch.from_numpy(np.array(Image.open(out / row["files"]["image"]))).permute(2, 0, 1)[None]
    with torch.no_grad():
        found = loaded.module.eval()(normalize(pixels, loaded.preprocess))
    logits: Tensor = (found["out"] if isinstance(found, dict) else found)[0]
    return logits


@pytest.mark.parametrize("box", [None, (8, 4, 12, 16)])
def test_the_score_is_the_mean_logit_of_the_written_image(
    tmp_path: Path, box: tuple[int, int, int, int] | None
) -> None:
    asked = ("1",), ()
    inside = np.s_[:, :]
    if box is not None:
        x, y, width, height = box
        asked, inside = ((), (f"class:1@box:{x},{y},{width},{height}",)), np.s_[y : y + height, x : x + width]
    report = run(tmp_path, UNET, *asked)
    [row] = report["synthesized"]
    logits = seen(tmp_path, row, UNET)
    assert row["score"] == pytest.approx(float(logits[1][inside].mean()), rel=1e-4)
    assert row["score"] > row["scores"][0]
    [region] = row["regions"]
    assert region["predicted_share"] == pytest.approx(float((logits.argmax(0)[inside] == 1).float().mean()), abs=1e-6)
    assert region["region_area"] == pytest.approx(1.0 if box is None else 12 * 16 / (24 * 32))
    assert row["terms"][0].get("region") == (None if box is None else "box:8,4,12,16")
    assert (tmp_path / row["files"]["prediction"]).stat().st_size > 0


def test_a_class_everywhere_and_one_in_a_part(tmp_path: Path) -> None:
    """The mean logit of red is the red of the pixels: the ascent makes them red, in the region alone."""
    options = {"steps": 60, "param": "pixel", "blur": 0.0, "rate": 0.05}
    [row] = run(tmp_path / "a", COLOURS, ("1",), **options)["synthesized"]
    assert row["regions"] == [{"label": "class 1", "class_index": 1, "region_area": 1.0, "predicted_share": 1.0}]
    assert row["caption"].endswith("100.0 % seen as class 1")
    both = ("class:1@box:0,0,50%,100%", "class:3@box:50%,0,50%,100%")
    [row] = run(tmp_path / "b", COLOURS, (), both, **options)["synthesized"]
    assert [region["predicted_share"] for region in row["regions"]] == [1.0, 1.0]
    rgb = np.array(Image.open(tmp_path / "b" / row["files"]["image"])).astype(float)
    assert rgb[:, :28, 0].mean() > 200 > 160 > rgb[:, 36:, 0].mean()
    assert rgb[:, 36:, 2].mean() > 200 > 160 > rgb[:, :28, 2].mean()


def test_a_region_moves_with_the_view(tmp_path: Path) -> None:
    """Shifts, turns and zooms of the view show the region where its pixels are."""
    how = {"jitter": 9, "rotate": 30.0, "zoom": 0.3, "steps": 80, "param": "pixel", "blur": 0.0, "rate": 0.1}
    [row] = run(tmp_path, COLOURS, (), ("class:1@box:8,8,16,16",), **how)["synthesized"]
    red = np.array(Image.open(tmp_path / row["files"]["image"])).astype(float)[:, :, 0]
    apart = red.copy()
    apart[4:28, 4:28] = np.nan
    assert red[8:24, 8:24].mean() > np.nanmean(apart) + 60
    views = Views((32, 64), Augmentation(9, 30.0, 0.3), [1, 2], 3, torch.device("cpu"))
    mask = torch.zeros(1, 1, 32, 64)
    mask[..., 8:24, 8:24] = 1
    for step in range(3):
        moved = views.moved(mask, step)
        canvas = torch.zeros(2, 1, 50, 82)
        canvas[..., 17:33, 17:33] = 1
        assert torch.equal(moved, views(canvas, step))


def test_the_mean_of_a_region_is_weighted_by_area() -> None:
    """A box that cuts cells of four pixels counts each by the share of it that lies inside."""
    torch.manual_seed(0)
    scores, leaf = torch.randn(2, 3, 4, 6), torch.zeros(2, 3, 16, 24)
    region = Region("box", tuple(Length(value) for value in (2, 4, 9, 6)))
    objective = Objective([Term("class", 2, region=region)], None, ())
    pixels = nn.functional.interpolate(scores[:, 2:], (16, 24), mode="nearest")[:, 0]
    expected = pixels[:, 4:10, 2:11].mean((1, 2))
    torch.testing.assert_close(objective(Reading(leaf, scores, ())), expected)


@pytest.mark.parametrize(
    ("model", "targets", "inputs", "message"),
    [
        (UNET, ("class:1@pred",), (), "has no prediction, no mask and no truth"),
        (UNET, ("segment:1",), (), "has no prediction, no mask and no truth"),
        (UNET, ("unit:bottom:1",), (), "expected a class in a region of the input"),
        (UNET, ("class:1@all",), ("x.png",), "images are made from noise"),
        (TINY, ("class:1",), (), "is of networks with scores at positions"),
    ],
)
def test_what_cannot_be_made(
    tmp_path: Path, model: ModelSpec, targets: tuple[str, ...], inputs: tuple[str, ...], message: str
) -> None:
    Image.new("RGB", (32, 24)).save(tmp_path / "x.png")
    names = [tmp_path / name for name in inputs]
    with pytest.raises(CnnvizError, match=message):
        ran("synthesize", names, tmp_path / "out", model=model, targets=targets, classes=(), device="cpu")


def test_the_command_line_takes_regions(tmp_path: Path) -> None:
    words = ["-m", f"{segment_network.__file__}:unet", "--input-size", "24,32", "--steps", "2", "-q", "-o", tmp_path]
    assert main(["synthesize", *map(str, words), "-t", "class:2@point:50%,50%", "-c", "1", "--each"]) == 0
    names = sorted(path.name for path in tmp_path.glob("class_*.png"))
    assert names == [
        "class_1.png", "class_1.prediction.png", "class_2-at-point-50pc-50pc.png",
        "class_2-at-point-50pc-50pc.prediction.png",
    ]  # fmt: skip
