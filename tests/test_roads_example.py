"""The example of roads: labels are where things are drawn; in its small form it runs and counts as cnnviz counts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

EXAMPLE = Path(__file__).parent.parent / "examples" / "roads"


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    """Its script; the names of its modules are free again afterwards."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        import run

        yield run
    for name in {"run", "road_scenes", "road_network"} - before:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_the_small_form(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work, out = tmp_path / "work", tmp_path / "found.json"
    found = example.main(["--small", "--folder", str(work), "--out", str(out)])
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    assert "| class | IoU |" in capsys.readouterr().out
    assert min(found["iou"][label] for label in ("background", "asphalt", "unpaved")) > 0.75
    form, scenes = example.SMALL, sys.modules["road_scenes"]
    network = sys.modules["road_network"].build_small().eval()
    network.load_state_dict(torch.load(work / "unet.pth", weights_only=True))
    # Areas of regions, as the network gives them here.
    rgb = np.stack([scenes.scene(example.TESTED + number, form.size)[0] for number in range(form.shown)])
    with torch.no_grad():
        said = network((torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.25).argmax(1).numpy()
    shares = (said == scenes.ASPHALT).mean((1, 2))
    row = found["evidence"]["HiResCAM"]["asphalt"]
    assert row["regions"] == (shares > 0).sum()
    assert row["own area"] == pytest.approx(shares[shares > 0].mean(), abs=1e-4)
    # An attack changes more than noise of its size; what it changed stands in its files.
    attacks = {each["attack"]: each for each in found["attacks"]}
    assert attacks["pgd"]["changed"] > 3 * attacks["noise"]["changed"]
    changed = []
    for record in json.loads((work / "pgd-4" / "report.json").read_text())["images"]:
        with np.load(work / "pgd-4" / record["files"]["predictions"]) as stored:
            changed.append((stored["before"] != stored["after"]).mean())
    assert attacks["pgd"]["changed"] == pytest.approx(np.mean(changed), abs=1e-6)
    assert found["synthesized"]["asphalt"] > 0.5


@pytest.mark.parametrize("seed", range(6))
def test_labels_are_where_things_are_drawn(example: Any, seed: int) -> None:
    """Marks are light, potholes darker than their road, and everything but the background is one road, widening."""
    scenes = sys.modules["road_scenes"]
    rgb, classes = scenes.scene(seed)
    again, same = scenes.scene(seed)
    assert np.array_equal(rgb, again)
    assert np.array_equal(classes, same)
    light = rgb.astype(float).mean(axis=2)
    if (classes == scenes.MARKING).any():
        assert light[classes == scenes.MARKING].mean() > light[classes == scenes.ASPHALT].mean() + 40
    for dark in (scenes.POTHOLE, scenes.CRACK):
        surface = np.isin(classes, (scenes.ASPHALT, scenes.PAVED, scenes.UNPAVED))
        if (classes == dark).sum() > 12:
            assert light[classes == dark].mean() < light[surface].mean() - 10
    road = classes != scenes.BACKGROUND
    assert not road[: int(0.25 * len(road))].any()
    widths = road.sum(axis=1)
    assert widths[-1] > 2 * widths[len(road) // 2] > 0
