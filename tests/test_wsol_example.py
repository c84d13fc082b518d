"""The example of weakly supervised localization: in its small form it runs, counts as cnnviz counts, finds objects."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

EXAMPLE = Path(__file__).parent.parent / "examples" / "wsol"


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    """Its script; the names of its modules are free again afterwards."""
    pytest.importorskip("sklearn.datasets", reason="needs pip install 'cnnviz[embed]'")
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        import run

        yield run
    for name in {"run", "scenes", "digits", "tables"} - before:
        sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scenes", "digits"])
def test_the_small_form(name: str, example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    found = example.main([name, "--small", "--folder", str(tmp_path / "work"), "--out", str(out)])
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    tables = capsys.readouterr().out
    assert "| GAP, CAM |" in tables
    assert "GAP over GMP, boxes that fit at 20 %:" in tables
    located = found["localization"]
    assert located.keys() == {
        "gap cam", "gap saliency", "gap centre_box", "gmp cam", "gmp saliency", "gmp centre_box", "fc saliency",
        "fc centre_box",
    }  # fmt: skip
    for head in ("gap", "gmp"):
        report = json.loads((tmp_path / "work" / f"maps-{head}-0" / "report.json").read_text())
        told = report["summary"]["localization"]["cam"]
        tested = [row for row in report["images"] if "/test/" in row["path"]]
        boxes = [row["explanations"][0]["scores"]["box_localization"]["iou"] >= 0.5 for row in tested]
        assert located[f"{head} cam"]["gt_known_error"]["value"] == pytest.approx(1 - np.mean(boxes), abs=1e-4)
        assert told["gt_known_accuracy"]["n"] == len(report["images"])
    if name == "scenes":
        for head in ("gap", "gmp"):  # its map points at the object more often than a box in the centre does
            assert located[f"{head} cam"]["pointing_error"]["ci95"][1] < 0.6
            assert located[f"{head} centre_box"]["pointing_error"]["ci95"][0] > 0.6
        assert located["gap cam"]["gt_known_error"]["value"] < located["gap centre_box"]["gt_known_error"]["value"]
    else:
        assert "the map of the 9" in tables
        assert [rate["n"] for rate in found["nine"]["gap"]] == [8]


def test_boxes_are_around_what_was_drawn(example: Any) -> None:
    """The object's noise, texture and colours lie in the box, and the same background alone does not differ there."""
    scenes = sys.modules["scenes"]
    for seed in range(5):
        pixels, box = scenes.scene("checks", np.random.default_rng(seed))
        # The same numbers up to the texture: outline and background are drawn first.
        rng = np.random.default_rng(seed)
        scenes.outline(rng)
        plain = np.clip(np.rint(scenes.background(rng)), 0, 255)
        rows, columns = np.nonzero((np.abs(pixels - plain) > 3).any(axis=2))
        found = [columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1]
        assert np.abs(np.array(found) - box).max() <= 2


def test_the_truth_of_ten_digits(example: Any, tmp_path: Path) -> None:
    sys.modules["digits"].write(tmp_path / "d", {"train": 1, "val": 1, "test": 1, "ten": 3})
    truth = json.loads((tmp_path / "d" / "ten.json").read_text())
    assert [image["file_name"] for image in truth["images"]] == [f"ten/{number}.png" for number in range(3)]
    for image in range(3):
        mine = [each for each in truth["annotations"] if each["image_id"] == image]
        assert sorted(each["category_id"] for each in mine) == list(range(10))
        canvas = np.zeros((160, 160), int)
        for x, y, width, height in (each["bbox"] for each in mine):
            canvas[y : y + height, x : x + width] += 1
        assert canvas.max() == 1  # they do not overlap
    with Image.open(tmp_path / "d" / "ten" / "0.png") as picture:
        assert picture.size == (160, 160)
